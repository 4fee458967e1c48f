// Whether a disk is being overwritten by data that looks encrypted: a pure state machine over what each publication
// wrote. Raised when within ten minutes at least 32 MiB, and a thousandth of what the disk holds, was overwritten so, and that was half of
// all that was written since some moment of them; over when within ten minutes it was less than a quarter of that, whoever looked meanwhile.

package struct AnomalyWatch: Equatable, Sendable {
    package enum Change: Equatable, Sendable {
        /// `cleanSequence`: within ten minutes nothing was overwritten so up to there. Everyday noise makes it older than need be, never newer.
        case raised(convertedBytes: UInt64, writtenBytes: UInt64, seconds: UInt64, cleanSequence: UInt64)
        case over
    }

    package static let windowNanoseconds: UInt64 = 600_000_000_000
    package static let convertedBytesMin: UInt64 = 32 << 20
    private static let heldPart: UInt64 = 1_000

    private struct Interval: Equatable {
        let time: UInt64
        let change: ContentMap.Change
        let before: UInt64
    }

    private var intervals: [Interval] = []
    /// While it is raised: how long at least, by the same clock.
    package private(set) var standsUntil: UInt64?

    package var isRaised: Bool { standsUntil != nil }

    /// `standsUntil`: of an alarm that another watch raised.
    package init(standsUntil: UInt64? = nil) { self.standsUntil = standsUntil }

    /// `change` is what was written after sequence `before`; `now` by a monotonic clock.
    package mutating func look(_ change: ContentMap.Change, after before: UInt64, heldBytes: UInt64, now: UInt64) -> Change? {
        intervals.removeAll { $0.time + Self.windowNanoseconds < now }
        if change.writtenBytes > 0 { intervals.append(Interval(time: now, change: change, before: before)) }
        let threshold = max(Self.convertedBytesMin, heldBytes / Self.heldPart)
        if let known = standsUntil {
            let until = max(known, restlessUntil(threshold / 4) ?? 0)
            standsUntil = until < now ? nil : until
            return isRaised ? nil : .over
        }
        guard let (converted, written) = burst(of: threshold) else { return nil }
        standsUntil = restlessUntil(threshold / 4) ?? now + Self.windowNanoseconds
        let first = intervals.first { $0.change.convertedBytes > 0 }
        return .raised(
            convertedBytes: converted, writtenBytes: written, seconds: (now - (first?.time ?? now)) / 1_000_000_000, cleanSequence: first?.before ?? before)
    }

    /// When so much is no longer within ten minutes.
    private func restlessUntil(_ bytes: UInt64) -> UInt64? {
        var sum: UInt64 = 0
        for interval in intervals.reversed() {
            sum += interval.change.convertedBytes
            if sum >= bytes { return interval.time + Self.windowNanoseconds }
        }
        return nil
    }

    /// The shortest end of the window that is enough for an alarm: what was written before must not hide it.
    private func burst(of threshold: UInt64) -> (converted: UInt64, written: UInt64)? {
        var sum = ContentMap.Change()
        for interval in intervals.reversed() {
            sum.add(interval.change)
            if sum.convertedBytes >= threshold, sum.convertedBytes * 2 >= sum.writtenBytes { return (sum.convertedBytes, sum.writtenBytes) }
        }
        return nil
    }
}
