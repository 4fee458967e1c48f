// The secrets of an open vault: its cipher, the id key and the data keys by generation. Never printed, never stored.

import Synchronization

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

    /// With a new data key.
    func adding(generation: UInt32) -> VaultKeys { adding([generation: Randomness.bytes(32)]) }

    /// With the data keys `others` knows beside these.
    func merged(_ others: VaultKeys) -> VaultKeys { adding(others.dataKeys) }

    private func adding(_ others: [UInt32: [UInt8]]) -> VaultKeys {
        VaultKeys(vault: vault, cipher: cipher, idKey: idKey, dataKeys: dataKeys.merging(others) { own, _ in own })
    }

    /// The name of content: the same for the same bytes, and telling nothing to who lacks the key.
    package func contentID(_ plaintext: UnsafeRawBufferPointer) -> Hash256 {
        Hash256(bytes: Digest.hmacSHA256(key: idKey, plaintext))!
    }

    /// The key of one object.
    func objectKey(_ header: ObjectHeader, object: String) throws(VaultError) -> [UInt8] {
        guard cipher == .aes256GCM else { return [] }
        guard let dataKey = dataKeys[header.keyGeneration] else {
            throw .unknownKey(object: object, generation: header.keyGeneration)
        }
        return Digest.hkdf(dataKey, salt: header.salt, info: "farshore object v1", count: 32)
    }

    /// What every frame of the object is bound to.
    func associatedData(_ head: some Sequence<UInt8>, place: ObjectPlace) -> [UInt8] {
        Array(head) + Array("\(vault)/\(place.boundTo)".utf8)
    }
}

/// What an open vault knows of its keys now; a rotation adds to it.
final class OpenedKeys: Sendable {
    private struct State {
        var keys: VaultKeys
        /// The generation for new objects, by the newest catalog read; nil before one was.
        var sealingGeneration: UInt32?
    }

    private let state: Mutex<State>

    init(_ keys: VaultKeys) { state = Mutex(State(keys: keys)) }

    var all: VaultKeys { state.withLock { $0.keys } }
    var sealingGeneration: UInt32? { state.withLock { $0.sealingGeneration } }

    func learn(_ found: VaultKeys) { state.withLock { $0.keys = $0.keys.merged(found) } }
    func seal(with generation: UInt32) { state.withLock { $0.sealingGeneration = generation } }
}
