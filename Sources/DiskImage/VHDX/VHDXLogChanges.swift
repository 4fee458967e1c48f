// What a log's changes leave together, so that reading through them costs no more than their number: ranges of zeros that touch
// or cover each other are one, and of what is written to one place the last remains. docs/formats/vhdx.md, section "Log".

extension [VHDXLogChange] {
    /// Changes to disjoint places that have the same effect, zeros first.
    func merged() -> [VHDXLogChange] {
        var data: [UInt64: VHDXLogChange] = [:]
        var zeros: [Range<UInt64>] = []
        var taken = 0
        // Zeros in a row are taken together: an entry has many, and few pieces of data.
        func take() {
            let ranges = ZeroRanges(zeros[taken...])
            taken = zeros.count
            for place in data.keys.filter(ranges.contains) { data[place] = nil }
        }
        for change in self {
            switch change.what {
            case .zeros(let count): if count > 0 { zeros.append(change.offset..<change.offset + count) }
            case .data:
                if taken < zeros.count { take() }
                data[change.offset] = change
            }
        }
        take()
        return ZeroRanges(zeros[...]).ranges.map { VHDXLogChange(offset: $0.lowerBound, what: .zeros($0.upperBound - $0.lowerBound)) }
            + data.values.sorted { $0.offset < $1.offset }
    }
}

private struct ZeroRanges {
    /// Rising, not touching.
    private(set) var ranges: [Range<UInt64>] = []

    init(_ unsorted: ArraySlice<Range<UInt64>>) {
        for range in unsorted.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = ranges.last, range.lowerBound <= last.upperBound {
                ranges[ranges.count - 1] = last.lowerBound..<Swift.max(last.upperBound, range.upperBound)
            } else {
                ranges.append(range)
            }
        }
    }

    func contains(_ offset: UInt64) -> Bool {
        var (low, high) = (0, ranges.count)
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].upperBound <= offset { low = middle + 1 } else { high = middle }
        }
        return low < ranges.count && ranges[low].contains(offset)
    }
}
