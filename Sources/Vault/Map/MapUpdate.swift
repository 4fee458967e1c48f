// Lays the records of segments over a map and gives the map of the new state. Only pages that hold a changed block are
// read and written; memory is the list of changes, one page a level and the leaves in work. Used for each full manifest.

package struct MapUpdate: Sendable {
    private static let leafThreads = 8

    private let vault: Vault
    private let epoch: UInt32

    package init(vault: Vault, epoch: UInt32) {
        self.vault = vault
        self.epoch = epoch
    }

    /// The map after all records with sequence <= `through`, of segments in the order of their sequences. The disk may
    /// have grown to `sizeBytes` since `base` was made; nil stands for a disk of zeros. What still is where it was `moved` from is named
    /// where it was moved to.
    package func apply(
        _ segments: [SegmentChanges], through: UInt64, to base: MapRoot?, sizeBytes: UInt64, moved: [MovedBlocks] = []
    ) throws(VaultError) -> MapRoot {
        let level = MapGeometry.rootLevel(sizeBytes: sizeBytes)
        let end = MapGeometry.blockCount(sizeBytes: sizeBytes)
        var changes: [MapChange] = []
        for segment in segments {
            for record in segment.changes where record.sequence <= through {
                guard record.startBlock + record.blockCount <= end, record.end <= sizeBytes else {
                    throw .damaged(object: segment.object.place.key, reason: "record \(record.sequence) reaches beyond the disk of \(sizeBytes) bytes")
                }
                changes.append(change(record, of: segment.id))
            }
        }
        for blocks in moved where blocks.startBlock + blocks.blockCount <= end {
            changes.append(MapChange(
                startBlock: blocks.startBlock, blockCount: blocks.blockCount, source: blocks.to.map { .chunk($0) }, sourceBlock: blocks.toBlock,
                replaces: MapPlace(source: blocks.from, block: blocks.fromBlock)))
        }
        let root = try raised(base, to: level)
        let id = try page(level: level, firstBlock: 0, old: root, changes)
        return MapRoot(level: level, id: id ?? .zero)
    }

    /// The map in which these chunks (by their number on the disk, rising) hold what they name, or zeros; all else is as in `base`.
    package func replace(_ chunks: [(number: UInt64, ref: ChunkRef?)], in base: MapRoot?, sizeBytes: UInt64) throws(VaultError) -> MapRoot {
        let level = MapGeometry.rootLevel(sizeBytes: sizeBytes)
        let end = MapGeometry.blockCount(sizeBytes: sizeBytes)
        let changes = chunks.map { chunk in
            let start = chunk.number * MapGeometry.chunkBlocks
            return MapChange(startBlock: start, blockCount: min(MapGeometry.chunkBlocks, end - start), source: chunk.ref.map { .chunk($0) }, sourceBlock: 0)
        }
        let id = try page(level: level, firstBlock: 0, old: try raised(base, to: level), changes)
        return MapRoot(level: level, id: id ?? .zero)
    }

    private func change(_ record: DiskChange, of segment: SegmentID) -> MapChange {
        MapChange(
            startBlock: record.startBlock, blockCount: record.blockCount, source: record.sourceBlock == nil ? nil : .segment(segment), sourceBlock: record.sourceBlock ?? 0)
    }

    /// Puts pages above the root of a smaller disk.
    private func raised(_ base: MapRoot?, to level: Int) throws(VaultError) -> Hash256? {
        guard let base, base.id != .zero else { return nil }
        guard base.level <= level else { throw .refused("a disk cannot shrink below the level of its map") }
        var id = base.id
        for above in (base.level + 1)..<(level + 1) {
            var children = [Hash256?](repeating: nil, count: FormatLimits.innerChildren)
            children[0] = id
            id = try vault.putMapPage(.inner(MapInner(level: above, firstBlock: 0, epoch: epoch, children: children)))
        }
        return id
    }

    /// The id of the page at `level` from `firstBlock` after `changes`, all of which touch it.
    private func page(level: Int, firstBlock: UInt64, old: Hash256?, _ changes: [MapChange]) throws(VaultError) -> Hash256? {
        let range = firstBlock..<(firstBlock + MapGeometry.blocks(level: level))
        var relevant = changes.compactMap { $0.clipped(to: range) }[...]
        var base = old
        // What lies below zeros over the whole page does not matter.
        if let cover = relevant.lastIndex(where: { $0.source == nil && $0.replaces == nil && $0.blockCount == MapGeometry.blocks(level: level) }) {
            relevant = relevant[(cover + 1)...]
            base = nil
        }
        if base == nil { relevant = relevant.drop { $0.source == nil } }
        if relevant.isEmpty { return base }
        return level == 0 ? try leaf(firstBlock, base, relevant) : try inner(level, firstBlock, base, Array(relevant))
    }

    private func leaf(_ firstBlock: UInt64, _ old: Hash256?, _ changes: ArraySlice<MapChange>) throws(VaultError) -> Hash256? {
        var blocks = LeafBlocks(firstBlock: firstBlock)
        if let old {
            guard case .leaf(let page) = try vault.mapPage(old, level: 0, firstBlock: firstBlock) else { return nil }
            blocks = LeafBlocks(page)
        }
        for change in changes { blocks.apply(change) }
        // What was to be moved has been overwritten since.
        if !blocks.isChanged { return old }
        guard let page = blocks.leaf(epoch: epoch) else { return nil }
        return try vault.putMapPage(.leaf(page))
    }

    private func inner(_ level: Int, _ firstBlock: UInt64, _ old: Hash256?, _ changes: [MapChange]) throws(VaultError) -> Hash256? {
        var children = [Hash256?](repeating: nil, count: FormatLimits.innerChildren)
        if let old {
            guard case .inner(let page) = try vault.mapPage(old, level: level, firstBlock: firstBlock) else { return nil }
            children = page.children
        }
        let before = children
        let childBlocks = MapGeometry.blocks(level: level - 1)
        var buckets = [[MapChange]](repeating: [], count: FormatLimits.innerChildren)
        for change in changes {
            let first = Int((change.startBlock - firstBlock) / childBlocks)
            let last = Int((change.endBlock - 1 - firstBlock) / childBlocks)
            for child in first...last { buckets[child].append(change) }
        }
        let touched = buckets.enumerated().filter { !$0.element.isEmpty }
        // Leaves are many and wait for the target; the few pages above them follow one after the other.
        let pages = try mapInParallel(touched, threads: level == 1 ? Self.leafThreads : 1) { [children] (child, bucket) throws(VaultError) in
            try page(level: level - 1, firstBlock: firstBlock + UInt64(child) * childBlocks, old: children[child], bucket)
        }
        for ((child, _), id) in zip(touched, pages) { children[child] = id }
        if children == before { return old }
        guard children.contains(where: { $0 != nil }) else { return nil }
        return try vault.putMapPage(.inner(MapInner(level: level, firstBlock: firstBlock, epoch: epoch, children: children)))
    }
}
