// A vault read from the sound versions of its objects, whatever was deleted or written over since, and what its points need: the ground
// that `vault lock` and `vault undo` stand on. Of each chain the newest number with a sound version counts, as this host remembers it.

package import ObjectStore

package struct SoundVault: Sendable {
    let store: any ObjectStore
    let versions: any ObjectVersions
    /// What the bucket does with new objects; nil where that was not asked for.
    let lockRule: LockRule?
    let found: FoundKeys
    let needed: NeededObjects
    /// Keys of chains above their newest number, and of the vault's keys, where something lies that is no object of the vault.
    let strayKeys: [String]
    /// Objects with keys of the vault that are not there. One that was removed stays so, unless it is what opens the vault here.
    private let removedKeys: Set<String>
    /// What no version could be read of.
    let damage: [VaultError]

    private let view: SoundStore
    private let proof: ObjectProof

    /// Needs the rights to list and read versions, and to read the bucket's rule for locks where objects are to be locked; changes nothing.
    package init(store: any ObjectStore, key: KeySource, memory: HeadMemory, keyFiles: KeyFiles? = nil, locking: Bool) throws(VaultError) {
        guard let versions = store.versions else {
            throw .refused("\(store.location) keeps no versions of objects that Farshore can use; that takes an S3 bucket with versioning")
        }
        lockRule = locking ? try fromStore(nil) { () throws(StoreError) in try versions.lockRule() } : nil
        guard !locking || lockRule != nil else {
            throw .refused("\(store.location) does not lock objects: a bucket can only when it was made with object lock")
        }
        let found = try FoundKeys(versions, store.location)
        let opening = SoundStore(store, versions, found, proof: ObjectProof(vault: nil))
        let opened = try Vault.open(store: opening, key: key, memory: memory, keyFiles: keyFiles)
        proof = ObjectProof(vault: opened)
        let view = SoundStore(store, versions, found, proof: proof)
        let vault = try opened.kept(at: view, memory: memory)
        do throws(VaultError) {
            var stray: [String] = []
            _ = try Self.settle(vault.catalogChain, view, found, &stray)
            for group in Set(try vault.catalog().document.disks.map(\.group)) { _ = try Self.settle(vault.heads(group: group).chain, view, found, &stray) }
            let audit = try Self.settle(vault.auditChain, view, found, &stray)
            removedKeys = try Self.settleKeys(view, found, key, vault.id, &stray)
            strayKeys = stray
            let survey = try Self.survey(vault, view)
            (needed, damage) = (NeededObjects(survey, newestAudit: audit), survey.damage)
        } catch {
            throw view.failure ?? error
        }
        (self.store, self.versions, self.found, self.view) = (store, versions, found, view)
    }

    /// Tells the view which versions of a chain count. Returns its newest number; what lies above it is `stray`.
    private static func settle<Document>(_ chain: Chain<Document>, _ view: SoundStore, _ found: FoundKeys, _ stray: inout [String]) throws(VaultError) -> UInt64 {
        let numbers = found.numbers[chain.name + "/"] ?? []
        if let seen = try chain.vault.memory.newest(chain.memoryName) { view.expect(seen.hash, at: chain.place(seen.number).key) }
        var newest: UInt64 = 0
        for number in numbers {
            guard let key = found.keys[chain.place(number).key] else { continue }
            guard try view.choice(key) == nil else {
                newest = number
                break
            }
            if key.isVisible { stray.append(key.key) }
        }
        // Each is the one that the next names by its hash.
        for number in numbers where number < newest && found.keys[chain.place(number).key]?.isPlain == false {
            do throws(VaultError) {
                if let previous = try chain.read(number + 1).document.previous { view.expect(previous, at: chain.place(number).key) }
            } catch {
                guard error.damage != nil else { throw error }
            }
        }
        return newest
    }

    private static func settleKeys(
        _ view: SoundStore, _ found: FoundKeys, _ source: KeySource, _ vault: VaultID, _ stray: inout [String]
    ) throws(VaultError) -> Set<String> {
        var removed: Set<String> = []
        for number in 1...FormatLimits.keyObjectsMax {
            guard let key = found.keys[ObjectPlace.keyObject(number)] else { continue }
            if try view.choice(key) == nil {
                removed.insert(key.key)
                if key.isVisible { stray.append(key.key) }
            } else if !key.isVisible {
                let bytes = try fromStore(key.key) { () throws(StoreError) in try view.get(key.key, range: nil) }
                if try KeyObject.decode(bytes, vault: vault, number: number).open(source) == nil { removed.insert(key.key) }
            }
        }
        return removed
    }

    private static func survey(_ vault: Vault, _ view: SoundStore) throws(VaultError) -> LiveVault {
        while true {
            let survey = try LiveVault.survey(vault, goingOn: true)
            var isNew = false
            for object in survey.damage.compactMap({ $0.damage?.object }) { isNew = try view.reject(object) || isNew }
            guard isNew else { return survey }
        }
    }

    /// Whether the key must have an object.
    func needs(_ key: String) -> Bool { needed.contains(key) && !removedKeys.contains(key) }

    /// Whether it is to be brought back: also what an uploader has put and no head names yet, as far as that can be told from what was
    /// collected, and what nothing needs and somebody wrote over.
    func restores(_ key: VersionedKey) -> Bool {
        if needs(key.key) { return true }
        switch ObjectName(key: key.key) {
        case nil, .collectionList: return false
        case let name?: return key.isVisible || !needed.live.isGarbage(name)
        }
    }

    /// What is at the key now is still no object of the vault.
    func isStray(_ key: String) throws(VaultError) -> Bool {
        let bytes: [UInt8]
        do {
            bytes = try store.get(key, range: nil)
        } catch where error.code == .notFound {
            return false
        } catch {
            throw .store(error)
        }
        return try !proof.fits(key, bytes)
    }

    /// The sound version of a key that must have an object; nil when there is none. What was written once and not meddled with is taken for
    /// it, and so is the only version of data that was deleted: neither is read (`vault check --read-data` does that).
    func version(of key: VersionedKey) throws(VaultError) -> ObjectVersion? {
        if key.isPlain { return key.objects[0] }
        switch ObjectName(key: key.key) {
        case .chunk, .segment: return key.objects.count == 1 ? key.objects[0] : try view.choice(key)
        default: return try view.choice(key)
        }
    }
}
