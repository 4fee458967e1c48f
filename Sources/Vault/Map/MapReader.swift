// Reads a map page by page as it is needed, with a bounded number of pages kept. Shared by all readers of a disk.

import BlockIO

/// A range of blocks and what holds it; `source` nil reads as zeros.
package struct MapExtent: Equatable, Sendable {
    package let startBlock: UInt64
    package let blockCount: UInt64
    package let source: MapSource?
    package let sourceBlock: UInt32

    package init(startBlock: UInt64, blockCount: UInt64, source: MapSource?, sourceBlock: UInt32) {
        self.startBlock = startBlock
        self.blockCount = blockCount
        self.source = source
        self.sourceBlock = sourceBlock
    }
}

package final class MapReader: @unchecked Sendable {
    // Sendable: everything below `monitor` is only touched while it is locked.

    private struct Cached {
        let page: MapPage
        var lastUse: UInt64
    }

    private let vault: Vault
    /// Pages kept; a leaf with 16,384 runs is the largest at under 2 MiB, a usual one has a few KiB.
    private let pagesMax: Int

    /// Guards the cache and the pages on their way, so that the first readers of a map do not all ask for its upper pages.
    private let monitor = Monitor()
    private let arrived = Signal()
    private var pages: [Hash256: Cached] = [:]
    private var clock: UInt64 = 0
    private var underway: Set<Hash256> = []

    package init(vault: Vault, pagesMax: Int = 64) {
        self.vault = vault
        self.pagesMax = pagesMax
    }

    /// What holds the blocks from `startBlock` on: one extent, which ends at `endBlock` at the latest. Zeros may come as
    /// several extents in a row.
    package func extent(_ root: MapRoot, at startBlock: UInt64, before endBlock: UInt64) throws(VaultError) -> MapExtent {
        var level = root.level
        var firstBlock: UInt64 = 0
        var id: Hash256? = root.id == .zero ? nil : root.id
        // The map of a smaller disk, from before it grew: what was added reads as zeros.
        let covered = MapGeometry.blocks(level: root.level)
        if startBlock >= covered { return MapExtent(startBlock: startBlock, blockCount: endBlock - startBlock, source: nil, sourceBlock: 0) }
        let endBlock = min(endBlock, covered)
        while true {
            guard let present = id else {
                let end = min(endBlock, firstBlock + MapGeometry.blocks(level: level))
                return MapExtent(startBlock: startBlock, blockCount: end - startBlock, source: nil, sourceBlock: 0)
            }
            switch try page(present, level: level, firstBlock: firstBlock) {
            case .leaf(let leaf):
                return Self.extent(leaf, at: startBlock, before: endBlock)
            case .inner(let inner):
                level -= 1
                let child = (startBlock - firstBlock) / MapGeometry.blocks(level: level)
                id = inner.children[Int(child)]
                firstBlock += child * MapGeometry.blocks(level: level)
            }
        }
    }

    /// The end of the range from `block` on that both maps name by one page, or both leave out: the same blocks, found without
    /// reading that page. `block` itself where they differ.
    package func shared(_ one: MapRoot, _ other: MapRoot, at block: UInt64, before end: UInt64) throws(VaultError) -> UInt64 {
        var level = max(one.level, other.level)
        guard block < MapGeometry.blocks(level: level) else { return end }
        var firstBlock: UInt64 = 0
        var (left, right) = (Subtree(one), Subtree(other))
        while true {
            if left == right { return min(end, firstBlock + MapGeometry.blocks(level: level)) }
            guard level > 0 else { return block }
            level -= 1
            let child = (block - firstBlock) / MapGeometry.blocks(level: level)
            left = try below(left, to: level, firstBlock, child)
            right = try below(right, to: level, firstBlock, child)
            firstBlock += child * MapGeometry.blocks(level: level)
        }
    }

    /// The page that holds all of a range; the map of a smaller disk begins below the top of a larger one's.
    private struct Subtree: Equatable {
        let level: Int
        let id: Hash256

        init?(_ root: MapRoot) {
            guard root.id != .zero else { return nil }
            (level, id) = (root.level, root.id)
        }

        init(level: Int, id: Hash256) { (self.level, self.id) = (level, id) }
    }

    /// What lies under child number `child` of the page of `level` + 1 that begins at `firstBlock`.
    private func below(_ tree: Subtree?, to level: Int, _ firstBlock: UInt64, _ child: UInt64) throws(VaultError) -> Subtree? {
        guard let tree else { return nil }
        if tree.level <= level { return child == 0 ? tree : nil }
        guard case .inner(let inner) = try page(tree.id, level: tree.level, firstBlock: firstBlock) else { return nil }
        return inner.children[Int(child)].map { Subtree(level: level, id: $0) }
    }

    private static func extent(_ leaf: MapLeaf, at startBlock: UInt64, before endBlock: UInt64) -> MapExtent {
        let position = Int(startBlock - leaf.firstBlock)
        // The first run that ends behind the position.
        var low = 0
        var high = leaf.runs.count
        while low < high {
            let middle = (low + high) / 2
            if Int(leaf.runs[middle].start) + Int(leaf.runs[middle].count) > position { high = middle } else { low = middle + 1 }
        }
        guard low < leaf.runs.count, Int(leaf.runs[low].start) <= position else {
            let next = low < leaf.runs.count ? leaf.firstBlock + UInt64(leaf.runs[low].start) : leaf.firstBlock + FormatLimits.leafBlocks
            return MapExtent(startBlock: startBlock, blockCount: min(next, endBlock) - startBlock, source: nil, sourceBlock: 0)
        }
        let run = leaf.runs[low]
        let end = leaf.firstBlock + UInt64(run.start) + UInt64(run.count)
        return MapExtent(
            startBlock: startBlock, blockCount: min(end, endBlock) - startBlock, source: leaf.sources[Int(run.source)],
            sourceBlock: run.sourceBlock + UInt32(position - Int(run.start)))
    }

    private func page(_ id: Hash256, level: Int, firstBlock: UInt64) throws(VaultError) -> MapPage {
        monitor.lock()
        defer { monitor.unlock() }
        while true {
            if let found = pages[id]?.page {
                clock += 1
                pages[id]?.lastUse = clock
                // A cached page was checked for its own place; a damaged map could name it at another.
                guard found.covers(level: level, firstBlock: firstBlock) else {
                    throw .damaged(object: ObjectPlace.mapPage(id).key, reason: "it is named at a place it does not cover")
                }
                return found
            }
            if underway.insert(id).inserted { break }
            monitor.wait(for: arrived)
        }
        monitor.unlock()
        let fetched: Result<MapPage, VaultError>
        do throws(VaultError) { fetched = .success(try vault.mapPage(id, level: level, firstBlock: firstBlock)) } catch { fetched = .failure(error) }
        monitor.lock()
        underway.remove(id)
        arrived.wakeAll()
        let page = try fetched.get()
        if pages.count >= pagesMax, let oldest = pages.min(by: { $0.value.lastUse < $1.value.lastUse })?.key { pages[oldest] = nil }
        clock += 1
        pages[id] = Cached(page: page, lastUse: clock)
        return page
    }
}

extension MapPage {
    func covers(level: Int, firstBlock: UInt64) -> Bool {
        switch self {
        case .leaf(let leaf): level == 0 && leaf.firstBlock == firstBlock
        case .inner(let inner): inner.level == level && inner.firstBlock == firstBlock
        }
    }
}
