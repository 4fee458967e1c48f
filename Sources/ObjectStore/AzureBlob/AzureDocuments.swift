// The XML documents of Azure Blob Storage.

struct AzureErrorBody: Decodable {
    let Code: String
    let Message: String?
}

struct AzureListBody: Decodable {
    struct Blobs: Decodable {
        let Blob: [Blob]?
    }

    struct Blob: Decodable {
        let Name: Name
        let Properties: Properties
    }

    /// A name that XML cannot hold comes percent-encoded.
    struct Name: Decodable {
        let isEncoded: Bool?
        let text: String

        enum CodingKeys: String, CodingKey {
            case isEncoded = "Encoded"
            case text = ""
        }

        var decoded: String? { isEncoded == true ? percentDecoded(text) : text }
    }

    struct Properties: Decodable {
        let sizeBytes: UInt64
        /// `directory` in an account with a hierarchical namespace.
        let resourceType: String?

        enum CodingKeys: String, CodingKey {
            case sizeBytes = "Content-Length"
            case resourceType = "ResourceType"
        }
    }

    let Blobs: Blobs
    let NextMarker: String?
}

enum AzureDocuments {
    /// `Latest`: another writer of the same bytes may have committed the blocks meanwhile.
    static func blockList(_ ids: [String]) -> [UInt8] {
        Array("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>\(ids.map { "<Latest>\($0)</Latest>" }.joined())</BlockList>".utf8)
    }
}
