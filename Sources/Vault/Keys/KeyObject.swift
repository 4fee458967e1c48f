// keys/<n>: the vault's keys wrapped by one passphrase or key file (docs/formats/vault.md section 3).
// A wrong key is told from damage by `check`, and damage before that by the object's own hash.

import COpenSSL

private struct WrappedKeys: Codable {
    struct DataKey: Codable {
        let generation: UInt32
        let key: String
    }

    var format = FormatLimits.formatVersion
    let data: [DataKey]
    let id: String
}

extension VaultKeys {
    /// Sealed with 32 bytes that are used for nothing else, bound to `place`.
    func wrapped(by key: [UInt8], place: String) throws(VaultError) -> [UInt8] {
        let data = dataKeys.sorted { $0.key < $1.key }.map { WrappedKeys.DataKey(generation: $0.key, key: Hex.encode($0.value)) }
        let plaintext = try CanonicalJSON.encode(WrappedKeys(data: data, id: Hex.encode(idKey)))
        var sealed = [UInt8](repeating: 0, count: plaintext.count + 16)
        let cipher = FrameCipher(.aes256GCM, key: key, associated: Array(place.utf8), sealing: true)
        plaintext.withUnsafeBytes { body in sealed.withUnsafeMutableBytes { cipher.seal(body, frame: 0, into: $0) } }
        return sealed
    }

    static func unwrapped(_ sealed: [UInt8], by key: [UInt8], place: String, vault: VaultID, object: String) throws(VaultError) -> VaultKeys {
        guard sealed.count > 16 else { throw .damaged(object: object, reason: "its wrapped keys are not what they must be") }
        var plaintext = [UInt8](repeating: 0, count: sealed.count - 16)
        let cipher = FrameCipher(.aes256GCM, key: key, associated: Array(place.utf8), sealing: false)
        let opened = sealed.withUnsafeBytes { stored in plaintext.withUnsafeMutableBytes { cipher.open(stored, frame: 0, into: $0) } }
        guard opened else { throw .damaged(object: object, reason: "the wrapped keys do not open, though the key is right") }
        let keys = try CanonicalJSON.decode(WrappedKeys.self, plaintext, object: object)
        var dataKeys: [UInt32: [UInt8]] = [:]
        for entry in keys.data { dataKeys[entry.generation] = Hex.decode(entry.key) }
        guard let idKey = Hex.decode(keys.id), idKey.count == 32, dataKeys.count == keys.data.count, dataKeys.values.allSatisfy({ $0.count == 32 }) else {
            throw .damaged(object: object, reason: "the keys in it are not 32 bytes each")
        }
        return VaultKeys(vault: vault, cipher: .aes256GCM, idKey: idKey, dataKeys: dataKeys)
    }
}

struct KeyObject: Codable {
    enum Method: String, Codable { case scrypt, hkdfSHA256 = "hkdf-sha256" }

    var format = FormatLimits.formatVersion
    let vault: VaultID
    let number: Int
    let method: Method
    let salt: String
    var n: UInt64?
    var r: UInt64?
    var p: UInt64?
    let check: String
    let wrapped: String
    let createdMicros: UInt64
    let label: String
    var sha256: String?

    /// Two hex digits each.
    var wrappedBytes: Int { wrapped.utf8.count / 2 }

    private static func place(_ vault: VaultID, _ number: Int) -> String { "farshore keys v1 \(vault) \(number) aes-256-gcm" }

    /// The object for `source`, ready to be stored as `keys/<number>`.
    static func wrap(_ keys: VaultKeys, by source: KeySource, number: Int, label: String, createdMicros: UInt64) throws(VaultError) -> [UInt8] {
        let salt = Randomness.bytes(32)
        let method: Method
        switch source {
        case .passphrase: method = .scrypt
        case .keyFile: method = .hkdfSHA256
        case .none, .kit: throw .refused("a recovery kit cannot wrap keys; give a passphrase or a key file")
        }
        let scrypt: (n: UInt64, r: UInt64, p: UInt64)? = method == .scrypt ? (131_072, 8, 1) : nil
        guard let derived = derive(source, salt: salt, scrypt: scrypt) else { throw .refused("libcrypto cannot derive a key (scrypt needs 128 MiB of memory)") }
        let sealed = try keys.wrapped(by: Array(derived[..<32]), place: place(keys.vault, number))
        let object = KeyObject(
            vault: keys.vault, number: number, method: method, salt: Hex.encode(salt), n: scrypt?.n, r: scrypt?.r, p: scrypt?.p,
            check: Hex.encode(derived[32...]), wrapped: Hex.encode(sealed), createdMicros: createdMicros, label: label)
        return try SelfHashed.encode(object, object: ObjectPlace.keyObject(number)) { $0.sha256 = $1 }
    }

    static func decode(_ bytes: [UInt8], vault: VaultID, number: Int) throws(VaultError) -> KeyObject {
        let object = ObjectPlace.keyObject(number)
        let key = try CanonicalJSON.decode(KeyObject.self, bytes, object: object)
        try SelfHashed.verify(key, key.sha256, bytes, object: object) { $0.sha256 = $1 }
        guard key.vault == vault, key.number == number else { throw .damaged(object: object, reason: "it belongs to another place") }
        return key
    }

    /// The keys, or nil when `source` is not what wrapped them.
    func open(_ source: KeySource) throws(VaultError) -> VaultKeys? {
        let object = ObjectPlace.keyObject(number)
        guard let salt = Hex.decode(salt), salt.count == 32, let sealed = Hex.decode(wrapped), sealed.count > 16 else {
            throw .damaged(object: object, reason: "its salt or wrapped keys are not what they must be")
        }
        guard let derived = Self.derive(source, salt: salt, scrypt: try scryptParameters()), Hex.encode(derived[32...]) == check else { return nil }
        return try VaultKeys.unwrapped(sealed, by: Array(derived[..<32]), place: Self.place(vault, number), vault: vault, object: object)
    }

    private func scryptParameters() throws(VaultError) -> (n: UInt64, r: UInt64, p: UInt64)? {
        guard method == .scrypt else { return nil }
        guard let n, let r, let p, n >= 2, n <= 1 << 20, n.nonzeroBitCount == 1, (1...8).contains(r), (1...4).contains(p) else {
            throw .damaged(object: ObjectPlace.keyObject(number), reason: "its scrypt parameters are out of bounds")
        }
        return (n, r, p)
    }

    /// 48 bytes for a source of the right method, else nil.
    private static func derive(_ source: KeySource, salt: [UInt8], scrypt: (n: UInt64, r: UInt64, p: UInt64)?) -> [UInt8]? {
        switch (source, scrypt) {
        case (.passphrase(let text), let scrypt?): Digest.scrypt(text, salt: salt, n: scrypt.n, r: scrypt.r, p: scrypt.p, count: 48)
        case (.keyFile(let bytes), nil): Digest.hkdf(bytes, salt: salt, info: "farshore key file v1", count: 48)
        default: nil
        }
    }
}
