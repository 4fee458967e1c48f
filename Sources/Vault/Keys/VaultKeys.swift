// The secrets of an open vault: its cipher, the id key and the data keys by generation. Never printed, never stored.

package struct VaultKeys: Sendable {
    package let vault: VaultID
    package let cipher: VaultCipher
    let idKey: [UInt8]
    let dataKeys: [UInt32: [UInt8]]

    /// A vault without encryption names its content by a hash keyed with the vault's id.
    static func unencrypted(_ vault: VaultID) -> VaultKeys {
        VaultKeys(vault: vault, cipher: .none, idKey: vault.bytes, dataKeys: [:])
    }

    static func random(_ vault: VaultID) -> VaultKeys {
        VaultKeys(vault: vault, cipher: .aes256GCM, idKey: Randomness.bytes(32), dataKeys: [1: Randomness.bytes(32)])
    }

    var newestGeneration: UInt32 { dataKeys.keys.max() ?? 0 }

    /// The name of content: the same for the same bytes, and telling nothing to who lacks the key.
    package func contentID(_ plaintext: UnsafeRawBufferPointer) -> Hash256 {
        Hash256(bytes: Digest.hmacSHA256(key: idKey, plaintext))!
    }

    /// The key of one object.
    func objectKey(_ header: ObjectHeader, object: String) throws(VaultError) -> [UInt8] {
        guard cipher == .aes256GCM else { return [] }
        guard let dataKey = dataKeys[header.keyGeneration] else {
            // The catalog is read first and names the newest generation: a key that opens it opens all before it too.
            guard object.hasPrefix("catalog/") else { throw .damaged(object: object, reason: "its header names key generation \(header.keyGeneration), which the vault does not have") }
            throw .wrongKey("\(object) is sealed with key generation \(header.keyGeneration), which the key given does not open")
        }
        return Digest.hkdf(dataKey, salt: header.salt, info: "farshore object v1", count: 32)
    }

    /// What every frame of the object is bound to.
    func associatedData(_ head: some Sequence<UInt8>, place: ObjectPlace) -> [UInt8] {
        Array(head) + Array("\(vault)/\(place.boundTo)".utf8)
    }
}
