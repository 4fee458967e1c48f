// Names that anybody wrote, as they are shown.

import BlockIO
import Testing

@Suite struct ShownTextTests {
    @Test(arguments: [
        ("a\nb", "a\\u{a}b"), ("\u{1b}[31m", "\\u{1b}[31m"), ("\r\n", "\\u{d}\\u{a}"), ("\0\u{7f}\u{85}\u{9b}", "\\u{0}\\u{7f}\\u{85}\\u{9b}"),
        ("\u{61c}\u{200e}\u{200f}", "\\u{61c}\\u{200e}\\u{200f}"), ("\u{2028}\u{202a}\u{202e}", "\\u{2028}\\u{202a}\\u{202e}"),
        ("\u{2066}x\u{2069}", "\\u{2066}x\\u{2069}"),
    ])
    func whatActsOnTheReaderIsSpelledOut(_ name: String, _ shown: String) {
        #expect(name.shown == shown && shown.shown == shown)
        #expect("\(SystemError(errno: 2, operation: "open", path: name))".hasPrefix(shown + ": cannot open"))
    }

    @Test(arguments: ["", "C:\\vm\\disk.vhd", "базовый диск.vhd", "基盤 👩‍💻.vhd", "می‌خواهم", "e\u{301}", "a b\u{a0}c"])
    func otherNamesStayAsTheyAre(_ name: String) { #expect(Array(name.shown.utf8) == Array(name.utf8)) }
}
