// farshore.json: the one object that says what a location is (docs/formats/vault.md section 3).

import ObjectStore

struct VaultMarker: Codable, Equatable {
    var format = FormatLimits.formatVersion
    var product = "farshore"
    let vault: VaultID
    let cipher: String
    /// How the first key is kept.
    let key: String
    let createdMicros: UInt64
    /// `apart`, with format 2 only: chunks are at another target. Where that is, who opens the vault says: nothing at a target may send
    /// credentials elsewhere.
    private(set) var chunks: String?
    var sha256: String?

    var keepsChunksApart: Bool {
        get { chunks != nil }
        set { (format, chunks) = newValue ? (Self.formatApart, "apart") : (FormatLimits.formatVersion, nil) }
    }

    private static let formatApart = 2

    init(vault: VaultID, cipher: String, key: String, createdMicros: UInt64, keepsChunksApart: Bool) {
        (self.vault, self.cipher, self.key, self.createdMicros) = (vault, cipher, key, createdMicros)
        self.keepsChunksApart = keepsChunksApart
    }

    func encoded() throws(VaultError) -> [UInt8] { try SelfHashed.encode(self, object: ObjectPlace.markerKey) { $0.sha256 = $1 } }

    /// As it is at a place which keeps chunks apart or not.
    static func placed(_ bytes: [UInt8], at store: any ObjectStore) throws(VaultError) -> [UInt8] {
        var marker = try decode(bytes).marker
        guard marker.keepsChunksApart != store.keepsChunksApart else { return bytes }
        marker.keepsChunksApart = store.keepsChunksApart
        return try marker.encoded()
    }

    /// Its bytes, as they are at the target. Where there are none, an empty place is told from one that lost them.
    static func fetch(from store: any ObjectStore) throws(VaultError) -> [UInt8] {
        do throws(StoreError) {
            return try store.get(ObjectPlace.markerKey, range: nil)
        } catch where error.code == .notFound {
            throw .noVault("there is no vault at \(store.location)\(remains(at: store))")
        } catch {
            throw .store(error)
        }
    }

    /// For people; who may not list is told less.
    private static func remains(at store: any ObjectStore) -> String {
        let page: ListPage
        do throws(StoreError) { page = try store.list(prefix: "", startAfter: nil) } catch { return "" }
        guard let object = page.objects.first else { return ": nothing is there" }
        let parts = ["catalog/", "heads/", "disks/", "chunks/", "maps/", "keys/"]
        guard let own = page.objects.first(where: { object in parts.contains { object.key.hasPrefix($0) } }) else { return ": what is there is of something else (\(object.key))" }
        return ": farshore.json is missing, but objects of a vault are there (\(own.key)), so it was deleted"
    }

    static func decode(_ bytes: [UInt8]) throws(VaultError) -> (marker: VaultMarker, cipher: VaultCipher) {
        let object = ObjectPlace.markerKey
        let marker = try CanonicalJSON.decode(VaultMarker.self, bytes, object: object, formats: FormatLimits.formatVersion...formatApart)
        try SelfHashed.verify(marker, marker.sha256, bytes, object: object) { $0.sha256 = $1 }
        guard (marker.format == formatApart) == (marker.chunks == "apart"), marker.chunks ?? "apart" == "apart" else {
            throw .damaged(object: object, reason: "its format and \"chunks\" do not fit")
        }
        guard marker.product == "farshore" else { throw .noVault("farshore.json there belongs to \(marker.product)") }
        switch marker.cipher {
        case VaultCipher.none.name: return (marker, .none)
        case VaultCipher.aes256GCM.name: return (marker, .aes256GCM)
        default: throw .unsupportedVersion(object: object, found: "cipher \(marker.cipher)")
        }
    }
}

/// Documents that carry the hash of their own other fields, because no key is known yet when they are read.
enum SelfHashed {
    static func encode<Document: Encodable>(_ document: Document, object: String, set: (inout Document, String?) -> Void) throws(VaultError) -> [UInt8] {
        var copy = document
        set(&copy, nil)
        set(&copy, Hex.encode(Digest.sha256(try CanonicalJSON.encode(copy))))
        return try CanonicalJSON.encode(copy)
    }

    /// The bytes must be exactly what writing the document again gives, so that no bit of them is unprotected.
    static func verify<Document: Encodable>(
        _ document: Document, _ hash: String?, _ bytes: [UInt8], object: String, set: (inout Document, String?) -> Void
    ) throws(VaultError) {
        guard try encode(document, object: object, set: set) == bytes else {
            throw .damaged(object: object, reason: "its sha256 does not fit its content")
        }
    }
}
