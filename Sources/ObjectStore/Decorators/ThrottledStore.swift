// Holds PUTs back so that no more than so many bytes a second are sent: the one place where sending is limited. Stands
// above RetryingStore, so the time of a request's own deadline begins when it is let go, and its repetitions are not counted.

import BlockIO
import Synchronization

/// Bytes that were let go and not paid for by time yet. Pure: the caller tells the time and the rate of the moment, which
/// may change between two calls.
package struct TokenBucket: Equatable, Sendable {
    private var owedBytes: Double = 0
    private var settledAt: UInt64

    package init(nowNanoseconds: UInt64) { settledAt = nowNanoseconds }

    /// Lets `bytes` go when nothing is owed (then nil), else says how many nanoseconds at this rate until nothing is. The
    /// largest object is let go whole: what it is too much, the next ones wait for.
    package mutating func take(_ bytes: Int, bytesPerSecond: UInt64?, nowNanoseconds now: UInt64) -> UInt64? {
        let passed = now > settledAt ? now - settledAt : 0
        settledAt = max(now, settledAt)
        guard let rate = bytesPerSecond.map({ Double(max($0, 1)) }) else {
            owedBytes = 0
            return nil
        }
        owedBytes = max(0, owedBytes - rate * Double(passed) / 1e9)
        guard owedBytes <= 0 else { return UInt64((owedBytes / rate * 1e9).rounded(.up)) }
        owedBytes = Double(bytes)
        return nil
    }
}

/// Shared by all who share a limit.
package final class SendingLimit: Sendable {
    /// A limit that was changed or lifted is noticed after this.
    private static let waitMillisecondsMax: UInt64 = 500

    private let bucket: Mutex<TokenBucket>

    package init() { bucket = Mutex(TokenBucket(nowNanoseconds: Clock.monotonicNanoseconds())) }

    /// Returns when `bytes` may be sent. `rate` is asked again and again; `isOver` ends the wait with an error.
    package func wait(_ bytes: Int, rate: () -> UInt64?, isOver: () -> Bool) throws(StoreError) {
        while true {
            let rate = rate()
            guard let wait = bucket.withLock({ $0.take(bytes, bytesPerSecond: rate, nowNanoseconds: Clock.monotonicNanoseconds()) }) else { return }
            guard !isOver() else {
                throw StoreError(.heldBack, "the limit of the policy's bandwidth held back what was to be sent until the end", try: "it is sent by the next attempt")
            }
            sleepMilliseconds(Int(min(wait / 1_000_000 + 1, Self.waitMillisecondsMax)))
        }
    }
}

package final class ThrottledStore: ObjectStore {
    private let base: any ObjectStore
    private let wait: @Sendable (Int) throws(StoreError) -> Void

    /// `wait` returns when so many bytes may be sent.
    package init(_ base: any ObjectStore, wait: @escaping @Sendable (Int) throws(StoreError) -> Void) {
        self.base = base
        self.wait = wait
    }

    package var location: String { base.location }
    package var features: StoreFeatures { base.features }
    package var clockOffsetSeconds: Int? { base.clockOffsetSeconds }
    package var keepsChunksApart: Bool { base.keepsChunksApart }

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        try wait(bytes.count)
        try base.put(key, bytes, ifAbsent: ifAbsent, md5: md5)
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] { try base.get(key, range: range) }
    package func get(_ key: String, first count: Int) throws(StoreError) -> [UInt8] { try base.get(key, first: count) }
    package func head(_ key: String) throws(StoreError) -> ObjectInfo? { try base.head(key) }
    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage { try base.list(prefix: prefix, startAfter: startAfter) }
    package func delete(_ keys: [String]) throws(StoreError) { try base.delete(keys) }
    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) { try base.probe(existing: key, bytes) }
}
