// `--json`: one document a command, described in docs/reference/json.md.

import ArgumentParser
import Foundation

struct OutputOptions: ParsableArguments {
    @Flag(name: .long, help: "Print one JSON document instead of text.")
    var json = false

    /// Prints `document` as JSON, or what `text` makes of it.
    func print<Document: Encodable>(_ document: Document, text: (Document) -> String) throws {
        guard json else {
            Swift.print(text(document))
            return
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        encoder.dateEncodingStrategy = .iso8601
        Swift.print(String(decoding: try encoder.encode(document), as: UTF8.self))
    }
}
