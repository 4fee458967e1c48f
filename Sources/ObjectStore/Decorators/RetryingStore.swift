// A request's own quick retries: a few tries within seconds, with jitter, so that one 503 or one broken connection costs
// no minute. The long waits between attempts of replication are not here.
//
// Every request may be repeated: a PUT sends the same bytes. A conditional PUT whose answer was lost may have been done,
// so when its repetition finds an object, the bytes there decide whether it is ours.

import Synchronization

package struct RetryPolicy: Sendable {
    package var triesMax = 4
    /// Before the second try; each later wait is four times the one before. Half of every wait is random.
    package var firstWaitMilliseconds = 200
    /// No further try starts after this.
    package var secondsMax = 30

    package init() {}

    package func waitMilliseconds(beforeTry number: Int, random: Double) -> Int {
        let full = firstWaitMilliseconds << min(2 * max(0, number - 2), 20)
        return full / 2 + Int(Double(full / 2) * random)
    }
}

package final class RetryingStore: ObjectStore {
    private let base: any ObjectStore
    private let policy: RetryPolicy
    private let retries = Atomic<UInt64>(0)

    package init(_ base: any ObjectStore, policy: RetryPolicy = RetryPolicy()) {
        self.base = base
        self.policy = policy
    }

    package var location: String { base.location }
    package var features: StoreFeatures { base.features }
    package var clockOffsetSeconds: Int? { base.clockOffsetSeconds }
    package var versions: (any ObjectVersions)? { base.versions.map { RetryingVersions($0, self) } }

    /// Tries beyond the first, over all requests.
    package var retryCount: UInt64 { retries.load(ordering: .relaxed) }

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        var isRepetition = false
        try attempt { () throws(StoreError) in
            do throws(StoreError) {
                try base.put(key, bytes, ifAbsent: ifAbsent, md5: md5)
            } catch {
                guard isRepetition, error.code == .alreadyExists else {
                    isRepetition = true
                    throw error
                }
                guard try holds(key, bytes) else { throw error }
            }
        }
    }

    /// Another copy at the target may not know of the object yet: that is for who asked to judge, as an object that is not ours.
    private func holds(_ key: String, _ bytes: [UInt8]) throws(StoreError) -> Bool {
        do {
            return try base.get(key, range: nil) == bytes
        } catch where error.code == .notFound {
            return false
        }
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        try attempt { () throws(StoreError) in try base.get(key, range: range) }
    }

    package func get(_ key: String, first count: Int) throws(StoreError) -> [UInt8] {
        try attempt { () throws(StoreError) in try base.get(key, first: count) }
    }

    package func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        try attempt { () throws(StoreError) in try base.head(key) }
    }

    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        try attempt { () throws(StoreError) in try base.list(prefix: prefix, startAfter: startAfter) }
    }

    package func delete(_ keys: [String]) throws(StoreError) {
        try attempt { () throws(StoreError) in try base.delete(keys) }
    }

    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {
        try attempt { () throws(StoreError) in try base.probe(existing: key, bytes) }
    }

    func attempt<Result>(_ request: () throws(StoreError) -> Result) throws(StoreError) -> Result {
        let start = ContinuousClock.now
        var tries = 1
        while true {
            let wished: Int
            do throws(StoreError) {
                return try request()
            } catch {
                // Sooner than the target asks for is in vain, and a longer wait is not a request's business.
                wished = max(0, error.retryAfterSeconds ?? 0)
                let rest = Duration.seconds(policy.secondsMax) - (ContinuousClock.now - start)
                guard Self.isWorthRetrying(error.code), tries < policy.triesMax, rest > Duration.seconds(wished) else { throw error }
            }
            tries += 1
            retries.add(1, ordering: .relaxed)
            sleepMilliseconds(max(wished * 1000, policy.waitMilliseconds(beforeTry: tries, random: .random(in: 0..<1))))
        }
    }

    /// Space at the target does not come back within seconds.
    private static func isWorthRetrying(_ code: StoreError.Code) -> Bool {
        switch code {
        case .unreachable, .timedOut, .throttled, .serverFault, .corruptResponse: true
        default: false
        }
    }
}
