// Files and functions stay small enough to be read in one sitting.

import Testing

@Suite struct SizeTests {
    let fileLinesMax = 500
    let testFileLinesMax = 600
    let functionLinesMax = 60

    @Test func files() throws {
        for file in try SourceTree().files {
            let limit = file.isTest ? testFileLinesMax : fileLinesMax
            #expect(file.lines.count <= limit, "\(file.path) has \(file.lines.count) lines")
        }
    }

    @Test func functions() throws {
        for file in try SourceTree().files where !file.isTest {
            for (name, lines) in functions(in: file.lines) {
                #expect(lines <= functionLinesMax, "\(file.path): \(name) has \(lines) lines")
            }
        }
    }

    /// A function ends at the closing brace in the column where it began.
    private func functions(in lines: [String]) -> [(String, Int)] {
        var found: [(String, Int)] = []
        for (start, line) in lines.enumerated() {
            let text = line.drop { $0 == " " }
            let words = text.split(separator: " ").map(String.init)
            guard words.contains("func") || words.contains(where: { $0.hasPrefix("init(") }) || text.hasPrefix("deinit"),
                !text.hasPrefix("//"), !text.hasSuffix("}") else { continue }
            let close = String(repeating: " ", count: line.count - text.count) + "}"
            let end = lines[(start + 1)...].firstIndex { $0 == close || $0.hasPrefix(close + " ") }
            // A protocol's requirement has no body; the next brace at its column belongs to nobody.
            if let end, lines[start...end].contains(where: { $0.hasSuffix("{") }) { found.append((String(text.prefix(60)), end - start + 1)) }
        }
        return found
    }
}
