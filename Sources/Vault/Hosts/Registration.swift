// Registration keys: how a new host gets the keys of a vault (docs/formats/vault.md section 10). An administrator carries one line with a secret; the
// vault holds its keys wrapped by it, and a mark once a host has used it.

import BlockIO
import Foundation
package import ObjectStore

/// What an administrator carries from a host that has the vault's key to one that is to have it.
package struct Registration: Sendable {
    package static let daysDefault = 5
    private static let prefix = "farshore-registration-1."

    private struct Line: Codable {
        let expiresMicros: UInt64
        let id: VaultID
        let secret: String
        let url: String
        let vault: VaultID
    }

    package let url: String
    package let vault: VaultID
    package let id: VaultID
    package let expiresMicros: UInt64
    let secret: [UInt8]

    fileprivate init(url: String, vault: VaultID, expiresMicros: UInt64) {
        (self.url, self.vault, self.expiresMicros) = (url, vault, expiresMicros)
        (id, secret) = (.random(), Randomness.bytes(32))
    }

    /// Reads the line; spaces around it do not matter. What is wrong is said without it.
    package init(_ text: String) throws(VaultError) {
        let trimmed = text.trimmingCharacters(in: .whitespacesAndNewlines)
        guard trimmed.hasPrefix(Self.prefix) else { throw .refused("that is no registration key: it begins with \(Self.prefix)") }
        var base64 = trimmed.dropFirst(Self.prefix.count).replacingOccurrences(of: "-", with: "+").replacingOccurrences(of: "_", with: "/")
        base64 += String(repeating: "=", count: (4 - base64.count % 4) % 4)
        guard let data = Data(base64Encoded: base64), let line = try? CanonicalJSON.decodePart(Line.self, [UInt8](data), object: "registration key"),
            let secret = Hex.decode(line.secret), secret.count == 32
        else { throw .refused("the registration key is not whole: a character was lost or changed") }
        (url, vault, id, expiresMicros, self.secret) = (line.url, line.vault, line.id, line.expiresMicros, secret)
    }

    /// With the secret in it.
    package func text() throws(VaultError) -> String {
        let line = Line(expiresMicros: expiresMicros, id: id, secret: Hex.encode(secret), url: url, vault: vault)
        let base64 = Data(try CanonicalJSON.encode(line)).base64EncodedString()
        return Self.prefix + base64.replacingOccurrences(of: "+", with: "-").replacingOccurrences(of: "/", with: "_").replacingOccurrences(of: "=", with: "")
    }

    fileprivate func derived(salt: [UInt8]) -> [UInt8] { Digest.hkdf(secret, salt: salt, info: "farshore registration v1", count: 48) }
    fileprivate var place: String { "farshore registration v1 \(vault) \(id) \(expiresMicros)" }
}

/// hosts/keys/<id>
struct RegistrationObject: Codable {
    var format = FormatLimits.formatVersion
    let vault: VaultID
    let id: VaultID
    let createdMicros: UInt64
    let expiresMicros: UInt64
    let salt: String
    let check: String
    let wrapped: String?
    var sha256: String?

    static func decode(_ bytes: [UInt8], vault: VaultID, id: VaultID) throws(VaultError) -> RegistrationObject {
        let object = ObjectPlace.registration(id)
        let found = try CanonicalJSON.decode(RegistrationObject.self, bytes, object: object)
        try SelfHashed.verify(found, found.sha256, bytes, object: object) { $0.sha256 = $1 }
        guard found.vault == vault, found.id == id else { throw .damaged(object: object, reason: "it belongs to another place") }
        return found
    }
}

/// hosts/keys/<id>.used
private struct RegistrationUse: Codable {
    var format = FormatLimits.formatVersion
    let vault: VaultID
    let id: VaultID
    let host: VaultID
    let timeMicros: UInt64
    var sha256: String?
}

extension Vault {
    package var isEncrypted: Bool { keys.cipher != .none }

    /// Of a vault that is not open yet.
    package static func isEncrypted(_ store: any ObjectStore) throws(VaultError) -> Bool { try VaultMarker.decode(VaultMarker.fetch(from: store)).cipher != .none }

    /// By the target's clock where it has told one, else by this host's.
    package static func micros(at store: any ObjectStore) -> UInt64 {
        let (now, offset) = (nowMicros(), store.clockOffsetSeconds ?? 0)
        return offset < 0 ? now - min(now, UInt64(-offset) * 1_000_000) : now + UInt64(offset) * 1_000_000
    }

