// Every promise in docs/SEMANTICS.md has an id and at least one test that quotes it word for word.

import Foundation
import Testing

@Suite struct SemanticsTests {
    @Test func everyPromiseIsQuotedByATest() throws {
        let promises = try promises()
        #expect(promises.count >= 12)
        let tests = try (SourceTree.paths(under: "Tests", endingIn: ".swift") + SourceTree.paths(under: "Tests", endingIn: ".py"))
            .map { flattened(try SourceTree.text($0)) }
        for (id, words) in promises {
            let quote = "Promise \(id): " + words
            #expect(tests.contains { $0.contains(quote) }, "no test quotes \"\(quote)\"")
        }
    }

    @Test func noTestQuotesAPromiseThatIsNotMade() throws {
        let known = Set(try promises().map(\.0))
        let paths = SourceTree.paths(under: "Tests", endingIn: ".swift") + SourceTree.paths(under: "Tests", endingIn: ".py")
        for path in paths where !path.contains("TidyTests") {
            for match in try SourceTree.text(path).matches(of: #/Promise ([A-Z][0-9]+): /#) {
                #expect(known.contains(String(match.1)), "\(path) quotes \(match.1)")
            }
        }
    }

    /// Lines of the form `**D1** sentence.`; a promise may run over several lines, up to an empty one.
    private func promises() throws -> [(String, String)] {
        let text = try SourceTree.text("docs/SEMANTICS.md")
        return text.matches(of: #/(?m)^\*\*([A-Z][0-9]+)\*\* ((?:.+\n)+)/#).map { match in
            (String(match.1), flattened(String(match.2)))
        }
    }

    /// Comment marks and line breaks do not count when a sentence is compared.
    private func flattened(_ text: String) -> String {
        text.components(separatedBy: "\n")
            .map { $0.trimmingCharacters(in: .whitespaces) }
            .map { $0.hasPrefix("///") ? String($0.dropFirst(3)) : $0.hasPrefix("//") ? String($0.dropFirst(2)) : $0.hasPrefix("#") ? String($0.dropFirst(1)) : $0 }
            .map { $0.trimmingCharacters(in: .whitespaces) }
            .joined(separator: " ").trimmingCharacters(in: .whitespaces)
    }
}
