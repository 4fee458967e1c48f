// Counts what a store is asked: requests and payload bytes by kind. For `status`, and for tests that prove what was not
// sent. Placed below RetryingStore it counts every try, above it every request.

import Synchronization

package struct StoreCounts: Equatable, Sendable {
    package var puts = 0
    package var gets = 0
    package var heads = 0
    package var lists = 0
    package var deletes = 0
    package var probes = 0
    /// Of PUTs that were answered well.
    package var bytesSent = 0
    package var bytesReceived = 0
    package var failures = 0

    package init() {}

    package var requests: Int { puts + gets + heads + lists + deletes + probes }
}

package final class CountingStore: ObjectStore {
    private let base: any ObjectStore
    private let state = Mutex(StoreCounts())

    package init(_ base: any ObjectStore) { self.base = base }

    package var counts: StoreCounts { state.withLock { $0 } }
    package var location: String { base.location }
    package var features: StoreFeatures { base.features }
    package var clockOffsetSeconds: Int? { base.clockOffsetSeconds }
    package var keepsChunksApart: Bool { base.keepsChunksApart }

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        try counted(\.puts) { () throws(StoreError) in try base.put(key, bytes, ifAbsent: ifAbsent, md5: md5) }
        state.withLock { $0.bytesSent += bytes.count }
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        let bytes = try counted(\.gets) { () throws(StoreError) in try base.get(key, range: range) }
        state.withLock { $0.bytesReceived += bytes.count }
        return bytes
    }

    package func get(_ key: String, first count: Int) throws(StoreError) -> [UInt8] {
        let bytes = try counted(\.gets) { () throws(StoreError) in try base.get(key, first: count) }
        state.withLock { $0.bytesReceived += bytes.count }
        return bytes
    }

    package func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        try counted(\.heads) { () throws(StoreError) in try base.head(key) }
    }

    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        try counted(\.lists) { () throws(StoreError) in try base.list(prefix: prefix, startAfter: startAfter) }
    }

    package func delete(_ keys: [String]) throws(StoreError) {
        try counted(\.deletes) { () throws(StoreError) in try base.delete(keys) }
    }

    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {
        try counted(\.probes) { () throws(StoreError) in try base.probe(existing: key, bytes) }
    }

    private func counted<Result>(_ kind: WritableKeyPath<StoreCounts, Int>, _ request: () throws(StoreError) -> Result) throws(StoreError) -> Result {
        state.withLock { $0[keyPath: kind] += 1 }
        do throws(StoreError) {
            return try request()
        } catch {
            state.withLock { $0.failures += 1 }
            throw error
        }
    }
}
