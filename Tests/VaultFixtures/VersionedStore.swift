// A bucket with versions and object lock, in memory, and what a thief can do to it who has every right but to remove what is locked.

package import ObjectStore
import Synchronization
import Vault

package final class VersionedStore: ObjectStore, ObjectVersions {
    private struct Version {
        let id: String
        /// Nil: a delete marker.
        let bytes: [UInt8]?
        let tag: String
        var lock: ObjectLock?
    }

    private struct State {
        /// Newest first.
        var versions: [String: [Version]] = [:]
        var made = 0
        var requestsLeft = Int.max
        var lockRequests = 0
    }

    private let state = Mutex(State())
    private let isConditional: Bool
    private let pageVersions: Int
    private let defaultLockSeconds: Int?

    /// `isConditional`: PUTs can be refused where an object is, which Ceph 16 cannot in such a bucket. Lists have small pages, that end inside of keys.
    package init(isConditional: Bool, pageVersions: Int = 7, defaultLockSeconds: Int? = 86_400) {
        (self.isConditional, self.pageVersions, self.defaultLockSeconds) = (isConditional, pageVersions, defaultLockSeconds)
    }

    package var versions: (any ObjectVersions)? { self }
    package var location: String { "versioned://" }
    package var features: StoreFeatures { StoreFeatures(conditionalPut: isConditional, checksumTrusted: false) }

    private static var nowSeconds: Int { Int(Vault.nowMicros() / 1_000_000) }

    // MARK: - What tests ask and set

    /// What a request without a version gets, by key.
    package var visible: [String: [UInt8]] { state.withLock { $0.versions.compactMapValues { $0.first?.bytes } } }
    package var lockRequests: Int { state.withLock { $0.lockRequests } }
    /// So many requests are answered from now on.
    package func fail(after requests: Int) { state.withLock { $0.requestsLeft = requests } }
    package func lockEnd(of key: String) -> Int? { state.withLock { $0.versions[key]?.first { $0.bytes != nil }?.lock?.untilSeconds } }
    package var deletedKeys: Set<String> { state.withLock { Set($0.versions.filter { $0.value.first.map { $0.bytes == nil } ?? false }.keys) } }
    /// Every version of the key with these bytes is gone for good, lock or not.
    package func destroy(_ key: String, _ bytes: [UInt8]) { state.withLock { $0.versions[key]?.removeAll { $0.bytes == bytes } } }
    /// The newest version of the key is gone for good, lock or not.
    package func destroyNewest(_ key: String) { state.withLock { _ = $0.versions[key]?.removeFirst() } }

    private func request<Value>(_ body: (inout State) throws(StoreError) -> Value) throws(StoreError) -> Value {
        try state.withLock { (state: inout sending State) throws(StoreError) in
            guard state.requestsLeft > 0 else { throw StoreError(.unreachable, "away", try: "") }
            state.requestsLeft -= 1
            return try body(&state)
        }
    }

    private static func add(_ bytes: [UInt8]?, _ key: String, _ lockSeconds: Int?, _ state: inout State) {
        state.made += 1
        let lock = bytes == nil ? nil : lockSeconds.map { ObjectLock(mode: .governance, untilSeconds: Self.nowSeconds + $0) }
        state.versions[key, default: []].insert(Version(id: "v\(state.made)", bytes: bytes, tag: bytes.map { "\($0.count)-\($0.hashValue)" } ?? "", lock: lock), at: 0)
    }

    private func absent(_ key: String) -> StoreError { StoreError(.notFound, "no \(key)", try: "") }

    // MARK: - The contract

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        let isTaken = try request { state in
            if ifAbsent, isConditional, state.versions[key]?.first?.bytes != nil { return true }
            Self.add(bytes, key, defaultLockSeconds, &state)
            return false
        }
        if isTaken { throw StoreError(.alreadyExists, "\(key) is there", try: "") }
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        guard let bytes = try request({ $0.versions[key]?.first?.bytes }) else { throw absent(key) }
        guard let range else { return bytes }
        guard range.upperBound <= UInt64(bytes.count) else { throw StoreError(.outOfRange, "\(key) ends before", try: "") }
        return Array(bytes[Int(range.lowerBound)..<Int(range.upperBound)])
    }

    package func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        try request { $0.versions[key]?.first?.bytes }.map { ObjectInfo(sizeBytes: UInt64($0.count), md5: nil) }
    }

    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        let found = try request { $0.versions.compactMapValues { $0.first?.bytes?.count } }.filter { $0.key.hasPrefix(prefix) && $0.key > startAfter ?? "" }.sorted { $0.key < $1.key }
        let page = found.prefix(ObjectLimits.listPageKeys).map { ListedObject(key: $0.key, sizeBytes: UInt64($0.value)) }
        return ListPage(objects: page, isTruncated: found.count > page.count)
    }

    package func delete(_ keys: [String]) throws(StoreError) {
        try request { state in
            for key in keys { Self.add(nil, key, nil, &state) }
        }
    }

    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) { try put(key, bytes, ifAbsent: true) }

    // MARK: - Versions

    package func lockRule() throws(StoreError) -> LockRule? { defaultLockSeconds.map { LockRule(mode: .governance, days: $0 / 86_400) } }

    package func listVersions(prefix: String, after: VersionMark?) throws(StoreError) -> VersionPage {
        let all = try request(\.versions).filter { $0.key.hasPrefix(prefix) }.sorted { $0.key < $1.key }.flatMap { key, versions in
            versions.enumerated().map { number, version in
                ObjectVersion(key: key, id: version.id, isNewest: number == 0, isMarker: version.bytes == nil, sizeBytes: UInt64(version.bytes?.count ?? 0), tag: version.tag)
            }
        }
        let start = after.flatMap { after in all.firstIndex { $0.key == after.key && $0.id == after.version } }.map { $0 + 1 } ?? 0
        let end = min(start + pageVersions, all.count)
        return VersionPage(versions: Array(all[start..<end]), next: end < all.count ? VersionMark(key: all[end - 1].key, version: all[end - 1].id) : nil)
    }

    package func get(_ version: ObjectVersion) throws(StoreError) -> [UInt8] {
        guard let bytes = try request({ $0.versions[version.key]?.first { $0.id == version.id }?.bytes }) else { throw absent(version.key) }
        return bytes
    }

    package func lock(of version: ObjectVersion) throws(StoreError) -> ObjectLock? {
        try request { $0.versions[version.key]?.first { $0.id == version.id }?.lock }
    }

    package func setLock(_ lock: ObjectLock, of version: ObjectVersion) throws(StoreError) {
        let isThere = try request { state in
            state.lockRequests += 1
            guard let number = state.versions[version.key]?.firstIndex(where: { $0.id == version.id }) else { return false }
            state.versions[version.key]![number].lock = lock
            return true
        }
        guard isThere else { throw absent(version.key) }
    }

    package func bringBack(_ version: ObjectVersion) throws(StoreError) { try put(version.key, try get(version), ifAbsent: false) }

    package func remove(_ versions: [ObjectVersion]) throws(StoreError) {
        let isRefused = try request { state in
            var isRefused = false
            for version in versions {
                state.versions[version.key]?.removeAll { kept in
                    guard kept.id == version.id else { return false }
                    guard kept.lock.map({ $0.untilSeconds < Self.nowSeconds }) ?? true else {
                        isRefused = true
                        return false
                    }
                    return true
                }
            }
            return isRefused
        }
        if isRefused { throw StoreError(.accessDenied, "locked", try: "") }
    }
}
