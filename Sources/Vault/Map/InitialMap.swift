// Builds the map of a disk from its chunks, in the order of the disk, holding one page a level. Used once, at the end
// of initial replication.

package final class InitialMap {
    private let vault: Vault
    private let epoch: UInt32
    private let sizeBytes: UInt64
    private let rootLevel: Int
    private var leaf: LeafBlocks
    /// The pages being filled, by level from 1; `open[0]` is unused.
    private var open: [[Hash256?]]
    private var leafNumber: UInt64 = 0
    private var nextChunk: UInt64 = 0

    package init(vault: Vault, sizeBytes: UInt64, epoch: UInt32) {
        self.vault = vault
        self.epoch = epoch
        self.sizeBytes = sizeBytes
        rootLevel = MapGeometry.rootLevel(sizeBytes: sizeBytes)
        leaf = LeafBlocks(firstBlock: 0)
        open = Array(repeating: Array(repeating: nil, count: FormatLimits.innerChildren), count: rootLevel + 1)
    }

    /// Adds the chunk with content at `number` (of 1 MiB each); numbers rise, chunks of zeros are left out.
    package func append(chunk number: UInt64, _ ref: ChunkRef) throws(VaultError) {
        let blocks = MapGeometry.chunkBlocks
        let end = MapGeometry.blockCount(sizeBytes: sizeBytes)
        guard number >= nextChunk, number < (end + blocks - 1) / blocks else { throw .refused("chunk \(number) is out of order or beyond the disk") }
        nextChunk = number + 1
        let start = number * blocks
        if start >= leaf.firstBlock + FormatLimits.leafBlocks { try openLeaf(start / FormatLimits.leafBlocks) }
        leaf.apply(MapChange(startBlock: start, blockCount: min(blocks, end - start), source: .chunk(ref), sourceBlock: 0))
    }

    package func finish() throws(VaultError) -> MapRoot {
        try putLeaf()
        var level = 1
        while level <= rootLevel {
            // The last, partly filled page of each level.
            if leafNumber % childrenLeaves(level) != 0 { try closeInner(level, number: leafNumber / childrenLeaves(level)) }
            level += 1
        }
        return MapRoot(level: rootLevel, id: root ?? .zero)
    }

    private var root: Hash256?

    /// Leaves under one page of `level`.
    private func childrenLeaves(_ level: Int) -> UInt64 { 1 << UInt64(8 * level) }

    /// Leaves in between are empty and cost no memory: a sparse disk of 64 TiB has a million of them.
    private func openLeaf(_ number: UInt64) throws(VaultError) {
        try putLeaf()
        while leafNumber < number { try put(nil, level: 0) }
        leaf = LeafBlocks(firstBlock: number * FormatLimits.leafBlocks)
    }

    private func putLeaf() throws(VaultError) {
        guard let page = leaf.leaf(epoch: epoch) else { return try put(nil, level: 0) }
        try put(try vault.putMapPage(.leaf(page)), level: 0)
    }

    /// Notes that the next page of `level` is done, and closes the pages above that it completes.
    private func put(_ id: Hash256?, level: Int) throws(VaultError) {
        if level == 0 { leafNumber += 1 }
        guard level < rootLevel else {
            root = id
            return
        }
        let done = leafNumber - 1
        let child = Int(done / childrenLeaves(level) % UInt64(FormatLimits.innerChildren))
        open[level + 1][child] = id
        if leafNumber % childrenLeaves(level + 1) == 0 { try closeInner(level + 1, number: leafNumber / childrenLeaves(level + 1) - 1) }
    }

    private func closeInner(_ level: Int, number: UInt64) throws(VaultError) {
        let children = open[level]
        open[level] = Array(repeating: nil, count: FormatLimits.innerChildren)
        let page = MapInner(level: level, firstBlock: number * MapGeometry.blocks(level: level), epoch: epoch, children: children)
        let id = children.contains { $0 != nil } ? try vault.putMapPage(.inner(page)) : nil
        try put(id, level: level)
    }
}
