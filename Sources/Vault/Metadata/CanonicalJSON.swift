// The JSON of the vault: sorted keys, no white space (docs/formats/vault.md section 1). Decoding never trusts: the
// bytes were authenticated before, and still every field is checked by its type.

import Foundation

enum CanonicalJSON {
    static func encode(_ document: some Encodable) throws(VaultError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            return Array(try encoder.encode(document))
        } catch {
            throw .refused("cannot write \(type(of: document)) as JSON: \(error)")
        }
    }

    /// Refuses a document whose `format` is none of these before it looks at anything else.
    static func decode<Document: Decodable>(
        _ type: Document.Type, _ bytes: [UInt8], object: String, formats: ClosedRange<Int> = FormatLimits.formatVersion...FormatLimits.formatVersion
    ) throws(VaultError) -> Document {
        let data = Data(bytes)
        do {
            let version = try JSONDecoder().decode(Version.self, from: data).format
            guard formats.contains(version) else {
                throw VaultError.unsupportedVersion(object: object, found: "format \(version)")
            }
            return try decodePart(type, bytes, object: object)
        } catch let error as VaultError {
            throw error
        } catch let error as DecodingError {
            throw .damaged(object: object, reason: reason(error))
        } catch {
            throw .damaged(object: object, reason: "its JSON cannot be read")
        }
    }

    /// JSON inside of an object, which has no `format` of its own.
    static func decodePart<Document: Decodable>(_ type: Document.Type, _ bytes: [UInt8], object: String) throws(VaultError) -> Document {
        do {
            return try JSONDecoder().decode(type, from: Data(bytes))
        } catch let error as DecodingError {
            throw .damaged(object: object, reason: reason(error))
        } catch {
            throw .damaged(object: object, reason: "its JSON cannot be read")
        }
    }

    private struct Version: Decodable {
        let format: Int
    }

    private static func reason(_ error: DecodingError) -> String {
        func path(_ context: DecodingError.Context) -> String { context.codingPath.map(\.stringValue).joined(separator: ".") }
        return switch error {
        case .keyNotFound(let key, let context): "its JSON lacks \"\(key.stringValue)\" in \"\(path(context))\""
        case .typeMismatch(_, let context), .valueNotFound(_, let context): "its JSON has a wrong type at \"\(path(context))\""
        case .dataCorrupted(let context): "its JSON is wrong at \"\(path(context))\": \(context.debugDescription)"
        @unknown default: "its JSON cannot be read"
        }
    }
}
