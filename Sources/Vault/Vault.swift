// An open vault: the target, the keys, and the rule that nothing counts as stored before it was verified by a fresh
// request. Blocking, and safe to use from many threads. Layout and formats: docs/formats/vault.md.

import BlockIO
package import ObjectStore
import Synchronization
import Glibc

package struct VaultSettings: Sendable {
    /// Fetch segments and chunks again after the PUT even where the target states trustworthy checksums.
    package var verifyByReading = false
    /// How long to wait before reading a head back on targets without conditional PUT.
    package var settleMilliseconds: UInt32 = 2_000

    package init() {}
}

package final class Vault: Sendable {
    package let id: VaultID
    package let store: any ObjectStore
    package let settings: VaultSettings
    let memory: HeadMemory
    let marker: [UInt8]
    /// What the person gave, and where it was read from: it is read again when an object needs a key made since.
    let source: KeySource
    private let keyFiles: KeyFiles?
    /// Shared with the vaults made by `through`.
    private let opened: OpenedKeys
    /// zstd's level for segments and chunks; nil compresses nothing.
    let compressionLevel: @Sendable () -> Int?
    /// Whether the target was asked what it can do; guards nothing else, so two threads may both ask.
    private let isProbed = Mutex(false)
    /// Shared like `opened`.
    let knownManifests: KnownManifests

    private init(
        store: any ObjectStore, keys: OpenedKeys, source: KeySource, keyFiles: KeyFiles?, marker: [UInt8], memory: HeadMemory, settings: VaultSettings,
        compressionLevel: @escaping @Sendable () -> Int? = { Compressor.usualLevel }, knownManifests: KnownManifests = KnownManifests()
    ) {
        self.knownManifests = knownManifests
        id = keys.all.vault
        self.store = store
        self.source = source
        self.keyFiles = keyFiles
        opened = keys
        self.marker = marker
        self.memory = memory
        self.settings = settings
        self.compressionLevel = compressionLevel
    }

    /// The same vault, its requests going through `store`, which is over the same target.
    package func through(_ store: any ObjectStore, compressionLevel: @escaping @Sendable () -> Int?) -> Vault {
        Vault(
            store: store, keys: opened, source: source, keyFiles: keyFiles, marker: marker, memory: memory, settings: settings, compressionLevel: compressionLevel,
            knownManifests: knownManifests)
    }

    /// The same vault at the same target, with another memory of it.
    func remembering(by memory: HeadMemory) -> Vault {
        Vault(store: store, keys: opened, source: source, keyFiles: keyFiles, marker: marker, memory: memory, settings: settings)
    }

    /// The same vault as it is kept at another target, where `memory` is of what is seen there.
    func kept(at store: any ObjectStore, memory: HeadMemory) throws(VaultError) -> Vault {
        let marker = try VaultMarker.placed(marker, at: store)
        return Vault(store: store, keys: opened, source: source, keyFiles: keyFiles, marker: marker, memory: memory, settings: settings)
    }

    // MARK: Creating and opening

    /// Makes a vault in an empty location.
    package static func create(
        store: any ObjectStore, protection: KeySource, memory: HeadMemory, settings: VaultSettings = VaultSettings()
    ) throws(VaultError) -> (vault: Vault, kit: RecoveryKit) {
        if try fromStore(nil, { () throws(StoreError) in try store.head(ObjectPlace.markerKey) }) != nil {
            throw .alreadyExists("\(store.location) already holds a vault")
        }
        let id = VaultID.random()
        let now = nowMicros()
        let keys: VaultKeys
        switch protection {
        case .none: keys = .unencrypted(id)
        case .passphrase, .keyFile: keys = .random(id)
        case .kit: throw .refused("a recovery kit belongs to a vault that is there; give a passphrase or a key file")
        }
        let marker = try VaultMarker(vault: id, cipher: keys.cipher.name, key: protection.hint, createdMicros: now, keepsChunksApart: store.keepsChunksApart).encoded()
        let vault = Vault(store: store, keys: OpenedKeys(keys), source: protection, keyFiles: nil, marker: marker, memory: memory, settings: settings)
        try vault.writeFirstObjects(protection, createdMicros: now)
        return (vault, RecoveryKit(location: store.location, keys: keys))
    }

    /// The marker comes last: a location without it is no vault, so an interrupted creation can be repeated.
    private func writeFirstObjects(_ protection: KeySource, createdMicros: UInt64) throws(VaultError) {
        let first = [ObjectPlace.keyObject(1), ObjectPlace.catalog(1).key, ObjectPlace.chunksMarkerKey]
        let present = try fromStore { () throws(StoreError) in try store.list(prefix: "", startAfter: nil) }
        if let other = present.objects.first(where: { !first.contains($0.key) }) {
            throw .alreadyExists("\(store.location) is not empty (\(other.key)); a vault needs an empty directory or prefix")
        }
        if keys.cipher == .aes256GCM {
            try putOpening(first[0], try KeyObject.wrap(keys, by: protection, number: 1, label: "first", createdMicros: createdMicros))
        }
        use(sealing: keys.newestGeneration)
        try putOpening(first[1], try seal(try CanonicalJSON.encode(Catalog(first: id, keyGeneration: keys.newestGeneration)), place: .catalog(1)))
        try putMarker()
    }

    /// Makes the place a vault.
    func putMarker() throws(VaultError) {
        if store.keepsChunksApart { try putOpening(ObjectPlace.chunksMarkerKey, marker) }
        try putOpening(ObjectPlace.markerKey, marker)
    }

    /// From `keyFiles` the key is read once more when an object was sealed by a key made after the opening.
    package static func open(
        store: any ObjectStore, key: KeySource, memory: HeadMemory, settings: VaultSettings = VaultSettings(), keyFiles: KeyFiles? = nil
    ) throws(VaultError) -> Vault {
        let bytes = try VaultMarker.fetch(from: store)
        let keys: VaultKeys
        do throws(VaultError) {
            let (marker, cipher) = try VaultMarker.decode(bytes)
            try checkChunks(store, marker, bytes)
            keys = try unlock(store, marker, cipher, key)
        } catch {
            // The marker is in the clear: changed on its way, it would make the key look wrong.
            guard try fromStore(ObjectPlace.markerKey, { () throws(StoreError) in try store.get(ObjectPlace.markerKey, range: nil) }) == bytes else {
                throw .damaged(object: ObjectPlace.markerKey, reason: "two readings of it differ")
            }
            throw error
        }
        return Vault(store: store, keys: OpenedKeys(keys), source: key, keyFiles: keyFiles, marker: bytes, memory: memory, settings: settings)
    }

    /// Whoever opens a vault whose chunks are apart must say where, and nobody else may: chunks would be looked for and put where they are not.
    static func checkChunks(_ store: any ObjectStore, _ marker: VaultMarker, _ bytes: [UInt8]) throws(VaultError) {
        guard marker.keepsChunksApart == store.keepsChunksApart else {
            throw .refused(
                marker.keepsChunksApart
                    ? "the vault at \(store.location) keeps its chunks at another place, which its URL must name: URL?chunks=URL-OF-THE-CHUNKS"
                    : "the vault at \(store.location) keeps its chunks with everything else; its URL must name no place for them")
        }
        guard marker.keepsChunksApart else { return }
        let found: [UInt8]
        do {
            found = try store.get(ObjectPlace.chunksMarkerKey, range: nil)
        } catch where error.code == .notFound {
            throw .noVault("the second place of \(store.location) does not hold the chunks of a vault")
        } catch {
            throw .store(error)
        }
        guard found == bytes else { throw .noVault("the second place of \(store.location) holds the chunks of another vault") }
    }

    private static func unlock(_ store: any ObjectStore, _ marker: VaultMarker, _ cipher: VaultCipher, _ key: KeySource) throws(VaultError) -> VaultKeys {
        switch (cipher, key) {
        case (.none, .none): return .unencrypted(marker.vault)
        case (.none, _): throw .wrongKey("the vault at \(store.location) says it is not encrypted, but a key was given; without --key-file or --passphrase-file it opens")
        case (.aes256GCM, .none): throw .wrongKey("the vault at \(store.location) is encrypted; it was made with a \(marker.key)")
        case (.aes256GCM, .kit(let kit)):
            guard kit.vault == marker.vault else { throw .wrongKey("the recovery kit belongs to the vault \(kit.vault), not to \(marker.vault) at \(store.location)") }
            return kit.keys
        case (.aes256GCM, _):
            let objects = KeyObjects(store: store, vault: marker.vault)
            if let keys = try objects.open(key) { return keys }
            // An encrypted vault has one: where none is to be seen, that says nothing of the key given.
            guard try !objects.numbers().isEmpty else { throw .missing(object: ObjectPlace.keyObject(1)) }
            throw .wrongKey("no key of the vault at \(store.location) opens with the \(key.hint) given")
        }
    }

    /// The recovery kit, made again.
    package func recoveryKit() -> RecoveryKit { RecoveryKit(location: store.location, keys: keys) }

    // MARK: Keys

    /// All that are known now.
    package var keys: VaultKeys { opened.all }

    /// New objects are sealed with `generation` from now on.
    func use(sealing generation: UInt32) { opened.seal(with: generation) }

    /// These keys are known from now on.
    func learn(_ found: VaultKeys) { opened.learn(found) }

    /// The generation for new objects, as the newest catalog read names it.
    func sealingGeneration() throws(VaultError) -> UInt32 {
        if let known = opened.sealingGeneration { return known }
        return try catalog().document.keyGeneration
    }

    /// Runs `body` with the keys known, and once more when an object needs a key made since.
    func withKeys<Value>(_ body: (VaultKeys) throws(VaultError) -> Value) throws(VaultError) -> Value {
        do {
            return try body(keys)
        } catch .unknownKey(let object, let generation) {
            try learn(generation, for: object)
            return try body(keys)
        }
    }

    /// Finds the keys of `generation` by the key given, or says why they are not to be had.
    func learn(_ generation: UInt32, for object: String) throws(VaultError) {
        let current = if let keyFiles { try keyFiles.read() } else { source }
        if let found = try KeyObjects(store: store, vault: id).open(current, generation: generation) { return learn(found) }
        guard !object.hasPrefix("catalog/") else {
            throw .unknownKey(object: object, generation: generation)
        }
        // The catalog names every generation in use: reading it tells a key that is too old from a damaged header.
        guard try catalog().document.keyGeneration < generation else { throw .unknownKey(object: object, generation: generation) }
        throw .damaged(object: object, reason: "its header names key generation \(generation), which the vault does not have")
    }

    // MARK: Putting and getting

    package static func nowMicros() -> UInt64 { Clock.wallNanoseconds() / 1_000 }

    func seal(_ plaintext: [UInt8], place: ObjectPlace, generation: UInt32? = nil) throws(VaultError) -> [UInt8] {
        try plaintext.withBytes { buffer throws(VaultError) in try seal(buffer, place: place, generation: generation) }
    }

    func seal(_ plaintext: UnsafeRawBufferPointer, place: ObjectPlace, generation: UInt32? = nil) throws(VaultError) -> [UInt8] {
        let named = if let generation { generation } else { try sealingGeneration() }
        let isData = place.kind == .chunk || place.kind == .segment
        return try SealedObject.seal(
            plaintext, place: place, keys: keys, generation: named, level: isData ? compressionLevel() : Compressor.usualLevel)
    }

    package func fetch(_ place: ObjectPlace) throws(VaultError) -> [UInt8] {
        try fromStore(place.key) { () throws(StoreError) in try store.get(place.key, range: nil) }
    }

    /// Fetches and opens a whole object.
    package func read(_ place: ObjectPlace) throws(VaultError) -> [UInt8] {
        let bytes = try fetch(place)
        return try withKeys { keys throws(VaultError) in try SealedObject.open(bytes, place: place, keys: keys) }
    }

    /// Whether objects can be created only where none is; asks the target the first time.
    func createsConditionally() throws(VaultError) -> Bool {
        if store.features.conditionalPut { return true }
        guard !isProbed.withLock({ $0 }) else { return false }
        try fromStore { () throws(StoreError) in try store.probe(existing: ObjectPlace.markerKey, marker) }
        isProbed.withLock { $0 = true }
        return store.features.conditionalPut
    }

    func settle() { usleep(settings.settleMilliseconds * 1_000) }

    /// Stores an object under a key that only this content or this writer uses, and verifies it. Returns the bytes that
    /// are in the vault: another PUT of the same content, whose answer was lost, may have come first.
    func putVerified(_ place: ObjectPlace, _ bytes: [UInt8], sameAs plaintext: (_ stored: [UInt8]) throws(VaultError) -> Bool) throws(VaultError) -> [UInt8] {
        var isAnswered = false
        let isConditional = try createsConditionally()
        let md5 = checksum(of: bytes, for: place)
        if isConditional {
            do {
                try store.put(place.key, bytes, ifAbsent: true, md5: md5)
                isAnswered = true
            } catch where error.code == .alreadyExists {
                guard let stored = try adopt(place, bytes, plaintext) else { return try replace(place, bytes) }
                return stored
            } catch where error.code == .unsupported && !store.features.conditionalPut {
                // It could when it was asked.
            } catch {
                throw .store(error)
            }
        }
        if !isAnswered {
            let existing = try fromStore { () throws(StoreError) in try store.head(place.key) }
            if existing != nil {
                guard let stored = try adopt(place, bytes, plaintext) else { return try replace(place, bytes) }
                return stored
            }
            try fromStore { () throws(StoreError) in try store.put(place.key, bytes, ifAbsent: false, md5: md5) }
        }
        try verify(place, bytes, md5)
        return bytes
    }

    /// What a target's word on an object is compared with; nil where that word is not taken.
    private func checksum(of bytes: [UInt8], for place: ObjectPlace) -> [UInt8]? {
        let isBulk = place.kind == .chunk || place.kind == .segment
        return isBulk && store.features.checksumTrusted && !settings.verifyByReading ? Digest.md5(bytes) : nil
    }

    /// What is there counts when it opens and has the same content. Nil when it is damaged for certain: then an earlier PUT
    /// of ours was not kept, for nothing names an object that was never verified.
    private func adopt(_ place: ObjectPlace, _ bytes: [UInt8], _ isSame: ([UInt8]) throws(VaultError) -> Bool) throws(VaultError) -> [UInt8]? {
        let stored = try fetch(place)
        if stored == bytes { return stored }
        do throws(VaultError) {
            guard try isSame(stored) else { throw .conflict(chain: place.key) }
            return stored
        } catch .damaged(let object, let reason) {
            // Bytes that differ between two reads are the connection's damage, not the object's.
            guard try fetch(place) == stored else { throw .damaged(object: object, reason: reason) }
            return nil
        }
    }

    /// The only overwriting there is: sound bytes over bytes that open as nothing.
    private func replace(_ place: ObjectPlace, _ bytes: [UInt8]) throws(VaultError) -> [UInt8] {
        let md5 = checksum(of: bytes, for: place)
        try fromStore { () throws(StoreError) in try store.put(place.key, bytes, ifAbsent: false, md5: md5) }
        try verify(place, bytes, md5)
        return bytes
    }

    private func verify(_ place: ObjectPlace, _ bytes: [UInt8], _ md5: [UInt8]?) throws(VaultError) {
        if let md5 {
            guard let info = try fromStore(nil, { () throws(StoreError) in try store.head(place.key) }) else {
                throw .notKept(object: place.key, reason: "it is not there")
            }
            if info.sizeBytes == UInt64(bytes.count), info.md5 == md5 { return }
        }
        guard try fetchJustPut(place).hasSameBytes(as: bytes) else { throw .notKept(object: place.key, reason: "the bytes read back differ") }
    }

    /// Reads back what was just acknowledged.
    func fetchJustPut(_ place: ObjectPlace) throws(VaultError) -> [UInt8] {
        do {
            return try fetch(place)
        } catch .missing(let object) {
            throw .notKept(object: object, reason: "it is not there")
        }
    }

    /// The first objects of a vault: nothing in the location is in use yet, so leftovers may be replaced.
    func putOpening(_ key: String, _ bytes: [UInt8]) throws(VaultError) {
        try fromStore { () throws(StoreError) in try store.put(key, bytes, ifAbsent: false) }
        guard try fromStore(key, { () throws(StoreError) in try store.get(key, range: nil) }) == bytes else {
            throw .damaged(object: key, reason: "the target did not keep what was sent: the bytes read back differ")
        }
    }
}

