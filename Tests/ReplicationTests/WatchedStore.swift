// A directory target that counts what is asked of it and fails where a test says so.

import ObjectStore
import Synchronization

final class WatchedStore: ObjectStore {
    enum Moment: Equatable { case before, after }

    struct Requests: Equatable {
        /// Keys of PUTs that reached the target, in order.
        var puts: [String] = []
        var all = 0
        var deletes = 0

        var chunkPuts: [String] { puts.filter { $0.hasPrefix("chunks/") } }
    }

    typealias Fault = @Sendable (_ key: String, _ moment: Moment) -> StoreError?

    private let base: any ObjectStore
    private struct State {
        var requests = Requests()
        var fault: Fault?
        var isDropped: @Sendable (String) -> Bool = { _ in false }
        var isChanged: @Sendable (String) -> Bool = { _ in false }
    }

    private let state = Mutex(State())

    init(_ base: any ObjectStore) { self.base = base }

    var requests: Requests { state.withLock { $0.requests } }

    var chunkPutCount: Int { requests.chunkPuts.count }

    /// PUTs of these keys are acknowledged and not kept.
    func dropPuts(_ isDropped: @escaping @Sendable (String) -> Bool) { state.withLock { $0.isDropped = isDropped } }

    /// PUTs of these keys are acknowledged and kept with one bit flipped.
    func changePuts(_ isChanged: @escaping @Sendable (String) -> Bool) { state.withLock { $0.isChanged = isChanged } }

    func failPuts(_ fault: Fault?) { state.withLock { $0.fault = fault } }

    var location: String { base.location }
    var features: StoreFeatures { base.features }

    func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        try fail(key, .before)
        let (isDropped, isChanged) = state.withLock { ($0.isDropped, $0.isChanged) }
        var kept = bytes
        if isChanged(key) { kept[bytes.count / 2] ^= 1 }
        if !isDropped(key) { try base.put(key, kept, ifAbsent: ifAbsent) }
        state.withLock { $0.requests.puts.append(key) }
        count()
        try fail(key, .after)
    }

    private func fail(_ key: String, _ moment: Moment) throws(StoreError) {
        // Called outside of the lock: a fault may ask what was sent.
        let fault = state.withLock { $0.fault }
        if let error = fault?(key, moment) { throw error }
    }

    private func count() { state.withLock { $0.requests.all += 1 } }

    func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        count()
        return try base.get(key, range: range)
    }

    func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        count()
        return try base.head(key)
    }

    func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        count()
        return try base.list(prefix: prefix, startAfter: startAfter)
    }

    func delete(_ keys: [String]) throws(StoreError) {
        count()
        state.withLock { $0.requests.deletes += keys.count }
        try base.delete(keys)
    }

    func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {
        count()
        try base.probe(existing: key, bytes)
    }
}

let unreachable = StoreError(.unreachable, "the target went away", try: "wait")
