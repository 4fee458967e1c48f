// farshore.json: the one object that says what a location is (docs/formats/vault.md section 3).

struct VaultMarker: Codable, Equatable {
    var format = FormatLimits.formatVersion
    var product = "farshore"
    let vault: VaultID
    let cipher: String
    /// How the first key is kept.
    let key: String
    let createdMicros: UInt64
    var sha256: String?

    func encoded() throws(VaultError) -> [UInt8] { try SelfHashed.encode(self, object: ObjectPlace.markerKey) { $0.sha256 = $1 } }

    static func decode(_ bytes: [UInt8]) throws(VaultError) -> (marker: VaultMarker, cipher: VaultCipher) {
        let object = ObjectPlace.markerKey
        let marker = try CanonicalJSON.decode(VaultMarker.self, bytes, object: object)
        try SelfHashed.verify(marker, marker.sha256, bytes, object: object) { $0.sha256 = $1 }
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
