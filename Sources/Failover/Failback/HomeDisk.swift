// A disk of the home before its failback: which state in the vault its image stands on, and which writes of its log the vault never got.
// Its log is merged first, so that image and log are one state. Where image or log cannot tell, the image counts as of unknown content.

import BlockIO
package import ChangeLog
import DiskImage
import Glibc
package import RecoveryPoints
import Replication
package import Site
package import Vault
import VirtualDisk

/// Writes of a log that the vault does not have.
package struct UnsentWrites: Equatable, Sendable {
    package static let none = UnsentWrites()

    package private(set) var records: UInt64 = 0
    package private(set) var bytes: UInt64 = 0
    /// Wall times of the first and the last one, 0 where there are none.
    package private(set) var firstNanoseconds: UInt64 = 0
    package private(set) var lastNanoseconds: UInt64 = 0
    package private(set) var ranges = BlockRanges.none

    fileprivate init() {}

    init(_ reader: LogReader, after: UInt64, through: UInt64) throws {
        let blockBytes = UInt64(FormatLimits.blockBytes)
        var touched: [Range<UInt64>] = []
        var (records, bytes, first, last): (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        _ = try reader.records(after: after, through: through) { record, _ in
            guard record.changesDisk else { return }
            records += 1
            bytes += record.length
            if first == 0 { first = record.wallNanoseconds }
            last = record.wallNanoseconds
            touched.append(record.diskOffset / blockBytes..<(record.diskOffset + record.length + blockBytes - 1) / blockBytes)
        }
        (self.records, self.bytes, firstNanoseconds, lastNanoseconds) = (records, bytes, first, last)
        ranges = BlockRanges(touched)
    }
}

package struct HomeDisk: Sendable {
    package let disk: ProtectedDisk
    /// An earlier run began to change the image.
    package let isBegun: Bool
    /// What the folder has to say from the first change on.
    package let mark: RefreshMark
    package let unsent: UnsentWrites
    /// Why the image has to be compared as a whole.
    package let obstacle: String?
    private let stand: Stand?

    /// Changes when somebody opens the log and writes.
    private struct Stand: Equatable {
        let sequence: UInt64
        let stop: LogState.CleanStop?

        init?(_ folder: LogFolder) {
            guard let state = try? folder.readState() else { return nil }
            (sequence, stop) = (state.destagedSequence, state.cleanStop)
        }
    }

    /// Nobody wrote since it was looked at. For who holds the log's lock.
    var isUnchanged: Bool { Stand(folder) == stand }

    package var folder: LogFolder { LogFolder(disk.logFolder) }
    package var hasImage: Bool { access(disk.imagePath, F_OK) == 0 }

    /// Merges the log and looks; a disk whose failback was begun is left as it is.
    package init(_ disk: ProtectedDisk, site: SiteDirectory, history: DiskHistory) throws {
        self.disk = disk
        let folder = LogFolder(disk.logFolder)
        let (vault, id) = (history.vault.id, history.state.disk)
        if access(folder.failbackFile, F_OK) == 0 {
            isBegun = true
            stand = Stand(folder)
            (mark, unsent, obstacle) = try Self.continued(folder, vault: vault, id: id)
            return
        }
        isBegun = false
        var reason = try Self.merge(disk, site)
        stand = Stand(folder)
        var (base, loose): (RefreshMark.State?, UnsentWrites) = (nil, .none)
        if reason == nil {
            do {
                (base, loose) = try Self.standing(folder, disk, history)
                if base == nil { reason = "its log shares no state with the vault that can still be read" }
            } catch let error as LogError {
                if case .system = error { throw error }
                reason = "\(error)"
            }
        }
        (unsent, obstacle) = (loose, reason)
        mark = RefreshMark(vault: vault, disk: id, base: base, hasUnsent: loose.records > 0)
    }

    /// Where mark or log cannot be read any more, the image counts as of unknown content. Throws where the host fails, which may pass.
    private static func continued(_ folder: LogFolder, vault: VaultID, id: VaultID) throws -> (RefreshMark, UnsentWrites, String?) {
        do {
            guard let mark = try RefreshMark.load(folder), mark.vault == vault, mark.disk == id else {
                return (RefreshMark(vault: vault, disk: id, base: nil, hasUnsent: false), .none, "\(folder.failbackFile) is of another disk")
            }
            guard mark.hasUnsent, let base = mark.base else { return (mark, .none, nil) }
            let reader = try LogReader(folder)
            let unsent = try UnsentWrites(reader, after: base.sequence, through: reader.state.destagedSequence)
            guard unsent.records > 0 else { throw LogError.recycled(folder: folder.path, after: base.sequence, oldest: reader.state.destagedSequence) }
            return (mark, unsent, nil)
        } catch {
            switch error {
            case LogError.system, RefreshError.system: throw error
            default: return (RefreshMark(vault: vault, disk: id, base: nil, hasUnsent: false), .none, "\(error)")
            }
        }
    }

    /// Nil when the image holds all of the log; else why it cannot. Throws where somebody uses one of them, or the host fails.
    static func merge(_ disk: ProtectedDisk, _ site: SiteDirectory) throws -> String? {
        let folder = LogFolder(disk.logFolder)
        guard access(disk.imagePath, F_OK) == 0 else { return "\(disk.imagePath) is not there" }
        guard !folder.isBeingFilled else { return "\(disk.imagePath) was never filled from its recovery point" }
        do {
            guard access(folder.path, F_OK) == 0 else { throw LogError.notALog(folder: folder.path) }
            let owner = try waitingForUploader(of: site) { try OwnerLock.acquire(folder) }
            let lock = try waitingForUploader(of: site) { try ImageLock.take(disk.imagePath, for: .exclusive) }
            if let failure = try VirtualDisk.completeGrowth(of: lock, format: try disk.imageFormat(), folder: folder, lock: owner) {
                try Catalogue(site: site).record(.warning, disk: disk.name, "\(failure)")
            }
            let parents = ParentLocks()
            let image = try disk.openImage(locked: lock, parentLocks: parents)
            let opened = try VirtualDisk.open(
                name: disk.name, image: image, folder: folder, lock: owner, sequencer: try Sequencer(path: site.sequencePath),
                options: ChangeLog.Options(bootID: try Clock.bootID()))
            do {
                try opened.unfreeze()
                try opened.mergeAll()
            } catch {
                opened.abandon()
                throw error
            }
            try opened.close()
            parents.release()
            try lock.release()
            return nil
        } catch let error as DiskError {
            switch error {
            case .imageChanged, .imageReplaced, .sizeMismatch: return "\(error)"
            case .log(let cause): return try obstacle(cause)
            case .system: throw error
            }
        } catch let error as LogError {
            return try obstacle(error)
        } catch ImageError.system(let error) where [EACCES, EROFS, EPERM].contains(error.errno) {
            return "\(disk.imagePath) cannot be written: \(error)"
        }
    }

    /// What the log has, in the image or not, that the vault was never proven to have: of a disk that nobody opened. Or why it cannot tell.
    static func unproven(_ disk: ProtectedDisk, _ history: DiskHistory) throws -> (writes: UnsentWrites, obstacle: String?) {
        do {
            let folder = LogFolder(disk.logFolder)
            let reader = try LogReader(folder)
            var newest = reader.state.destagedSequence
            try reader.headers(after: newest) { newest = max(newest, $0.sequence) }
            let proven = try proven(folder, disk, history, reader, newest: newest)
            return (proven < newest ? try UnsentWrites(reader, after: proven, through: newest) : .none, nil)
        } catch let error as LogError {
            return (.none, try obstacle(error))
        }
    }

    private static func obstacle(_ error: LogError) throws -> String {
        switch error {
        case .system, .inUse, .unsupportedVersion, .underFailback, .alreadyALog, .invalidSetting: throw error
        case .notALog, .invalidFile, .foreignSegment, .damaged, .recycled: return "\(error)"
        }
    }

    private static func standing(_ folder: LogFolder, _ disk: ProtectedDisk, _ history: DiskHistory) throws -> (RefreshMark.State?, UnsentWrites) {
        let reader = try LogReader(folder)
        let newest = reader.state.destagedSequence
        let proven = try proven(folder, disk, history, reader, newest: newest)
        guard let base = try history.common(with: reader.state.lineages, newest: newest, proven: proven) else { return (nil, .none) }
        return (base, try UnsentWrites(reader, after: base.sequence, through: newest))
    }

    /// The last sequence of this very log that the vault is known to have got.
    private static func proven(_ folder: LogFolder, _ disk: ProtectedDisk, _ history: DiskHistory, _ reader: LogReader, newest: UInt64) throws -> UInt64 {
        let proven = try folder.readMark(target: disk.vaultID)?.sequence(in: reader.state.lineages) ?? 0
        // Between a head and its mark the uploader may have been killed.
        if let listed = history.state.lineages.first(where: { $0.id == reader.state.lineage.vaultID }), listed.sequence > proven, listed.sequence <= newest {
            let isOwn = try SharedHistory(vault: history.vault, disk: history.state.disk, reader: reader).includes(listed, after: proven)
            if isOwn { return listed.sequence }
        }
        return proven
    }
}
