// Brings an image to a state in the vault by writing only what differs. From the image's known state to the wanted one the maps tell
// which blocks differ; an image of unknown content is compared by the names of chunks. Order: the mark says which state is being written, then the
// blocks are, then the image is flushed, then the mark goes on; a pass that was killed anywhere is gone through again from its mark, to the
// same state, before another one is begun. Bytes from the vault are authenticated before they are written. Called by `farshore failback`,
// who holds the locks of image and log.

import BlockIO
package import ChangeLog
package import DiskImage
package import RecoveryPoints
package import Vault

package final class ImageRefresh {
    private static let blockBytes = UInt64(FormatLimits.blockBytes)
    /// How much of an image is compared before the mark goes on.
    private static let comparedBlocksMax: UInt64 = (64 << 30) / blockBytes

    package struct Progress: Sendable {
        /// Of the disk, looked at.
        package let doneBytes: UInt64
        package let totalBytes: UInt64
        package let writtenBytes: UInt64
    }

    /// What the caller knows, and is told.
    package struct Surroundings: Sendable {
        /// Bytes that came from the target since the process began.
        let fetchedBytes: @Sendable () -> UInt64
        let isOver: @Sendable () -> Bool
        let progress: @Sendable (Progress) -> Void

        package init(fetchedBytes: @escaping @Sendable () -> UInt64, isOver: @escaping @Sendable () -> Bool, progress: @escaping @Sendable (Progress) -> Void) {
            self.fetchedBytes = fetchedBytes
            self.isOver = isOver
            self.progress = progress
        }
    }

    package private(set) var mark: RefreshMark
    private let image: any ImageFile
    private let folder: LogFolder
    private let history: DiskHistory
    private let sources: PointSources
    /// Blocks of records that the vault never got, where `mark.hasUnsent`.
    private let unsent: BlockRanges
    /// Blocks that may hold what is of no state, whatever the mark says.
    private let formerEnds: BlockRanges
    private let surroundings: Surroundings
    private let writer: BlockWriter
    private var countedBytes: UInt64

    /// `mark` is what the folder has, durably.
    package init(
        _ image: any ImageFile, _ mark: RefreshMark, folder: LogFolder, history: DiskHistory, sources: PointSources, unsent: BlockRanges,
        formerEnds: BlockRanges = .none, _ surroundings: Surroundings, pace: @escaping @Sendable (Int) -> Void = { _ in }
    ) {
        self.image = image
        self.mark = mark
        self.folder = folder
        self.history = history
        self.sources = sources
        self.unsent = unsent
        self.formerEnds = formerEnds
        self.surroundings = surroundings
        writer = BlockWriter(image, sources, pace: pace)
        countedBytes = surroundings.fetchedBytes()
    }

    /// The image holds `target`, durably, and the mark says so, when this returns.
    package func bring(to target: RefreshMark.State) throws(RefreshError) {
        if let interrupted = mark.pass?.target, interrupted != target {
            // Which blocks it changed only it can tell.
            if mark.base != nil, try isReadable(interrupted), try isBaseReadable() { try carryOut(interrupted, mayHaveGrown: true) } else { forgetBase() }
        }
        guard mark.base != target || mark.hasUnsent || mark.pass != nil else { return }
        if mark.base != nil, try !isBaseReadable() { forgetBase() }
        if mark.pass == nil { mark.pass = RefreshMark.Pass(target: target, doneBlocks: 0) }
        try mark.store(folder)
        try carryOut(target)
    }

    /// What the image holds has to be found out by comparing.
    private func forgetBase() {
        mark.base = nil
        mark.hasUnsent = false
        mark.pass = nil
    }

    private func isBaseReadable() throws(RefreshError) -> Bool {
        guard let base = mark.base else { return false }
        return try isReadable(base)
    }

    /// Retention may have let a state go that nobody pinned.
    private func isReadable(_ state: RefreshMark.State) throws(RefreshError) -> Bool {
        do throws(VaultError) {
            guard try history.tells(state) else { return false }
            _ = try history.plan(at: state.sequence)
            return true
        } catch {
            if case .notFound = error { return false }
            throw .vault(error)
        }
    }

    // MARK: A pass

    /// `mayHaveGrown`: the image has the size of a later state already.
    private func carryOut(_ target: RefreshMark.State, mayHaveGrown: Bool = false) throws(RefreshError) {
        let newer = try reader(target)
        guard newer.sizeBytes == image.sizeBytes || mayHaveGrown && newer.sizeBytes < image.sizeBytes else {
            throw .refused("\(image.path) has \(image.sizeBytes) bytes, but the disk has \(newer.sizeBytes) at #\(target.sequence)", try: "farshore failback start UNIT --image-folder with another folder, which makes a new image")
        }
        let next = try differences(to: newer)
        let end = (newer.sizeBytes + Self.blockBytes - 1) / Self.blockBytes
        var position = mark.pass?.doneBlocks ?? 0
        while position < end {
            let limit = mark.base == nil ? min(end, position + Self.comparedBlocksMax) : end
            var batch = RefreshBatch()
            while !batch.isFull, position < limit {
                if surroundings.isOver() { throw .stopped }
                guard let extent = try next(position) else {
                    position = end
                    break
                }
                if let source = extent.source { batch.add(DataSource(source, disk: newer.disk), extent) } else { try writer.zero(extent) }
                position = extent.startBlock + extent.blockCount
            }
            try writer.write(&batch) { [surroundings, position] written in
                surroundings.progress(Progress(doneBytes: min(position * Self.blockBytes, newer.sizeBytes), totalBytes: newer.sizeBytes, writtenBytes: written))
                return surroundings.isOver()
            }
            try flush()
            mark.pass?.doneBlocks = min(position, end)
            try store()
        }
        mark.base = target
        mark.hasUnsent = false
        mark.pass = nil
        try store()
    }

    private func reader(_ state: RefreshMark.State) throws(RefreshError) -> PointReader {
        do throws(VaultError) {
            guard try history.tells(state) else { throw .notFound("the vault does not have the state #\(state.sequence) of the history \(state.lineage) any more") }
            return try PointReader(sources, disk: history.state.disk, plan: try history.plan(at: state.sequence))
        } catch { throw .vault(error) }
    }

    private func differences(to newer: PointReader) throws(RefreshError) -> (UInt64) throws(RefreshError) -> MapExtent? {
        guard let base = mark.base else { return ContentDifference(image, to: newer, sources.vault).next }
        let changed = BlockRanges((mark.hasUnsent ? unsent.ranges : []) + formerEnds.ranges)
        let difference = StateDifference(from: try reader(base), to: newer, changed: changed)
        return { block throws(RefreshError) in
            do throws(VaultError) { return try difference.next(from: block) } catch { throw .vault(error) }
        }
    }

    private func flush() throws(RefreshError) {
        do throws(SystemError) { try image.flush() } catch { throw .system(error) }
    }

    private func store() throws(RefreshError) {
        let now = surroundings.fetchedBytes()
        mark.fetchedBytes += now - countedBytes
        countedBytes = now
        mark.writtenBytes += writer.takeWrittenBytes()
        try mark.store(folder)
    }
}
