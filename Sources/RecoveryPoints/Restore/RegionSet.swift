// Numbers of regions as ranges: what of a restore is done. A disk has millions of regions, but few ranges of them are done
// at any time.

struct RegionSet: Equatable, Sendable {
    /// Rising, not empty, not touching.
    private(set) var ranges: [Range<UInt64>] = []
    private(set) var count: UInt64 = 0

    mutating func insert(_ new: Range<UInt64>) {
        guard !new.isEmpty else { return }
        let first = place(of: new.lowerBound)
        var joined = new
        var end = first
        while end < ranges.count, ranges[end].lowerBound <= new.upperBound {
            joined = min(joined.lowerBound, ranges[end].lowerBound)..<max(joined.upperBound, ranges[end].upperBound)
            count -= UInt64(ranges[end].count)
            end += 1
        }
        ranges.replaceSubrange(first..<end, with: [joined])
        count += UInt64(joined.count)
    }

    /// The first number at or above `number` that is not in the set.
    func firstMissing(from number: UInt64) -> UInt64 {
        var place = place(of: number)
        if place < ranges.count, ranges[place].upperBound == number { place += 1 }
        return place < ranges.count && ranges[place].contains(number) ? ranges[place].upperBound : number
    }

    /// The first range that ends at `number` or above; one that ends there holds nothing of it, but an insert joins it.
    private func place(of number: UInt64) -> Int {
        var low = 0
        var high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].upperBound < number { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
