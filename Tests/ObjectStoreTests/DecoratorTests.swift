// The decorators over a store in memory that fails as told.

import ObjectStore
import Synchronization
import Testing

@Suite struct DecoratorTests {
    private static func quick(_ tries: Int) -> RetryPolicy {
        var policy = RetryPolicy()
        (policy.triesMax, policy.firstWaitMilliseconds) = (tries, 1)
        return policy
    }

    @Test(arguments: [StoreError.Code.unreachable, .timedOut, .throttled, .serverFault, .corruptResponse])
    func passingFaultsAreRetried(_ code: StoreError.Code) throws {
        let flaky = FlakyStore(failures: 3, code, doneAnyway: false)
        let store = RetryingStore(flaky, policy: Self.quick(4))
        try store.put("k", [1], ifAbsent: false)
        #expect(try store.get("k") == [1])
        #expect(store.retryCount == 3)
        flaky.failNext(4)
        expectCode(code) { _ = try store.get("k") }
    }

    @Test(arguments: StoreError.Code.allCases.filter { ![.unreachable, .timedOut, .throttled, .serverFault, .corruptResponse].contains($0) })
    func otherFaultsAreNot(_ code: StoreError.Code) {
        let store = RetryingStore(FlakyStore(failures: 1, code, doneAnyway: false), policy: Self.quick(4))
        expectCode(code) { try store.put("k", [1], ifAbsent: true) }
        #expect(store.retryCount == 0)
    }

    /// The first try was done but its answer lost: the repetition finds our own object.
    @Test func lostAnswerOfAConditionalPut() throws {
        let store = RetryingStore(FlakyStore(failures: 1, .timedOut, doneAnyway: true), policy: Self.quick(4))
        try store.put("heads/1", [1, 2], ifAbsent: true)
        expectCode(.alreadyExists) { try store.put("heads/1", [1, 2], ifAbsent: true) }
    }

    @Test func anotherWritersObjectIsNotTakenForOurs() throws {
        let flaky = FlakyStore(failures: 0, .timedOut, doneAnyway: false)
        let store = RetryingStore(flaky, policy: Self.quick(4))
        try store.put("heads/1", [9], ifAbsent: true)
        flaky.failNext(1)
        expectCode(.alreadyExists) { try store.put("heads/1", [1], ifAbsent: true) }
    }

    /// The copy of the target that answers the read is behind: that is not for good, as an absent object would be.
    @Test func anObjectThatIsThereAndNotToBeReadYetIsNotTakenForOurs() {
        let store = RetryingStore(FlakyStore(failures: 1, .timedOut, doneAnyway: true, hides: true), policy: Self.quick(4))
        expectCode(.alreadyExists) { try store.put("heads/1", [1], ifAbsent: true) }
    }

    @Test func waitsGrowWithJitter() {
        let policy = RetryPolicy()
        #expect(policy.waitMilliseconds(beforeTry: 2, random: 0) == 100)
        #expect(policy.waitMilliseconds(beforeTry: 2, random: 0.999) <= 200)
        #expect(policy.waitMilliseconds(beforeTry: 3, random: 0) == 400)
        #expect(policy.waitMilliseconds(beforeTry: 4, random: 0.5) == 2400)
    }

    @Test func aThrottlingTargetIsLeftAloneAsLongAsItAsks() throws {
        let flaky = FlakyStore(failures: 1, .throttled, doneAnyway: false, retryAfterSeconds: 1)
        let start = ContinuousClock.now
        try RetryingStore(flaky, policy: Self.quick(4)).put("k", [1], ifAbsent: false)
        #expect(ContinuousClock.now - start >= .seconds(1))
        let patient = RetryingStore(FlakyStore(failures: 1, .throttled, doneAnyway: false, retryAfterSeconds: 31), policy: Self.quick(4))
        expectCode(.throttled) { _ = try patient.get("k") }
        #expect(patient.retryCount == 0)
    }

