// How many of the last hour's cycles brought the disk's vault up to date: a pure state machine over a monotonic clock in
// nanoseconds. Time is cut into intervals; one in which no attempt began that succeeded is missed. Raised above 20 %, over
// below 10 %. Judged when ten minutes, and five intervals, have passed; of long intervals five make the hour.

package struct MissedCycles: Equatable, Sendable {
    package enum Change: Equatable, Sendable {
        case raised(missed: Int, of: Int)
        case over
    }

    private static let hour: UInt64 = 3_600_000_000_000
    private static let cyclesMin: UInt64 = 5

    private let interval: UInt64
    private let start: UInt64
    /// Numbers of intervals that were not missed, rising, within the hour.
    private var kept: [UInt64] = []
    package private(set) var isRaised = false

    package init(intervalSeconds: Int, now: UInt64) {
        interval = UInt64(max(intervalSeconds, 1)) * 1_000_000_000
        start = now
    }

    package func isFor(intervalSeconds: Int) -> Bool { interval == UInt64(max(intervalSeconds, 1)) * 1_000_000_000 }

    package mutating func succeeded(begunAt time: UInt64) {
        let number = time > start ? (time - start) / interval : 0
        if number > kept.last ?? 0 || kept.isEmpty { kept.append(number) }
    }

    package mutating func look(now: UInt64) -> Change? {
        // The one that is not over yet does not count.
        let over = now > start ? (now - start) / interval : 0
        let window = min(over, max(Self.hour / interval, Self.cyclesMin))
        kept.removeAll { $0 + window < over }
        guard window >= max(Self.hour / interval / 6, Self.cyclesMin) else { return nil }
        let missed = window - min(window, UInt64(kept.count { $0 < over }))
        if !isRaised, missed * 5 > window {
            isRaised = true
            return .raised(missed: Int(missed), of: Int(window))
        }
        guard isRaised, missed * 10 < window else { return nil }
        isRaised = false
        return .over
    }
}
