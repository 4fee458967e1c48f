// A vault as it was before somebody deleted objects of it or wrote over them: reads go to the version of an object that is sound. The
// choice is made when a key is first asked for, by reading its versions. Nothing can be written through it. Used by VaultUndo.
//
// Objects are written once, so of several sound versions the oldest is the right one. But where the target does not refuse to replace
// an object, of two heads that were put at the same time the later one won; so of a chain the newest sound one counts, or the one that
// the next object, or this host's memory, names by its hash.

import ObjectStore
import Synchronization

/// The keys of a target that need a choice: those that are not plain, and all that chains and opening go by.
struct FoundKeys: Sendable {
    let keys: [String: VersionedKey]
    /// By chain, as `heads/<group>/`, highest first.
    let numbers: [String: [UInt64]]

    init(_ versions: any ObjectVersions, _ location: String) throws(VaultError) {
        var keys: [String: VersionedKey] = [:]
        var numbers: [String: [UInt64]] = [:]
        var (isEmpty, keepsVersions) = (true, false)
        for prefix in NeededObjects.prefixes {
            try versions.forEachKey(prefix) { some in
                for key in some {
                    isEmpty = false
                    if (key.objects.first ?? key.markers.first)?.id != "null" { keepsVersions = true }
                    let chain = ChainKey(key.key)
                    if let chain { numbers[chain.chain, default: []].append(chain.number) }
                    let isAsked = chain != nil || ChainKey.keyObjectNumber(key.key) != nil || key.key.hasSuffix(ObjectPlace.markerKey)
                    if isAsked || !key.isPlain { keys[key.key] = key }
                }
            }
        }
        guard isEmpty || keepsVersions else {
            throw .refused("the bucket of \(location) keeps no versions, so nothing that was deleted or written over is left there")
        }
        self.keys = keys
        self.numbers = numbers.mapValues { $0.sorted(by: >) }
    }
}

final class SoundStore: ObjectStore {
    private struct Choices {
        /// Nil: no version is sound.
        var made: [String: ObjectVersion?] = [:]
        var expected: [String: Hash256] = [:]
        var rejected: [String: Set<String>] = [:]
        var failure: VaultError?
    }

    private let base: any ObjectStore
    private let reading: any ObjectVersions
    private let found: FoundKeys
    private let proof: ObjectProof
    /// Guards the choices; not held while versions are read, so two threads may make the same one.
    private let choices = Mutex(Choices())

    init(_ base: any ObjectStore, _ reading: any ObjectVersions, _ found: FoundKeys, proof: ObjectProof) {
        (self.base, self.reading, self.found, self.proof) = (base, reading, found, proof)
    }

    /// Why no choice could be made, when a request failed for that.
    var failure: VaultError? { choices.withLock { $0.failure } }

    /// The object at `key` is the one with this hash. Known before the key is first asked for.
    func expect(_ hash: Hash256, at key: String) { choices.withLock { $0.expected[key] = hash } }

    /// What was chosen is not what others name: the next request chooses among the rest. False where there was no choice to make.
    func reject(_ key: String) throws(VaultError) -> Bool {
        guard let versions = found.keys[key], !versions.isPlain, let chosen = try choice(versions) else { return false }
        choices.withLock { choices in
            choices.rejected[key, default: []].insert(chosen.content)
            choices.made[key] = nil
        }
        return true
    }

    /// The version that is sound, or nil when none is.
    func choice(_ key: VersionedKey) throws(VaultError) -> ObjectVersion? {
        let (made, expected, rejected) = choices.withLock { ($0.made[key.key], $0.expected[key.key], $0.rejected[key.key] ?? []) }
        if let made { return made }
        let isChain = ChainKey(key.key) != nil
        var chosen: ObjectVersion?
        var seen = rejected
        for version in isChain ? key.objects : key.objects.reversed() {
            guard seen.insert(version.content).inserted, let bytes = try read(version) else { continue }
            if let expected, Digest.sha256(bytes) != expected.bytes { continue }
            guard try proof.fits(key.key, bytes) else { continue }
            chosen = key.newest(like: version)
            break
        }
        choices.withLock { $0.made[key.key] = .some(chosen) }
        return chosen
    }

    private func read(_ version: ObjectVersion) throws(VaultError) -> [UInt8]? {
        do {
            return try reading.get(version)
        } catch where error.code == .notFound {
            return nil
        } catch {
            throw .store(error)
        }
    }

    // MARK: - Reading

    private enum Answer {
        case plain
        case version(ObjectVersion)
        case none
    }

    private func answer(_ key: String) throws(StoreError) -> Answer {
        guard let versions = found.keys[key] else { return .plain }
        do throws(VaultError) {
            return try choice(versions).map { .version($0) } ?? .none
        } catch .store(let error) {
            throw error
        } catch {
            choices.withLock { $0.failure = error }
            throw StoreError(.unsupported, "\(error)", try: "see above")
        }
    }

    var location: String { base.location }
    var features: StoreFeatures { base.features }
    var keepsChunksApart: Bool { base.keepsChunksApart }

    func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        switch try answer(key) {
        case .plain: return try base.get(key, range: range)
        case .none: throw StoreError(.notFound, "\(location): no version of \(key) is sound", try: "run `farshore vault check` to see what depends on it")
        case .version(let version):
            let bytes = try reading.get(version)
            guard let range else { return bytes }
            guard range.upperBound <= UInt64(bytes.count) else {
                throw StoreError(.outOfRange, "\(location): \(key) has \(bytes.count) bytes, asked for were \(range)", try: "run `farshore vault check`")
            }
            return Array(bytes[Int(range.lowerBound)..<Int(range.upperBound)])
        }
    }

    func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        switch try answer(key) {
        case .plain: try base.head(key)
        case .none: nil
        case .version(let version): ObjectInfo(sizeBytes: version.sizeBytes, md5: nil)
        }
    }

    /// Of a chain only: who looks for the newest object asks for no other list.
    func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        var objects: [ListedObject] = []
        for number in (found.numbers[prefix] ?? []).reversed() {
            let key = prefix + ObjectPlace.padded(number)
            guard startAfter.map({ ObjectKey.isBefore($0, key) }) ?? true, case .version(let version) = try answer(key) else { continue }
            objects.append(ListedObject(key: key, sizeBytes: version.sizeBytes))
        }
        return ListPage(objects: objects, isTruncated: false)
    }

    // MARK: - Never

    func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) { throw readOnly }
    func delete(_ keys: [String]) throws(StoreError) { throw readOnly }
    func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) { throw readOnly }
    private var readOnly: StoreError { StoreError(.unsupported, "\(location): earlier versions are only read", try: "report this") }
}
