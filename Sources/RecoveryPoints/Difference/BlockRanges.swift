// Blocks of a disk as rising ranges: those that the records of a log touch. 16 bytes a range.

package struct BlockRanges: Equatable, Sendable {
    package static let none = BlockRanges([])

    /// Rising, not touching.
    package let ranges: [Range<UInt64>]

    package init(_ unsorted: [Range<UInt64>]) {
        var joined: [Range<UInt64>] = []
        for range in unsorted.sorted(by: { $0.lowerBound < $1.lowerBound }) where !range.isEmpty {
            if let last = joined.last, range.lowerBound <= last.upperBound {
                joined[joined.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
            } else {
                joined.append(range)
            }
        }
        ranges = joined
    }

    package var blockCount: UInt64 { ranges.reduce(0) { $0 + UInt64($1.count) } }

    /// The first range that ends behind `block`, from `block` on.
    package func next(from block: UInt64) -> Range<UInt64>? {
        var low = 0
        var high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].upperBound > block { high = middle } else { low = middle + 1 }
        }
        guard low < ranges.count else { return nil }
        return max(block, ranges[low].lowerBound)..<ranges[low].upperBound
    }
}
