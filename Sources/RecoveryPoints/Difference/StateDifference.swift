// Where two states of one disk may differ, from maps and segment indexes alone: no data is read. Blocks that are in the same place of
// the same object are the same; blocks in different places count as different, though they may hold the same bytes. What both maps
// name by one page is passed over as a whole, so the work follows what was written between the two states and not the size of the disk.
// Memory: the records since the map of each state (`FormatLimits`), and the pages that `PointSources` keeps. Called by a failback.

package import Vault

package struct StateDifference: Sendable {
    private let older: PointReader
    private let newer: PointReader
    private let maps: MapReader
    private let changed: BlockRanges

    /// Both of one disk, with the same sources. `changed`: blocks that count as different whatever the maps say.
    package init(from older: PointReader, to newer: PointReader, changed: BlockRanges = .none) {
        self.changed = changed
        self.older = older
        self.newer = newer
        maps = newer.sources.maps
    }

    /// The first range from `block` on that may differ, and what holds it in the newer state; nil when there is none up to the end of
    /// that state. A range that was added by growing differs where something was written to it.
    package func next(from block: UInt64) throws(VaultError) -> MapExtent? {
        // Either state may have got another map since it was opened.
        try newer.renewing { () throws(VaultError) in
            try older.renewing { () throws(VaultError) in try found(from: block) }
        }
    }

    private func found(from start: UInt64) throws(VaultError) -> MapExtent? {
        let end = MapGeometry.blockCount(sizeBytes: newer.sizeBytes)
        var block = start
        while block < end {
            let known = changed.next(from: block)
            if let known, known.lowerBound == block { return try newer.lookUp(block, before: min(end, known.upperBound)) }
            let limit = min(end, known?.lowerBound ?? end)
            let (old, new) = (older.layers(from: block), newer.layers(from: block))
            // Up to here both states are what their maps say.
            let bare = min(limit, old.over?.startBlock ?? limit, new.over?.startBlock ?? limit)
            if block < bare {
                let shared = try maps.shared(old.root, new.root, at: block, before: bare)
                if shared > block {
                    block = shared
                    continue
                }
            }
            let one = try older.lookUp(block, before: block < bare ? bare : limit)
            let other = try newer.lookUp(block, before: block < bare ? bare : limit)
            let count = min(one.blockCount, other.blockCount)
            guard Self.areSame(one, other) else { return MapExtent(startBlock: block, blockCount: count, source: other.source, sourceBlock: other.sourceBlock) }
            block += count
        }
        return nil
    }

    private static func areSame(_ one: MapExtent, _ other: MapExtent) -> Bool {
        guard one.source != nil || other.source != nil else { return true }
        guard one.sourceBlock == other.sourceBlock else { return false }
        switch (one.source, other.source) {
        // The same content may have been uploaded in several epochs.
        case (.chunk(let one)?, .chunk(let other)?): return one.id == other.id
        case (.segment(let one)?, .segment(let other)?): return one == other
        default: return false
        }
    }
}