    /// Over any time, what was let go is at most the rate's share and the one object that is still to be paid for.
    @Test func aTokenBucketKeepsItsRate() {
        let (rate, second): (UInt64, UInt64) = (1 << 20, 1_000_000_000)
        var bucket = TokenBucket(nowNanoseconds: 5)
        var (now, sent): (UInt64, UInt64) = (5, 0)
        var numbers = SystemRandomNumberGenerator()
        while now < 60 * second {
            let bytes = Int.random(in: 1...(2 << 20), using: &numbers)
            guard let wait = bucket.take(bytes, bytesPerSecond: rate, nowNanoseconds: now) else {
                sent += UInt64(bytes)
                #expect(Double(sent) <= Double(rate) * Double(now) / 1e9 + Double(2 << 20))
                continue
            }
            now += wait
        }
        #expect(sent >= 59 * rate)
        // A limit that is lifted forgives what was owed, one that is lowered does not; a clock that stands still lets nothing go.
        #expect(bucket.take(1 << 20, bytesPerSecond: nil, nowNanoseconds: now) == nil && bucket.take(1 << 20, bytesPerSecond: rate, nowNanoseconds: now) == nil)
        #expect(bucket.take(1, bytesPerSecond: rate / 4, nowNanoseconds: now) == 4 * second)
        #expect(bucket.take(1, bytesPerSecond: rate / 4, nowNanoseconds: now - second) == 4 * second)
    }

    @Test func countsRequestsAndBytes() throws {
        let store = CountingStore(FlakyStore(failures: 0, .timedOut, doneAnyway: false))
        try store.put("a", [1, 2, 3], ifAbsent: true)
        #expect(throws: StoreError.self) { try store.put("a", [1], ifAbsent: true) }
        _ = try store.get("a")
        _ = try store.get("a", range: 0..<2)
        _ = try store.head("b")
        _ = try store.list(prefix: "", startAfter: nil)
        try store.delete(["a"])
        let counts = store.counts
        #expect((counts.puts, counts.gets, counts.heads, counts.lists, counts.deletes) == (2, 2, 1, 1, 1))
        #expect((counts.bytesSent, counts.bytesReceived, counts.failures, counts.requests) == (3, 5, 1, 7))
    }
}

/// Keeps objects in memory; fails the next requests, a PUT before or after it was done.
private final class FlakyStore: ObjectStore {
    private let state: Mutex<(objects: [String: [UInt8]], failures: Int)>
    private let code: StoreError.Code
    private let doneAnyway: Bool
    private let retryAfterSeconds: Int?
    private let hides: Bool

    init(failures: Int, _ code: StoreError.Code, doneAnyway: Bool, retryAfterSeconds: Int? = nil, hides: Bool = false) {
        state = Mutex((objects: [:], failures: failures))
        (self.code, self.doneAnyway, self.retryAfterSeconds, self.hides) = (code, doneAnyway, retryAfterSeconds, hides)
    }

    func failNext(_ count: Int) { state.withLock { $0.failures = count } }

    let location = "memory"
    let features = StoreFeatures(conditionalPut: true, checksumTrusted: false)

    private var fails: Bool {
        state.withLock { state in
            guard state.failures > 0 else { return false }
            state.failures -= 1
            return true
        }
    }

    private func failure(_ code: StoreError.Code) -> StoreError { StoreError(code, "told to fail", try: "nothing", retryAfterSeconds: retryAfterSeconds) }

    func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        let fails = fails
        if fails, !doneAnyway { throw failure(code) }
        let isTaken = state.withLock { state in
            if ifAbsent, state.objects[key] != nil { return true }
            state.objects[key] = bytes
            return false
        }
        if isTaken { throw failure(.alreadyExists) }
        if fails { throw failure(code) }
    }

    func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        if fails { throw failure(code) }
        guard !hides, let bytes = state.withLock({ $0.objects[key] }) else { throw failure(.notFound) }
        return range.map { Array(bytes[Int($0.lowerBound)..<Int($0.upperBound)]) } ?? bytes
    }

    func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        if fails { throw failure(code) }
        return state.withLock { $0.objects[key] }.map { ObjectInfo(sizeBytes: UInt64($0.count), md5: nil) }
    }

    func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        if fails { throw failure(code) }
        return ListPage(objects: [], isTruncated: false)
    }

    func delete(_ keys: [String]) throws(StoreError) {
        if fails { throw failure(code) }
        state.withLock { state in for key in keys { state.objects[key] = nil } }
    }

    func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {}
}
