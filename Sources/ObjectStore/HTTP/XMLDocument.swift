// XML as targets speak it: read with XMLCoder, written by hand. Every limit on it is the answer's size limit.

import Foundation
import XMLCoder

enum XMLDocument {
    /// Nil for what is not that document.
    static func read<Document: Decodable>(_ type: Document.Type, _ body: [UInt8]) -> Document? {
        guard body.contains(UInt8(ascii: "<")) else { return nil }
        return try? XMLDecoder(trimValueWhitespaces: false).decode(type, from: Data(body))
    }

    /// By scalars: a combining mark after `<` makes one Character that equals neither.
    static func escaped(_ text: String) -> String {
        var result = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result.append(contentsOf: "&amp;".unicodeScalars)
            case "<": result.append(contentsOf: "&lt;".unicodeScalars)
            case ">": result.append(contentsOf: "&gt;".unicodeScalars)
            case "\"": result.append(contentsOf: "&quot;".unicodeScalars)
            default: result.append(scalar)
            }
        }
        return String(result)
    }
}