    /// Makes a registration key that opens this vault at `url` once, for `days` days.
    package func makeRegistration(url: String, days: Int) throws(VaultError) -> Registration {
        try refuseCopy()
        _ = try catalog()
        let now = Self.micros(at: store)
        let made = Registration(url: url, vault: id, expiresMicros: now + UInt64(days) * 86_400_000_000)
        let salt = Randomness.bytes(32)
        let derived = made.derived(salt: salt)
        let wrapped = keys.cipher == .none ? nil : Hex.encode(try keys.wrapped(by: Array(derived[..<32]), place: made.place))
        let object = RegistrationObject(
            vault: id, id: made.id, createdMicros: now, expiresMicros: made.expiresMicros, salt: Hex.encode(salt), check: Hex.encode(derived[32...]), wrapped: wrapped)
        let bytes = try SelfHashed.encode(object, object: ObjectPlace.registration(made.id)) { $0.sha256 = $1 }
        try putOpening(ObjectPlace.registration(made.id), bytes)
        return made
    }

    /// Uses the registration for `host`: its kit, which opens the vault. Repeatable by the same host; refused for another one, and when it has expired.
    package static func join(_ registration: Registration, store: any ObjectStore, host: VaultID) throws(VaultError) -> RecoveryKit {
        let (found, cipher) = try VaultMarker.decode(try VaultMarker.fetch(from: store))
        guard found.vault == registration.vault else {
            throw .refused("the registration key is for the vault \(registration.vault), but \(store.location) holds the vault \(found.vault)")
        }
        let key = ObjectPlace.registration(registration.id)
        let bytes: [UInt8]
        do { bytes = try store.get(key, range: nil) } catch {
            guard error.code == .notFound else { throw .store(error) }
            throw .refused("the vault does not know the registration key (any more): it was used or has expired, and was removed; make a new one with farshore host key URL")
        }
        let object = try RegistrationObject.decode(bytes, vault: registration.vault, id: registration.id)
        let now = micros(at: store)
        guard now < object.expiresMicros else {
            let whose = store.clockOffsetSeconds == nil ? "this host's clock" : "the target's clock"
            throw .refused("the registration key has expired \((now - object.expiresMicros) / 1_000_000) s ago by \(whose); make a new one with farshore host key URL")
        }
        guard let salt = Hex.decode(object.salt), salt.count == 32 else { throw .damaged(object: key, reason: "its salt is not what it must be") }
        let derived = registration.derived(salt: salt)
        guard Hex.encode(derived[32...]) == object.check else { throw .wrongKey("the secret of the registration key is not the one that was made") }
        let kit: RecoveryKit
        if cipher == .none {
            kit = RecoveryKit(location: store.location, keys: .unencrypted(found.vault))
        } else {
            guard let sealed = object.wrapped.flatMap({ Hex.decode($0) }), object.expiresMicros == registration.expiresMicros else {
                throw .damaged(object: key, reason: "the wrapped keys or the time are not what was made")
            }
            kit = RecoveryKit(location: store.location, keys: try VaultKeys.unwrapped(sealed, by: Array(derived[..<32]), place: registration.place, vault: found.vault, object: key))
        }
        let vault = try open(store: store, key: kit.isEncrypted ? .kit(kit) : .none, memory: HeadMemory(folder: nil))
        try vault.use(registration, host: host)
        return kit
    }

    /// Of two hosts that come with it at once, one has its mark there.
    private func use(_ registration: Registration, host: VaultID) throws(VaultError) {
        try refuseCopy()
        let key = ObjectPlace.registrationUse(registration.id)
        let use = RegistrationUse(vault: id, id: registration.id, host: host, timeMicros: Self.nowMicros())
        if try putAlone(key, try SelfHashed.encode(use, object: key) { $0.sha256 = $1 }) { return }
        let bytes = try fromStore(key) { () throws(StoreError) in try store.get(key, range: nil) }
        let found = try CanonicalJSON.decode(RegistrationUse.self, bytes, object: key)
        try SelfHashed.verify(found, found.sha256, bytes, object: key) { $0.sha256 = $1 }
        guard found.host == host else { throw .refused("the registration key was used by the host \(found.host); make one for each host with farshore host key URL") }
    }
}
