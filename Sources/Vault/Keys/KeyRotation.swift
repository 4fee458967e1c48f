// Adding, rotating and removing the keys of a vault (docs/formats/vault.md section 3). No data is sealed again: old objects keep
// the data key they were sealed with, and every key object made later has that one too.

import ObjectStore

extension Vault {
    /// Lets `source`, another passphrase or key file, open all there is now. Returns the number of its key object.
    package func addKey(_ source: KeySource, label: String) throws(VaultError) -> Int {
        // The newest catalog tells whether the keys known are all there are.
        _ = try catalog()
        return try putKeyObject(source, label: label) { _ in keys }.number
    }

    /// Makes a data key of the next generation, which `source` opens beside all older ones, and from then on new objects are sealed with
    /// it. Other key objects open what is older only, and so does the recovery kit exported before. Interrupted before the catalog
    /// names the new generation it changed nothing but that there is one more key object.
    package func rotateKeys(to source: KeySource, label: String) throws(VaultError) -> (number: Int, kit: RecoveryKit) {
        let current = try catalog().document.keyGeneration
        // Another one for each key object: what an interrupted or lost rotation left is never taken for the key of this one.
        let (number, next) = try putKeyObject(source, label: label) { number in keys.adding(generation: Self.generation(after: current, object: number)) }
        // The newest catalog is sealed with the key that it names, so that key must be known here first.
        try updateCatalog { catalog throws(VaultError) in
            guard catalog.keyGeneration == current else { throw .conflict(chain: "catalog") }
            learn(next)
            catalog.keyGeneration = next.newestGeneration
        }
        use(sealing: next.newestGeneration)
        // On a target without conditional PUT somebody who added a key at the same time may have put his object over ours.
        if try KeyObjects(store: store, vault: id).open(source, generation: next.newestGeneration) == nil {
            return (try putKeyObject(source, label: label) { _ in keys }.number, recoveryKit())
        }
        return (number, recoveryKit())
    }

    private static func generation(after current: UInt32, object number: Int) -> UInt32 {
        let numbers = UInt32(FormatLimits.keyObjectsMax)
        return (current / numbers + 1) * numbers + UInt32(number) - 1
    }

    /// Removes a key object; `source` is the key that stays. Needs the right to delete.
    package func removeKey(_ number: Int, keeping source: KeySource) throws(VaultError) {
        let current = try catalog().document.keyGeneration
        let objects = KeyObjects(store: store, vault: id)
        guard try objects.numbers().contains(number) else { throw .notFound("the vault has no key \(number)") }
        guard try objects.open(source, generation: current, except: number) != nil else {
            throw .refused("the key given opens no other key object than \(number) in full; give one that stays, or add it first with `farshore vault key add`")
        }
        let object = ObjectPlace.keyObject(number)
        try fromStore { () throws(StoreError) in try store.delete([object]) }
        guard try fromStore(nil, { () throws(StoreError) in try store.head(object) }) == nil else {
            throw .refused("\(object) is still there: the target keeps what is deleted (object lock?)")
        }
    }

    /// Puts the keys that `keys` makes for the first free number, and reads them back by `source`.
    private func putKeyObject(_ source: KeySource, label: String, _ keys: (Int) -> VaultKeys) throws(VaultError) -> (number: Int, keys: VaultKeys) {
        guard self.keys.cipher != .none else { throw .refused("the vault at \(store.location) is not encrypted: it has no keys") }
        let objects = KeyObjects(store: store, vault: id)
        let taken = Set(try objects.numbers())
        for number in 1...FormatLimits.keyObjectsMax where !taken.contains(number) {
            let made = keys(number)
            let bytes = try KeyObject.wrap(made, by: source, number: number, label: label, createdMicros: Self.nowMicros())
            guard try putAlone(ObjectPlace.keyObject(number), bytes) else { continue }
            guard try KeyObject.decode(bytes, vault: id, number: number).open(source) != nil else { throw .refused("the new key does not open what it sealed") }
            return (number, made)
        }
        throw .refused("the vault has \(FormatLimits.keyObjectsMax) keys, which is the most; remove one with `farshore vault key remove`")
    }

    /// False when somebody else's object is there.
    func putAlone(_ key: String, _ bytes: [UInt8]) throws(VaultError) -> Bool {
        let isConditional = try createsConditionally()
        if !isConditional, try fromStore(nil, { () throws(StoreError) in try store.head(key) }) != nil { return false }
        do throws(StoreError) {
            try store.put(key, bytes, ifAbsent: isConditional)
        } catch where error.code == .alreadyExists {
            // An answer that was lost may have been ours.
        } catch {
            throw .store(error)
        }
        if !isConditional { settle() }
        return try fromStore(key) { () throws(StoreError) in try store.get(key, range: nil) } == bytes
    }

    /// New objects are sealed with `generation` from now on, as `object` says.
    func seal(with generation: UInt32, namedBy object: String) throws(VaultError) {
        guard keys.cipher != .none else { return }
        if keys.dataKeys[generation] == nil { try learn(generation, for: object) }
        use(sealing: generation)
    }
}
