// A store between vault and directory that a test can make lie: drop PUTs, hide objects, change bytes, fail, or do
// without conditional PUT. Counts requests.

package import ObjectStore
import Synchronization

package final class MeddledStore: ObjectStore {
    package struct Meddling: Sendable {
        package var conditionalPut = true
        package var checksumTrusted = false
        /// PUTs of these keys are acknowledged and dropped.
        package var drops: @Sendable (String) -> Bool = { _ in false }
        /// Requests for these keys fail.
        package var fails: @Sendable (String) -> StoreError? = { _ in nil }
        /// What is stored instead of what was sent.
        package var stores: @Sendable (String, [UInt8]) -> [UInt8] = { $1 }
        /// What a whole object reads as instead of what is stored.
        package var reads: @Sendable (String, [UInt8]) -> [UInt8] = { $1 }
        /// Runs before a PUT reaches the target.
        package var beforePut: @Sendable (String) -> Void = { _ in }
        /// Runs before a LIST reaches the target.
        package var beforeList: @Sendable (String) -> Void = { _ in }

        /// What a LIST of the prefix says instead of what is there.
        package var lists: @Sendable (String, ListPage) -> ListPage = { $1 }

        init() {}
    }

    package struct Counts: Sendable {
        package var puts: [String] = []
        package var gets = 0
        package var getBytes = 0
        package var heads = 0
        package var lists = 0
    }

    private let inner: any ObjectStore
    private let meddling = Mutex(Meddling())
    private let counted = Mutex(Counts())

    package init(_ inner: any ObjectStore) { self.inner = inner }

    package func meddle(_ change: (inout Meddling) -> Void) { meddling.withLock { change(&$0) } }
    package var counts: Counts { counted.withLock { $0 } }
    package func resetCounts() { counted.withLock { $0 = Counts() } }

    package var location: String { inner.location }
    package var features: StoreFeatures {
        meddling.withLock { StoreFeatures(conditionalPut: $0.conditionalPut, checksumTrusted: $0.checksumTrusted) }
    }

    private func failIfTold(_ key: String) throws(StoreError) {
        if let error = meddling.withLock({ $0.fails })(key) { throw error }
    }

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        let meddling = meddling.withLock { $0 }
        meddling.beforePut(key)
        try failIfTold(key)
        counted.withLock { $0.puts.append(key) }
        if ifAbsent, !meddling.conditionalPut { throw StoreError(.unsupported, "no conditional PUT here", try: "") }
        if meddling.drops(key) { return }
        try inner.put(key, meddling.stores(key, bytes), ifAbsent: ifAbsent)
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        try failIfTold(key)
        let bytes = try inner.get(key, range: range)
        counted.withLock {
            $0.gets += 1
            $0.getBytes += bytes.count
        }
        return range == nil ? meddling.withLock { $0.reads }(key, bytes) : bytes
    }

    package func get(_ key: String, first count: Int) throws(StoreError) -> [UInt8] {
        try failIfTold(key)
        let bytes = try inner.get(key, first: count)
        counted.withLock {
            $0.gets += 1
            $0.getBytes += bytes.count
        }
        return bytes
    }

    package func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        try failIfTold(key)
        counted.withLock { $0.heads += 1 }
        return try inner.head(key)
    }

    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        meddling.withLock { $0.beforeList }(prefix)
        counted.withLock { $0.lists += 1 }
        return meddling.withLock { $0.lists }(prefix, try inner.list(prefix: prefix, startAfter: startAfter))
    }

    package func delete(_ keys: [String]) throws(StoreError) { try inner.delete(keys) }
    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {}
}
