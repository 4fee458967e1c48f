// Whether what the vault is proven to have is too old: a pure state machine. Raised when the oldest write that the vault
// lacks is older than the policy allows; over when for two intervals on end it was below 80 % of that. Between two
// publications the lag falls to nothing and rises again, which is no end of anything.
//
// The age is that which the record's own time gives. No write is older than the beginning of the last attempt that
// succeeded, by the monotonic clock: that bounds it, and stands for it when the wall clock was set since then. Before the
// first success nothing tells whether the clock was set before the watch began: the record's time counts only once the
// watch alone is as old as the policy allows.

package struct LagWatch: Equatable, Sendable {
    package enum Change: Equatable, Sendable {
        case raised(lagSeconds: Double)
        case over
    }

    /// The wall clock was set when it moves by more than this against the monotonic one between two looks.
    private static let clockToleranceNanoseconds: UInt64 = 2_000_000_000

    private var provenThrough: UInt64?
    private var watchedSince: UInt64?
    private var clockOffset: UInt64?
    private var isClockDoubted = false
    private var calmSince: UInt64?
    package private(set) var isRaised = false

    /// The uploader before had raised it: there is no doubt to begin with.
    private let wasRaised: Bool

    package init(wasRaised: Bool = false) { self.wasRaised = wasRaised }

    /// An attempt that began then brought all into the vault that was durable at its beginning.
    package mutating func succeeded(begunAt time: UInt64) {
        provenThrough = max(provenThrough ?? 0, time)
        isClockDoubted = false
    }

    /// The clocks in nanoseconds; `oldestWallNanoseconds` is the time of the oldest record that the vault lacks.
    package mutating func look(
        oldestWallNanoseconds: UInt64?, now: UInt64, wallNanoseconds: UInt64, lateSeconds: Int, intervalSeconds: Int
    ) -> Change? {
        noteClock(wallNanoseconds &- now)
        watchedSince = watchedSince ?? now
        let late = UInt64(lateSeconds) * 1_000_000_000
        let age = oldestWallNanoseconds.map { self.age($0, now: now, wallNanoseconds: wallNanoseconds, late: late) } ?? 0
        if age > late {
            calmSince = nil
            defer { isRaised = true }
            return isRaised ? nil : .raised(lagSeconds: Double(age) / 1e9)
        }
        guard isRaised else { return nil }
        guard age < late / 10 * 8 else {
            calmSince = nil
            return nil
        }
        let since = calmSince ?? now
        calmSince = since
        guard now - since >= UInt64(2 * intervalSeconds) * 1_000_000_000 else { return nil }
        (isRaised, calmSince) = (false, nil)
        return .over
    }

    private mutating func noteClock(_ offset: UInt64) {
        if let before = clockOffset {
            let moved = min(offset &- before, before &- offset)
            if moved > Self.clockToleranceNanoseconds { isClockDoubted = true }
        }
        clockOffset = offset
    }

    private func age(_ written: UInt64, now: UInt64, wallNanoseconds: UInt64, late: UInt64) -> UInt64 {
        let byWall = wallNanoseconds > written ? wallNanoseconds - written : 0
        if let provenThrough {
            let most = now - min(now, provenThrough)
            return isClockDoubted ? most : min(byWall, most)
        }
        let watched = now - min(now, watchedSince ?? now)
        return isClockDoubted || watched <= late && !wasRaised ? watched : byWall
    }
}
