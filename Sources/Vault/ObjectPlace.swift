// Where each kind of object lies (docs/formats/vault.md section 2) and the place string its seal is bound to.

package enum ObjectKind: UInt8, Sendable, CaseIterable {
    case catalog = 1
    case host = 2
    case head = 3
    case manifest = 4
    case mapPage = 5
    case segment = 6
    case chunk = 7
    case collectionList = 8
    case audit = 9
    case keptPoints = 10

    var plaintextBytesMax: Int {
        switch self {
        case .catalog, .host, .head, .manifest, .collectionList, .audit, .keptPoints: FormatLimits.metadataBytesMax
        case .mapPage: FormatLimits.pageBytesMax
        case .segment: FormatLimits.segmentPlaintextBytesMax
        case .chunk: FormatLimits.chunkBytes
        }
    }
}

package struct ObjectPlace: Hashable, Sendable {
    package let kind: ObjectKind
    /// The object's key below the vault.
    package let key: String
    /// What the seal is bound to, without the vault id: the key, except for chunks.
    let boundTo: String

    init(_ kind: ObjectKind, _ key: String, boundTo: String? = nil) {
        self.kind = kind
        self.key = key
        self.boundTo = boundTo ?? key
    }

    package static func catalog(_ number: UInt64) -> ObjectPlace { ObjectPlace(.catalog, "catalog/\(padded(number))") }
    package static func head(group: VaultID, _ number: UInt64) -> ObjectPlace { ObjectPlace(.head, "heads/\(group)/\(padded(number))") }

    package static func host(_ host: VaultID, _ number: UInt64) -> ObjectPlace { ObjectPlace(.host, "hosts/\(host)/\(padded(number))") }

    package static func audit(_ number: UInt64) -> ObjectPlace { ObjectPlace(.audit, "audit/\(padded(number))") }

    package static func manifest(disk: VaultID, lineage: VaultID, sequence: UInt64) -> ObjectPlace {
        ObjectPlace(.manifest, "disks/\(disk)/\(lineage)/manifests/\(padded(sequence))")
    }

    package static func segment(disk: VaultID, lineage: VaultID, first: UInt64, last: UInt64) -> ObjectPlace {
        ObjectPlace(.segment, "disks/\(disk)/\(lineage)/segments/\(padded(first))-\(padded(last))")
    }

    package static func keptPoints(disk: VaultID, _ id: Hash256) -> ObjectPlace { ObjectPlace(.keptPoints, "disks/\(disk)/kept/\(id)") }

    package static func mapPage(_ id: Hash256) -> ObjectPlace { ObjectPlace(.mapPage, "maps/\(id)") }

    package static func chunk(_ ref: ChunkRef) -> ObjectPlace {
        let id = ref.id.description
        return ObjectPlace(.chunk, "chunks/\(id.prefix(2))/\(id).\(ref.epoch)", boundTo: "chunks/\(id)")
    }

    static let markerKey = "farshore.json"
    /// The same bytes once more, where chunks are kept apart.
    static let chunksMarkerKey = "chunks/farshore.json"
    static func registration(_ id: VaultID) -> String { "hosts/keys/\(id)" }
    static func registrationUse(_ id: VaultID) -> String { "hosts/keys/\(id).used" }
    static func keyObject(_ number: Int) -> String { "keys/\(number)" }

    /// Twenty digits, so that keys sort as their numbers do.
    static func padded(_ number: UInt64) -> String {
        let digits = String(number)
        return String(repeating: "0", count: 20 - digits.count) + digits
    }
}

/// A chunk of disk content: the keyed hash of its plaintext and the collection epoch of its upload.
package struct ChunkRef: Hashable, Sendable {
    package let id: Hash256
    package let epoch: UInt32

    package init(id: Hash256, epoch: UInt32) {
        self.id = id
        self.epoch = epoch
    }
}
