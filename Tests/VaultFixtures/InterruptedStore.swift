// A store to which something happens at its n-th request: it fails from there on, as for a process that was killed, or
// somebody else does something just before the request is carried out.

package import ObjectStore
import Synchronization

package final class InterruptedStore: ObjectStore {
    package enum Interruption: Sendable {
        /// This and all later requests fail.
        case dies
        /// The request is carried out, its answer and all later ones are lost.
        case diesAfter
        case runs(@Sendable () -> Void)
    }

    private struct State {
        var calls = 0
        var at = Int.max
        var interruption = Interruption.dies
        var deletes = 0
    }

    private let inner: any ObjectStore
    private let state = Mutex(State())

    package init(_ inner: any ObjectStore) { self.inner = inner }

    /// From now on calls are counted from 1.
    package func interrupt(at call: Int, _ interruption: Interruption) {
        state.withLock { state in
            state.calls = 0
            state.at = call
            state.interruption = interruption
        }
    }

    package var calls: Int { state.withLock { $0.calls } }
    package var deletes: Int { state.withLock { $0.deletes } }

    private func request<Value>(_ call: () throws(StoreError) -> Value) throws(StoreError) -> Value {
        let (number, at, interruption) = state.withLock { state in
            state.calls += 1
            return (state.calls, state.at, state.interruption)
        }
        let dead = StoreError(.unreachable, "the process is gone", try: "")
        switch interruption {
        case .dies: if number >= at { throw dead }
        case .diesAfter:
            if number > at { throw dead }
            if number == at {
                _ = try call()
                throw dead
            }
        case .runs(let body): if number == at { body() }
        }
        return try call()
    }

    package var location: String { inner.location }
    package var features: StoreFeatures { inner.features }
    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) { try request { () throws(StoreError) in try inner.put(key, bytes, ifAbsent: ifAbsent, md5: md5) } }
    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] { try request { () throws(StoreError) in try inner.get(key, range: range) } }
    package func head(_ key: String) throws(StoreError) -> ObjectInfo? { try request { () throws(StoreError) in try inner.head(key) } }
    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        try request { () throws(StoreError) in try inner.list(prefix: prefix, startAfter: startAfter) }
    }
    package func delete(_ keys: [String]) throws(StoreError) {
        state.withLock { $0.deletes += keys.count }
        try request { () throws(StoreError) in try inner.delete(keys) }
    }
    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) { try request { () throws(StoreError) in try inner.probe(existing: key, bytes) } }
}
