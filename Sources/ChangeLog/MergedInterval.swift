// Of the sequences after `after` up to `through` only the state at `through` can be had: records that newer ones overwrite were left out.

package struct MergedInterval: Equatable, Sendable, CustomStringConvertible {
    package let after: UInt64
    package let through: UInt64

    package init(after: UInt64, through: UInt64) {
        self.after = after
        self.through = through
    }

    package func hides(_ sequence: UInt64) -> Bool { sequence > after && sequence < through }

    package var description: String { "#\(after) to #\(through)" }
}

extension [MergedInterval] {
    /// Adds one that does not begin before those that are here; what overlaps becomes one.
    package mutating func join(_ interval: MergedInterval) {
        guard interval.after < interval.through else { return }
        guard let last, interval.after < last.through else { return append(interval) }
        self[count - 1] = MergedInterval(after: last.after, through: Swift.max(last.through, interval.through))
    }

    package func hides(_ sequence: UInt64) -> Bool { contains { $0.hides(sequence) } }
}

extension SegmentHeader {
    /// Nil but for a merged segment.
    var mergedInterval: MergedInterval? { merge.map { MergedInterval(after: afterSequence, through: $0.through) } }
}