// MARK: Reading parts of objects

extension Vault {
    /// A range of an object's stored bytes.
    package func fetch(_ place: ObjectPlace, range: Range<UInt64>) throws(VaultError) -> [UInt8] {
        try fromStore(place.key) { () throws(StoreError) in try store.get(place.key, range: range) }
    }

    /// Header and frame table of a stored object, by one ranged GET, and its first frames as far as that reaches: those of its first
    /// `count` bytes are among them. Nil stands for one that is damaged.
    package func sealedObject(_ place: ObjectPlace, andFirst count: Int = 0) throws(VaultError) -> (object: SealedObject, frames: [[UInt8]?]) {
        let tableMax = 4 * ObjectHeader.frameCount(plaintextBytes: place.kind.plaintextBytesMax, frameBytes: FormatLimits.frameBytes)
        let wanted = ObjectHeader.byteCount + tableMax + count + keys.cipher.tagBytes * ObjectHeader.frameCount(plaintextBytes: count, frameBytes: FormatLimits.frameBytes)
        var start = try fromStore(place.key) { () throws(StoreError) in try store.get(place.key, first: wanted) }
        let header = try start.withBytes { bytes throws(VaultError) in
            try ObjectHeader(bytes, key: place.key, expected: place.kind, vaultCipher: keys.cipher)
        }
        // Another writer may use smaller frames and so a longer table.
        if header.tableEnd > start.count { start = try fetch(place, range: 0..<UInt64(header.tableEnd)) }
        let object = try withKeys { keys throws(VaultError) in
            try start.withBytes { bytes throws(VaultError) in try SealedObject(bytes, place: place, keys: keys) }
        }
        guard count > 0 else { return (object, []) }
        return (object, (0..<header.frameCount).prefix { object.table.offsets[$0 + 1] <= start.count }.map { frame in
            let stored = Array(start[object.table.offsets[frame]..<object.table.offsets[frame + 1]])
            do throws(VaultError) { return try Self.open(frame..<frame + 1, of: object, stored: stored)[0] } catch { return nil }
        })
    }

    /// The plaintext of some frames of an object, by one ranged GET.
    package func frames(_ range: Range<Int>, of object: SealedObject) throws(VaultError) -> [[UInt8]] {
        let base = object.table.offsets[range.lowerBound]
        return try Self.open(range, of: object, stored: try fetch(object.place, range: UInt64(base)..<UInt64(object.table.offsets[range.upperBound])))
    }

    /// `stored` begins with the first of the frames, and holds all of them.
    private static func open(_ range: Range<Int>, of object: SealedObject, stored: [UInt8]) throws(VaultError) -> [[UInt8]] {
        let base = object.table.offsets[range.lowerBound]
        var list: [[UInt8]] = []
        for frame in range {
            list.append(try [UInt8].filled(object.header.plaintextBytes(ofFrame: frame)) { output throws(VaultError) in
                try stored.withBytes { bytes throws(VaultError) in
                    let part = bytes[(object.table.offsets[frame] - base)..<(object.table.offsets[frame + 1] - base)]
                    try object.open(frame..<frame + 1, stored: UnsafeRawBufferPointer(rebasing: part), into: output)
                }
            })
        }
        return list
    }
}
