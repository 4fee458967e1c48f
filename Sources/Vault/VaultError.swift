// What goes wrong with a vault, by what a caller does about it. Every damaged or missing object is named by its key.

package import BlockIO
package import ObjectStore

package enum VaultError: Error, Equatable, Sendable, CustomStringConvertible {
    /// No key object of the vault opens with the key given.
    case wrongKey(String)
    /// The object is sealed with a key that was made after the one given.
    case unknownKey(object: String, generation: UInt32)
    /// The object is there but is not what was written at this place.
    case damaged(object: String, reason: String)
    /// The object is named by another one but is not there.
    case missing(object: String)
    /// What is to be built on lacks objects that its points need; the text tells how many, and whose.
    case incomplete(String)
    /// The target acknowledged an object and then did not have it, or had other bytes. Sending it again may help.
    case notKept(object: String, reason: String)
    /// Another uploader took over the group; this one must stop.
    case fenced(String)
    /// The chain went on while a change was prepared: read it again.
    case conflict(chain: String)
    /// The newest object of the chain is older than, or differs from, what this client has seen.
    case rolledBack(String)
    /// Written by a newer version of Farshore.
    case unsupportedVersion(object: String, found: String)
    /// The location holds no vault.
    case noVault(String)
    case alreadyExists(String)
    /// A disk, point or key object that the vault does not have.
    case notFound(String)
    /// The key or passphrase file named does not exist.
    case noKeyFile(path: String)
    /// The caller asked for what the format does not allow. `try`: what helps, where the text does not say it.
    case refused(String, try: String? = nil)
    case store(StoreError)
    /// What was seen of the vault could not be remembered on this host.
    case memory(SystemError)

    package var description: String {
        switch self {
        case .wrongKey(let text): "wrong key: \(text)"
        case .unknownKey(let object, let generation): "wrong key: \(object) is sealed with key generation \(generation), made after the key given"
        case .damaged(let object, let reason): "the vault's object \(object) is damaged: \(reason)"
        case .missing(let object): "the vault's object \(object) is missing"
        case .notKept(let object, let reason): "the target did not keep the object \(object), which it had acknowledged: \(reason)"
        case .fenced(let text): "fenced: \(text)"
        case .conflict(let chain): "\(chain) was changed by someone else at the same time"
        case .rolledBack(let text): "refused: \(text)"
        case .unsupportedVersion(let object, let found): "the vault's object \(object) has \(found), which this version cannot read"
        case .incomplete(let text), .noVault(let text), .alreadyExists(let text), .notFound(let text), .refused(let text, _): text
        case .noKeyFile(let path): "\(path), named as the file of the key or passphrase, does not exist"
        case .store(let error): error.message
        case .memory(let error): "cannot remember what was seen of the vault: \(error)"
        }
    }

    /// The same request may succeed later without anyone doing something.
    package var isRecoverable: Bool {
        switch self {
        case .store(let error): error.isRecoverable
        case .conflict, .notKept: true
        default: false
        }
    }

    /// The content of the vault is not what it should be, as opposed to a target that cannot be reached.
    package var isIntegrityDamage: Bool {
        switch self {
        case .damaged, .missing, .incomplete, .notKept, .rolledBack: true
        default: false
        }
    }
}

/// Runs a store call; its error becomes a vault error. An absent `object` is reported as missing, by its name.
func fromStore<Value>(_ object: String? = nil, _ call: () throws(StoreError) -> Value) throws(VaultError) -> Value {
    do {
        return try call()
    } catch {
        if let object, error.code == .notFound { throw .missing(object: object) }
        if let object, error.code == .outOfRange { throw .damaged(object: object, reason: "it ends before its own table says (\(error.message))") }
        throw .store(error)
    }
}
