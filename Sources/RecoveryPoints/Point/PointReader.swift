// The state of a disk at one sequence, read straight from the vault: the map and the records over it, resolved to
// pieces of chunks and segments. Opening reads the indexes of the segments since the map; pages and frames come when
// they are needed. Used by PointDisk (mount) and Restore.

package import Vault

/// What is shared by all points that are open at once.
package final class PointSources: Sendable {
    package let vault: Vault
    package let frames: FrameStore
    package let maps: MapReader
    package let prefetch = PrefetchThreads()

    package init(vault: Vault, limits: FrameStoreLimits = FrameStoreLimits()) {
        self.vault = vault
        frames = FrameStore(vault: vault, limits: limits)
        maps = MapReader(vault: vault)
    }

    package func close() { prefetch.close() }
}

package final class PointReader: Sendable {
    /// A part of a range of the disk: from one place in one object, or zeros.
    struct Piece {
        /// From the start of the range asked for.
        let offset: Int
        let count: Int
        let source: DataSource?
        let sourceOffset: Int
    }

    private static let blockBytes = UInt64(FormatLimits.blockBytes)

    package let disk: VaultID
    package let sequence: UInt64
    package let sizeBytes: UInt64
    let sources: PointSources
    private let root: MapRoot
    private let overlay: Overlay

    package init(_ sources: PointSources, disk: VaultID, plan: ReadPlan) throws(VaultError) {
        self.sources = sources
        self.disk = disk
        sequence = plan.sequence
        sizeBytes = plan.sizeBytes
        root = plan.root
        let indexes = try Self.indexes(sources.vault, disk, plan)
        for index in indexes { sources.frames.remember(index.object, of: .segment(disk: disk, index.id)) }
        overlay = Overlay(indexes, through: plan.sequence)
    }

    private static func indexes(_ vault: Vault, _ disk: VaultID, _ plan: ReadPlan) throws(VaultError) -> [SegmentIndex] {
        // The lineage of each entry is filled in.
        let indexes = try SegmentIndex.readAll(vault, disk: disk, plan.segments, manifestLineage: disk)
        for index in indexes {
            for record in index.records where record.changesDisk && record.diskOffset + record.length > plan.sizeBytes && record.sequence <= plan.sequence {
                throw .damaged(object: index.object.place.key, reason: "record \(record.sequence) reaches beyond the disk of \(plan.sizeBytes) bytes")
            }
        }
        return indexes
    }

    // MARK: Where bytes are

    /// What holds the blocks from `block` on, up to `end` at most.
    func extent(at block: UInt64, before end: UInt64) throws(VaultError) -> MapExtent {
        guard let over = overlay.extent(from: block), over.startBlock < end else {
            return try sources.maps.extent(root, at: block, before: end)
        }
        guard over.startBlock <= block else { return try sources.maps.extent(root, at: block, before: over.startBlock) }
        let skipped = block - over.startBlock
        return MapExtent(
            startBlock: block, blockCount: min(over.blockCount - skipped, end - block), source: over.source,
            sourceBlock: over.source == nil ? 0 : over.sourceBlock + UInt32(skipped))
    }

    /// The pieces of `count` bytes from `offset`, in order and without gaps; neighbours of one source are joined.
    func pieces(at offset: UInt64, count: Int) throws(VaultError) -> [Piece] {
        var pieces: [Piece] = []
        let end = offset + UInt64(count)
        let endBlock = (end + Self.blockBytes - 1) / Self.blockBytes
        var position = offset
        while position < end {
            let block = position / Self.blockBytes
            let extent = try extent(at: block, before: endBlock)
            let extentEnd = min(end, (extent.startBlock + extent.blockCount) * Self.blockBytes)
            let sourceOffset = Int(extent.sourceBlock) * Int(Self.blockBytes) + Int(position - block * Self.blockBytes)
            append(&pieces, Piece(
                offset: Int(position - offset), count: Int(extentEnd - position), source: extent.source.map { DataSource($0, disk: disk) },
                sourceOffset: extent.source == nil ? 0 : sourceOffset))
            position = extentEnd
        }
        return pieces
    }

    private func append(_ pieces: inout [Piece], _ piece: Piece) {
        if let last = pieces.last, last.source == piece.source, piece.source == nil || last.sourceOffset + last.count == piece.sourceOffset {
            pieces[pieces.count - 1] = Piece(offset: last.offset, count: last.count + piece.count, source: last.source, sourceOffset: last.sourceOffset)
        } else {
            pieces.append(piece)
        }
    }

    // MARK: Reading

    /// Fills `buffer` from `offset`. Several objects are fetched at the same time.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(VaultError) {
        let pieces = try pieces(at: offset, count: buffer.count)
        for piece in pieces.dropFirst() { prefetch(piece) }
        for piece in pieces {
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[piece.offset..<piece.offset + piece.count])
            guard let source = piece.source else {
                part.initializeMemory(as: UInt8.self, repeating: 0)
                continue
            }
            try sources.frames.read(source, from: piece.sourceOffset, into: part)
        }
    }

    /// Starts to fetch a range that will probably be read soon.
    func readAhead(at offset: UInt64, count: Int) {
        sources.prefetch.submit { [self] in
            do throws(VaultError) {
                for piece in try pieces(at: offset, count: count) { prefetch(piece) }
            } catch {
                // The read that needs this range will meet the error and report it.
                return
            }
        }
    }

    private func prefetch(_ piece: Piece) {
        guard let source = piece.source else { return }
        sources.prefetch.submit { [frames = sources.frames] in frames.prefetch(source, from: piece.sourceOffset, count: piece.count) }
    }

    // MARK: Holes

    /// The first offset from `offset` on, and before `limit`, that holds data or does not.
    func next(data: Bool, from offset: UInt64, before limit: UInt64 = .max) throws(VaultError) -> UInt64? {
        let end = (min(sizeBytes, limit) + Self.blockBytes - 1) / Self.blockBytes
        var block = offset / Self.blockBytes
        while block < end {
            let extent = try extent(at: block, before: end)
            if (extent.source != nil) == data { return max(offset, block * Self.blockBytes) }
            block = extent.startBlock + extent.blockCount
        }
        return nil
    }
}
