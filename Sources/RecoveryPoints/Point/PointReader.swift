// The state of a disk at one sequence, read straight from the vault: the map and the records over it, resolved to
// pieces of chunks and segments. Opening reads what the segments since the map changed; pages and frames come when
// they are needed. Used by PointDisk (mount) and Restore.

package import Vault
import Synchronization

/// What is shared by all points that are open at once.
package final class PointSources: Sendable {
    package let vault: Vault
    package let frames: FrameStore
    package let maps: MapReader
    package let prefetch = PrefetchThreads()
    let changes: KnownChanges

    /// `knownChangesMax`: so many changes that segments made are kept for points that are opened later.
    package init(vault: Vault, limits: FrameStoreLimits = FrameStoreLimits(), knownChangesMax: Int = 0) {
        self.vault = vault
        changes = KnownChanges(changesMax: knownChangesMax)
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
    /// The recovery point at `sequence`, if it is one.
    package let point: RecoveryPoint?
    let sources: PointSources
    private let view: Mutex<View>

    /// Through which map and records the state is read.
    private struct View {
        let root: MapRoot
        let segments: [SegmentEntry]
        let overlay: Overlay
        var number = 0

        init(_ sources: PointSources, _ disk: VaultID, _ plan: ReadPlan) throws(VaultError) {
            root = plan.root
            segments = plan.segments.map(\.withoutIndex)
            let changes = try PointReader.changes(sources, disk, plan)
            for segment in changes { sources.frames.remember(segment.object, of: .segment(disk: disk, segment.id)) }
            overlay = Overlay(changes, through: plan.sequence)
        }
    }

    package init(_ sources: PointSources, disk: VaultID, plan: ReadPlan) throws(VaultError) {
        self.sources = sources
        self.disk = disk
        sequence = plan.sequence
        sizeBytes = plan.sizeBytes
        point = plan.point
        view = Mutex(try View(sources, disk, plan))
    }

    private static func changes(_ sources: PointSources, _ disk: VaultID, _ plan: ReadPlan) throws(VaultError) -> [SegmentChanges] {
        let segments = try sources.changes.read(sources.vault, disk, plan.segments)
        for segment in segments {
            for change in segment.changes where change.end > plan.sizeBytes && change.sequence <= plan.sequence {
                throw .damaged(object: segment.object.place.key, reason: "record \(change.sequence) reaches beyond the disk of \(plan.sizeBytes) bytes")
            }
        }
        return segments
    }

    // MARK: Where bytes are

    /// What holds the blocks from `block` on, up to `end` at most.
    package func extent(at block: UInt64, before end: UInt64) throws(VaultError) -> MapExtent {
        try renewing { () throws(VaultError) in try lookUp(block, before: end) }
    }

    func lookUp(_ block: UInt64, before end: UInt64) throws(VaultError) -> MapExtent {
        let (root, overlay) = view.withLock { ($0.root, $0.overlay) }
        guard let over = overlay.extent(from: block), over.startBlock < end else {
            return try sources.maps.extent(root, at: block, before: end)
        }
        guard over.startBlock <= block else { return try sources.maps.extent(root, at: block, before: over.startBlock) }
        let skipped = block - over.startBlock
        return MapExtent(
            startBlock: block, blockCount: min(over.blockCount - skipped, end - block), source: over.source,
            sourceBlock: over.source == nil ? 0 : over.sourceBlock + UInt32(skipped))
    }

    /// The map, and the first range that records lie over which ends behind `block`.
    func layers(from block: UInt64) -> (root: MapRoot, over: MapExtent?) { view.withLock { ($0.root, $0.overlay.extent(from: block)) } }

    /// The pieces of `count` bytes from `offset`, in order and without gaps; neighbours of one source are joined.
    func pieces(at offset: UInt64, count: Int) throws(VaultError) -> [Piece] {
        var pieces: [Piece] = []
        let end = offset + UInt64(count)
        let endBlock = (end + Self.blockBytes - 1) / Self.blockBytes
        var position = offset
        while position < end {
            let block = position / Self.blockBytes
            let extent = try lookUp(block, before: endBlock)
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

    /// Whether `other`, a state of the same disk, has these blocks from the same places, so that none of them was written in between.
    package func has(_ blocks: BlockSet, as other: PointReader) throws(VaultError) -> Bool {
        let end = min(sizeBytes, other.sizeBytes) / Self.blockBytes
        for range in blocks.ranges {
            guard range.upperBound <= end else { return false }
            var block = range.lowerBound
            while block < range.upperBound {
                let (own, its) = (try extent(at: block, before: range.upperBound), try other.extent(at: block, before: range.upperBound))
                guard own.source == its.source, own.source == nil || own.sourceBlock == its.sourceBlock else { return false }
                block = min(own.startBlock + own.blockCount, its.startBlock + its.blockCount)
            }
        }
        return true
    }

    // MARK: Reading

    /// Fills `buffer` from `offset`. Several objects are fetched at the same time.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(VaultError) {
        try renewing { () throws(VaultError) in try fill(buffer, at: offset) }
    }

    private func fill(_ buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(VaultError) {
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

    // MARK: While the vault is cleaned

    /// The vault lets go of maps and segments that no point needs as time goes on, also while this one is open: it then has
    /// another map, or is gone.
    func renewing<Value>(_ call: () throws(VaultError) -> Value) throws(VaultError) -> Value {
        let number = view.withLock { $0.number }
        do throws(VaultError) {
            return try call()
        } catch {
            guard case .missing = error else { throw error }
            try renew(after: number, error)
            return try call()
        }
    }

    private func renew(after number: Int, _ error: VaultError) throws(VaultError) {
        // Another thread may have met it first.
        guard view.withLock({ $0.number }) == number else { return }
        guard let history = try DiskHistory.newest(sources.vault, try sources.vault.disk(disk.description)) else { throw error }
        let plan: ReadPlan
        do throws(VaultError) {
            plan = try history.plan(at: sequence)
        } catch {
            guard case .notFound = error else { throw error }
            throw .notFound("retention let the point #\(sequence) go while it was read, and a collection removed its data; a point that is pinned stays")
        }
        var renewed = try View(sources, disk, plan)
        try view.withLock { view throws(VaultError) in
            guard view.number == number else { return }
            guard view.root != renewed.root || view.segments != renewed.segments else { throw error }
            renewed.number = number + 1
            view = renewed
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
        try renewing { () throws(VaultError) in try found(data: data, from: offset, before: limit) }
    }

    private func found(data: Bool, from offset: UInt64, before limit: UInt64) throws(VaultError) -> UInt64? {
        let end = (min(sizeBytes, limit) + Self.blockBytes - 1) / Self.blockBytes
        var block = offset / Self.blockBytes
        while block < end {
            let extent = try lookUp(block, before: end)
            if (extent.source != nil) == data { return max(offset, block * Self.blockBytes) }
            block = extent.startBlock + extent.blockCount
        }
        return nil
    }
}
