// A leaf as one entry a block, the form in which changes are laid over it; runs and sources are found again at the end.

/// A change to a range of blocks, in the order of sequence; `source` nil makes it read as zeros.
struct MapChange: Sendable {
    var startBlock: UInt64
    var blockCount: UInt64
    let source: MapSource?
    /// Block of the source's plaintext at `startBlock`.
    var sourceBlock: UInt32
    /// Set: only the blocks that are there are changed. The first one's place.
    var replaces: MapPlace?

    var endBlock: UInt64 { startBlock + blockCount }

    /// The part inside `range`, or nil.
    func clipped(to range: Range<UInt64>) -> MapChange? {
        let start = max(startBlock, range.lowerBound)
        let end = min(endBlock, range.upperBound)
        guard start < end else { return nil }
        var part = self
        part.sourceBlock = source == nil ? 0 : sourceBlock + UInt32(start - startBlock)
        part.replaces?.block += UInt32(start - startBlock)
        part.startBlock = start
        part.blockCount = end - start
        return part
    }
}

/// Where a block's content is: a block of the source's plaintext.
struct MapPlace: Equatable, Sendable {
    let source: MapSource
    var block: UInt32
}

struct LeafBlocks {
    let firstBlock: UInt64
    /// By anything that was applied.
    private(set) var isChanged = false
    private var sources: [MapSource] = []
    private var numbers: [MapSource: Int] = [:]
    /// 0 = zeros, else (source + 1) << 32 | block of the source.
    private var blocks: [UInt64]

    init(firstBlock: UInt64) {
        self.firstBlock = firstBlock
        blocks = [UInt64](repeating: 0, count: Int(FormatLimits.leafBlocks))
    }

    init(_ leaf: MapLeaf) {
        self.init(firstBlock: leaf.firstBlock)
        for run in leaf.runs {
            apply(MapChange(
                startBlock: firstBlock + UInt64(run.start), blockCount: UInt64(run.count), source: leaf.sources[Int(run.source)], sourceBlock: run.sourceBlock))
        }
        isChanged = false
    }

    /// `change` lies inside the leaf.
    mutating func apply(_ change: MapChange) {
        let start = Int(change.startBlock - firstBlock)
        if let old = change.replaces { return replace(old, from: start, change) }
        isChanged = true
        guard let source = change.source else {
            for index in start..<start + Int(change.blockCount) { blocks[index] = 0 }
            return
        }
        let entry = UInt64(number(of: source) + 1) << 32 | UInt64(change.sourceBlock)
        for index in 0..<Int(change.blockCount) { blocks[start + index] = entry + UInt64(index) }
    }

    private mutating func replace(_ old: MapPlace, from start: Int, _ change: MapChange) {
        guard let known = numbers[old.source] else { return }
        let before = UInt64(known + 1) << 32 | UInt64(old.block)
        let entry = change.source.map { UInt64(number(of: $0) + 1) << 32 | UInt64(change.sourceBlock) }
        for index in 0..<Int(change.blockCount) where blocks[start + index] == before + UInt64(index) {
            blocks[start + index] = entry.map { $0 + UInt64(index) } ?? 0
            isChanged = true
        }
    }

    private mutating func number(of source: MapSource) -> Int {
        if let known = numbers[source] { return known }
        sources.append(source)
        numbers[source] = sources.count - 1
        return sources.count - 1
    }

    /// Nil when all blocks read as zeros. Sources stand in the order of their first use, so equal content gives equal pages.
    func leaf(epoch: UInt32) -> MapLeaf? {
        var used: [MapSource] = []
        var renumbered = [Int](repeating: -1, count: sources.count)
        var runs: [MapRun] = []
        var index = 0
        while index < blocks.count {
            let entry = blocks[index]
            var end = index + 1
            if entry == 0 {
                index = end
                continue
            }
            while end < blocks.count, blocks[end] == entry + UInt64(end - index) { end += 1 }
            let source = Int(entry >> 32) - 1
            if renumbered[source] < 0 {
                renumbered[source] = used.count
                used.append(sources[source])
            }
            runs.append(MapRun(
                start: UInt16(index), count: UInt16(end - index), source: UInt16(renumbered[source]), sourceBlock: UInt32(truncatingIfNeeded: entry)))
            index = end
        }
        return runs.isEmpty ? nil : MapLeaf(firstBlock: firstBlock, epoch: epoch, sources: used, runs: runs)
    }
}
