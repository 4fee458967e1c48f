// The key objects of a vault, tried in order until one opens. A deleted one leaves a gap, hence the end is only
// believed after several absent numbers.

import ObjectStore

/// What `vault key list` shows of a key object.
package struct KeyDescription: Sendable, Codable {
    package let number: Int
    /// `passphrase` or `key-file`.
    package let kind: String
    package let label: String
    package let createdMicros: UInt64
    /// Whether it opens what is written now; one made before the last rotation opens older data only. Nil: the key given does not tell.
    package let opensNewData: Bool?
}

struct KeyObjects {
    let store: any ObjectStore
    let vault: VaultID

    /// The keys by the first object that `source` opens and that has the generation asked for, or nil when none does. A damaged
    /// object is only reported when no other one opens.
    func open(_ source: KeySource, generation: UInt32? = nil, except left: Int? = nil) throws(VaultError) -> VaultKeys? {
        var damage: VaultError?
        let keys = try visit(except: left) { number, bytes throws(VaultError) -> VaultKeys? in
            do throws(VaultError) {
                let keys = try KeyObject.decode(bytes, vault: vault, number: number).open(source)
                return generation.map { keys?.dataKeys[$0] != nil } ?? true ? keys : nil
            } catch {
                damage = damage ?? error
                return nil
            }
        }
        if keys == nil, let damage { throw damage }
        return keys
    }

    /// `wrappedBytes`: of an object with all keys that are needed now. One with fewer keys is shorter, and more than that it tells nobody.
    func list(wrappedBytes: Int?) throws(VaultError) -> [KeyDescription] {
        var found: [KeyDescription] = []
        try visitAll { number, result throws(VaultError) in
            let key = try result.get()
            found.append(KeyDescription(
                number: number, kind: key.method == .scrypt ? "passphrase" : "key-file", label: key.label, createdMicros: key.createdMicros,
                opensNewData: wrappedBytes.map { key.wrappedBytes >= $0 }))
        }
        return found
    }

    func numbers() throws(VaultError) -> [Int] {
        var found: [Int] = []
        try visitAll { number, _ in found.append(number) }
        return found
    }

    /// Calls `body` with each key object, opened as far as that needs no key, or why it cannot be.
    func visitAll(_ body: (Int, Result<KeyObject, VaultError>) throws(VaultError) -> Void) throws(VaultError) {
        _ = try visit { number, bytes throws(VaultError) -> Bool? in
            let result: Result<KeyObject, VaultError>
            do throws(VaultError) {
                result = .success(try KeyObject.decode(bytes, vault: vault, number: number))
            } catch {
                result = .failure(error)
            }
            try body(number, result)
            return nil
        }
    }

    /// Calls `body` with each key object until it returns a value.
    private func visit<Value>(except left: Int? = nil, _ body: (Int, [UInt8]) throws(VaultError) -> Value?) throws(VaultError) -> Value? {
        var absent = 0
        for number in 1...FormatLimits.keyObjectsMax {
            let bytes: [UInt8]
            do throws(StoreError) {
                // As if it were not there: what lies behind a gap that is too wide is not found.
                if number == left { throw StoreError(.notFound, "left out", try: "") }
                bytes = try store.get(ObjectPlace.keyObject(number), range: nil)
            } catch where error.code == .notFound {
                absent += 1
                if absent > FormatLimits.keyObjectGapMax { return nil }
                continue
            } catch {
                throw .store(error)
            }
            absent = 0
            if let value = try body(number, bytes) { return value }
        }
        return nil
    }
}

extension Vault {
    package func keyDescriptions() throws(VaultError) -> [KeyDescription] {
        guard keys.cipher != .none else { return [] }
        let objects = KeyObjects(store: store, vault: id)
        let found = try objects.list(wrappedBytes: try wrappedBytesNow(objects))
        guard !found.isEmpty else { throw .missing(object: ObjectPlace.keyObject(1)) }
        return found
    }

    /// Nil where the key given does not open what is written now.
    private func wrappedBytesNow(_ objects: KeyObjects) throws(VaultError) -> Int? {
        do throws(VaultError) {
            let generation = try catalog().document.keyGeneration
            return try (objects.open(source, generation: generation) ?? keys).wrapped(by: [UInt8](repeating: 0, count: 32), place: "").count
        } catch {
            switch error {
            case .unknownKey, .wrongKey, .damaged, .missing: return nil
            default: throw error
            }
        }
    }
}

extension VaultError {
    /// No key object is there, so that only a recovery kit opens the vault.
    package var lacksKeys: Bool { if case .missing(let object) = self { object.hasPrefix("keys/") } else { false } }
}
