// What the program tells people to type exists: each `farshore …` in a text of it is a command of the reference, with the words it cannot do without.

import Foundation
import Testing

@Suite struct RemedyTests {
    /// A command of docs/reference/commands.md, which another test compares with the program.
    private struct Known {
        /// Positional arguments that it needs.
        let words: [String]
        let options: Set<String>
        let required: Set<String>
    }

    @Test func everyCommandThatATextNamesExistsAndHasItsWords() throws {
        let known = try known()
        #expect(known.count > 80)
        var count = 0
        for (place, text) in try texts() {
            for told in text.matches(of: #/(?<mark>`?)\bfarshore (?<rest>[a-z].*)/#) {
                // Each mention is looked at from where it begins.
                for piece in String(told.rest).components(separatedBy: "farshore ") {
                    guard let flaw = flaw(of: piece, isMention: told.mark == "`", known) else { continue }
                    Issue.record("\(place): farshore \(piece): \(flaw)")
                }
                count += 1
            }
        }
        #expect(count > 200)
    }

    @Test func whatIsWrongIsFound() throws {
        let known = try known()
        for (text, words) in [
            ("failover cancle X", "no such command"), ("mount DIR, and farshore", nil), ("failback start, which compares", "lacks UNIT"), ("failback start --image-folder with another", "lacks UNIT"),
            ("failback start X --image-folders with", "--image-folders"), ("plan run NAME", "lacks --kind"), ("plan run NAME --kind test --vault URL", nil), ("resume X; then", nil),
            ("failover X", "no such command"), ("machine set --help", nil),
        ] as [(String, String?)] {
            let found = flaw(of: text, isMention: false, known)
            #expect(words == nil ? found == nil : found?.contains(words ?? "") == true, "\(text): \(found ?? "nothing found")")
        }
    }

    /// `rest`: what stands after `farshore `.
    private func flaw(of rest: String, isMention: Bool, _ known: [String: Known]) -> String? {
        let words = rest.prefix { $0.isLowercase || $0 == "-" || $0 == " " }.split(separator: " ").map(String.init)
        guard let first = words.first, !first.hasPrefix("-") else { return nil }
        guard known.keys.contains(where: { $0 == first || $0.hasPrefix(first + " ") }) else { return Self.prose.contains(first) ? nil : "no such command" }
        let name = (1...min(3, words.count)).map { words.prefix($0).joined(separator: " ") }.last { known[$0] != nil }
        guard let name, let command = known[name] else { return rest.contains("--help") ? nil : "no such command" }
        let told = rest.dropFirst(name.count).prefix { !";,`)\"".contains($0) }.components(separatedBy: " then ")[0]
        guard !told.contains("--help"), !told.hasPrefix(" 1\\n") else { return nil }
        for option in told.matches(of: #/--[a-z][a-z-]*/#).map({ String($0.0) }) where !command.options.contains(option) { return "no option \(option)" }
        // In the marks of a name it is spoken of, and nobody is told to type it.
        guard !isMention else { return nil }
        let given = told.split(separator: " ").prefix { Self.isArgument($0) }.filter { !$0.hasPrefix("-") }
        if let needed = command.words.first, given.isEmpty { return "it lacks \(needed)" }
        if let needed = command.required.sorted().first(where: { !told.contains($0) }) { return "it lacks \(needed)" }
        return nil
    }

    private static func isArgument(_ word: Substring) -> Bool { word.hasPrefix("-") || word.first?.isUppercase == true || word.contains(where: { ":…/<".contains($0) }) }

    /// Words of sentences about the program, and of files that it marks as its own.
    private static let prose: Set<String> = [
        "again", "change", "does", "failed", "for", "freeze", "holds", "is", "key", "keys", "mount", "needs", "object", "of", "publishing", "recovery", "registration", "replicated", "sequence", "sequences", "serves", "that",
    ]

    private func known() throws -> [String: Known] {
        var found: [String: Known] = [:]
        for section in try SourceTree.text("docs/reference/commands.md").components(separatedBy: "\n## ").dropFirst() {
            guard let head = section.firstMatch(of: #/^`farshore(?<path>(?: [a-z-]+)+)(?<words>(?: [^`]+)?)`/#) else { continue }
            let rows = section.matches(of: #/(?m)^\| `(?<name>--[a-z-]+)[^`]*` \| (?<meaning>.*) \|$/#)
            found[head.path.trimmingCharacters(in: .whitespaces)] = Known(
                words: head.words.split(separator: " ").map(String.init).filter { !$0.hasPrefix("[") }, options: Set(rows.map { String($0.name) } + ["--site", "--json"]),
                required: Set(rows.filter { $0.meaning.hasSuffix("Required.") }.map { String($0.name) }))
        }
        return found
    }

    /// Lines with texts in one line: what a help page shows as an example is checked by another test. What is put in stands as X.
    private func texts() throws -> [(place: String, text: String)] {
        var found: [(String, String)] = []
        for file in try SourceTree().files where !file.isTest {
            var isBlock = false
            for (number, line) in file.lines.enumerated() {
                if line.components(separatedBy: "\"\"\"").count % 2 == 0 { isBlock.toggle() }
                let text = line.trimmingCharacters(in: .whitespaces)
                guard !isBlock, text.contains("farshore "), text.contains("\""), !text.hasPrefix("//"), !text.contains("Example:") else { continue }
                found.append(("\(file.path):\(number + 1)", withoutInterpolations(text)))
            }
        }
        return found
    }

    private func withoutInterpolations(_ text: String) -> String {
        var (kept, depth) = ("", 0)
        var rest = Substring(text)
        while let character = rest.first {
            if depth == 0, rest.hasPrefix("\\(") {
                kept += "X"
                depth = 1
                rest = rest.dropFirst(2)
                continue
            }
            if depth > 0 { depth += character == "(" ? 1 : character == ")" ? -1 : 0 } else { kept.append(character) }
            rest = rest.dropFirst()
        }
        return kept
    }
}
