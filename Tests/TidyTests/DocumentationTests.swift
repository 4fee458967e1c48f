// The reference pages name what the program has, and every relative link of the documentation leads somewhere.

import Foundation
import Testing

@Suite struct DocumentationTests {
    @Test func everyCommandIsInTheReference() throws {
        let types = try commandTypes()
        let root = try #require(types["Farshore"])
        let leaves = paths(below: root, in: types)
        #expect(leaves.count >= 20)
        let page = try SourceTree.text("docs/reference/commands.md")
        let documented = page.matches(of: #/(?m)^## `(farshore(?: [a-z-]+)+)/#).map { String($0.1) }
        for path in leaves { #expect(documented.contains(path), "docs/reference/commands.md says nothing of `\(path)`") }
        for path in documented { #expect(leaves.contains(path), "docs/reference/commands.md describes `\(path)`, which does not exist") }
    }

    /// On pages for people who type: the command exists, and so do its options.
    @Test func everyCommandAPageShowsExists() throws {
        let types = try commandTypes()
        let root = try #require(types["Farshore"])
        let known = Set(root.subcommands.compactMap { types[$0]?.name } + ["help"])
        let reference = try SourceTree.text("docs/reference/commands.md")
        let ofEveryCommand: Set<String> = ["--help", "--version", "--generate-completion-script"]
        for page in pages() where !page.hasPrefix("docs/formats/") && !page.hasPrefix("docs/decisions/") {
            for line in shownCommands(try SourceTree.text(page)) {
                let words = line.components(separatedBy: " && ")[0].split(whereSeparator: { " `…;#".contains($0) }).map(String.init)
                guard words.count > 1, words[0] == "farshore" else { continue }
                if !words[1].hasPrefix("-") { #expect(known.contains(words[1]) || words[1] == "COMMAND", "\(page): \(line)") }
                for option in words where option.hasPrefix("--") && !ofEveryCommand.contains(option) {
                    let isDocumented = reference.contains("`" + option)
                    #expect(isDocumented, "\(page) shows \(option): \(line)")
                }
            }
        }
    }

    @Test func everyExitStatusIsInTheTable() throws {
        let source = try SourceTree.text("Sources/farshore/Options/Failure.swift")
        let cases = source.matches(of: #/(?m)^    case (\w+) = (\d+)$/#).map { (name: String($0.1), number: String($0.2)) }
        #expect(cases.count >= 12)
        let rows = try SourceTree.text("docs/reference/exit-statuses.md")
            .matches(of: #/(?m)^\| (\d+) \| `(\w+)` \| (.+) \|$/#).map { (number: String($0.1), name: String($0.2)) }
        #expect(rows.map(\.number) == cases.map(\.number))
        #expect(rows.map(\.name) == cases.map(\.name))
    }

    @Test func everyKeyOfAJSONDocumentIsNamed() throws {
        let page = try SourceTree.text("docs/reference/json.md")
        let words = Set(page.split { !$0.isLetter && !$0.isNumber }.map(String.init))
        var count = 0
        for file in try SourceTree().files where file.room == "farshore" && !file.isTest {
            for (index, line) in file.lines.enumerated() where line.contains(#/struct \w+: Encodable \{$/#) {
                let indent = String(line.prefix { $0 == " " })
                for member in file.lines[(index + 1)...].prefix(while: { $0 != indent + "}" }) {
                    guard member.hasPrefix(indent + "    let "), let name = member.firstMatch(of: #/let (\w+):/#)?.1 else { continue }
                    count += 1
                    #expect(words.contains(String(name)), "docs/reference/json.md does not name \(name) of \(file.path)")
                }
            }
        }
        #expect(count > 60)
    }

    @Test func everyRelativeLinkResolves() throws {
        for page in pages() {
            let folder = SourceTree.root.appending(path: page).deletingLastPathComponent()
            for match in withoutCodeBlocks(try SourceTree.text(page)).matches(of: #/\]\(([^)\s]+)\)/#) {
                let link = String(match.1)
                if link.contains("://") || link.hasPrefix("mailto:") { continue }
                let parts = link.split(separator: "#", omittingEmptySubsequences: false).map(String.init)
                let target = parts[0].isEmpty ? SourceTree.root.appending(path: page) : folder.appending(path: parts[0]).standardizedFileURL
                let isThere = FileManager.default.fileExists(atPath: target.path)
                #expect(isThere, "\(page) links to \(link)")
                guard isThere, parts.count > 1 else { continue }
                let anchors = withoutCodeBlocks(try String(contentsOf: target, encoding: .utf8)).matches(of: #/(?m)^#+ (.+)$/#).map { anchor(String($0.1)) }
                #expect(anchors.contains(parts[1]), "\(page) links to \(link), where no such heading is")
            }
        }
    }

    /// A heading's anchor as forges make it.
    private func anchor(_ heading: String) -> String {
        String(heading.lowercased().compactMap { $0 == " " ? "-" : $0.isLetter || $0.isNumber || $0 == "-" || $0 == "_" ? $0 : nil })
    }

    @Test func everySourceFileAPageNamesExists() throws {
        for page in pages() {
            for match in try SourceTree.text(page).matches(of: #/\b(?:Sources|Tests|examples)/[A-Za-z0-9_\/.+-]*[A-Za-z0-9]/#) {
                let path = String(match.0)
                #expect(FileManager.default.fileExists(atPath: SourceTree.root.appending(path: path).path), "\(page) names \(path)")
            }
        }
    }

    // MARK: - commands, read from the sources as text

    private struct Command {
        let name: String
        let subcommands: [String]
        let isShown: Bool
    }

    /// Every `ParsableCommand` by its type's name; a file may hold several.
    private func commandTypes() throws -> [String: Command] {
        var found: [String: Command] = [:]
        for file in try SourceTree().files where file.room == "farshore" && !file.isTest {
            let text = file.lines.joined(separator: "\n")
            let starts = text.ranges(of: #/struct \w+: ParsableCommand/#).map(\.lowerBound) + [text.endIndex]
            for (start, end) in zip(starts, starts.dropFirst()) {
                let part = text[start..<end]
                let type = try #require(part.firstMatch(of: #/struct (\w+)/#))
                let name = try #require(part.firstMatch(of: #/commandName: "([a-z-]+)"/#), "\(file.path): \(type.1) states no name")
                let list = part.firstMatch(of: #/subcommands: \[([^\]]*)\]/#)?.1 ?? ""
                found[String(type.1)] = Command(
                    name: String(name.1), subcommands: list.matches(of: #/(\w+)\.self/#).map { String($0.1) },
                    isShown: !part.contains("shouldDisplay: false"))
            }
        }
        return found
    }

    /// `farshore vault create` and so on: commands without subcommands that help shows.
    private func paths(below command: Command, in types: [String: Command], prefix: String = "") -> [String] {
        guard command.isShown else { return [] }
        let path = prefix + command.name
        guard !command.subcommands.isEmpty else { return [path] }
        return command.subcommands.flatMap { name in
            types[name].map { paths(below: $0, in: types, prefix: path + " ") } ?? [path + " " + name + " (no such type)"]
        }
    }

    // MARK: - pages

    private func pages() -> [String] { ["README.md"] + SourceTree.paths(under: "docs", endingIn: ".md") + SourceTree.paths(under: "examples", endingIn: ".md") }

    private func withoutCodeBlocks(_ text: String) -> String {
        text.components(separatedBy: "\n```").enumerated().filter { $0.offset % 2 == 0 }.map(\.element).joined(separator: "\n")
    }

    /// Command lines in code blocks (after `$ `, or every line of a block without prompts), and in code spans.
    private func shownCommands(_ text: String) -> [String] {
        let blocks = text.components(separatedBy: "\n```").enumerated().filter { $0.offset % 2 == 1 }.map { $0.element.components(separatedBy: "\n") }
        let typed = blocks.flatMap { lines in
            let prompted = lines.filter { $0.hasPrefix("$ ") }.map { String($0.dropFirst(2)) }
            return prompted.isEmpty ? lines : prompted
        }
        return typed + withoutCodeBlocks(text).matches(of: #/`(farshore [^`]+)`/#).map { String($0.1) }
    }
}
