// Blocks that records seen so far have changed. It may forget large ranges, and then says of a block that is covered that it is not: who
// leaves out what is covered keeps more than it has to. Bounded whatever guests write.

struct CoveredBlocks {
    /// Ranges of more blocks are kept as they are, and not more than so many of them.
    private static let smallBlocksMax: UInt64 = 65_536
    private static let largeRangesMax = 64
    /// 64 blocks each.
    private static let wordsMax = 1 << 20

    private var words: [UInt64: UInt64] = [:]
    private var large: [Range<UInt64>] = []

    /// How many of the blocks were not covered before, as far as it is known; of large ranges none are counted.
    @discardableResult
    mutating func insert(_ blocks: Range<UInt64>) -> Int {
        guard blocks.upperBound - blocks.lowerBound <= Self.smallBlocksMax, words.count < Self.wordsMax else {
            if large.count < Self.largeRangesMax { large.append(blocks) }
            return 0
        }
        var added = 0
        var block = blocks.lowerBound
        while block < blocks.upperBound {
            let end = min(blocks.upperBound, (block / 64 + 1) * 64)
            let mask = (end - block == 64 ? UInt64.max : (1 << (end - block)) - 1) << (block % 64)
            let before = words[block / 64] ?? 0
            added += (mask & ~before).nonzeroBitCount
            words[block / 64] = before | mask
            block = end
        }
        return added
    }

    func contains(_ block: UInt64) -> Bool {
        if let word = words[block / 64], word >> (block % 64) & 1 == 1 { return true }
        return large.contains { $0.contains(block) }
    }

    /// From the first to the last block that is not covered; nil when all are.
    func uncovered(_ blocks: Range<UInt64>) -> Range<UInt64>? {
        guard blocks.upperBound - blocks.lowerBound <= Self.smallBlocksMax else { return blocks }
        guard let first = blocks.first(where: { !contains($0) }), let last = blocks.last(where: { !contains($0) }) else { return nil }
        return first..<last + 1
    }
}
