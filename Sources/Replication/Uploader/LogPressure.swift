// Looks, beside the lanes, how full the logs of the disks are, and on account of which target: that one is hurried, or given up for
// a resynchronisation, and an image that is held for it is let go of. A lane may hang, so none decides this for itself. Called by
// UploadService's own thread.

import BlockIO
import ChangeLog
import Logging
import Site
import Synchronization

final class LogPressure: Sendable {
    private struct Progress {
        var sequence: UInt64
        var since: UInt64
    }

    private let replicator: Replicator
    private let catalogue: Catalogue
    private let log: Logger
    private let fills = Mutex<[LaneKey: LogFill]>([:])
    /// Of lanes whose log is full.
    private let progress = Mutex<[LaneKey: Progress]>([:])

    init(_ replicator: Replicator, log: Logger) {
        self.replicator = replicator
        catalogue = replicator.catalogue
        self.log = log
    }

    /// How far the disk's log is filled up with what that target lacks.
    func fill(of lane: LaneKey) -> LogFill { fills.withLock { $0[lane] ?? .none } }

    /// Asks the mount; when there is none, nothing is written.
    func look(at disks: [ProtectedDisk]) {
        var found: [LaneKey: LogFill] = [:]
        if case .status(let served, _, _)? = try? ControlClient(site: catalogue.site).ask(.status, timeoutSeconds: 5) {
            for disk in disks {
                guard let status = served.first(where: { $0.disk == disk.name }) else { continue }
                let fill = LogFill(unreplicatedBytes: status.unreplicatedBytes, budgetBytes: status.logBudgetBytes, undestagedBytes: status.undestagedBytes)
                found[LaneKey(disk)] = fill.ofTarget(isBehind: isBehind(disk, fill))
            }
        }
        fills.withLock { $0 = found }
        for disk in disks where disk.isReplicated {
            do {
                try giveUp(disk, found[LaneKey(disk)] ?? .none)
                try letGoOfImage(disk, found[LaneKey(disk)] ?? .none)
            } catch {
                log.error("\(disk.laneName): its log cannot be given up for a resynchronisation: \(error)")
            }
        }
    }

    /// Whether the log keeps what it keeps for this target: of several only the one that is furthest behind is hurried, or given up.
    private func isBehind(_ disk: ProtectedDisk, _ fill: LogFill) -> Bool {
        guard disk.targetCount > 1, fill.pressure != .low || fill.unreplicatedBytes >= LogFill.resyncBytesMin else { return true }
        do { return try LogFolder(disk.logFolder).targetsBehind().contains(disk.vaultID) } catch {
            log.error("\(disk.name): for which target its log is kept cannot be told: \(error)")
            return true
        }
    }

    // MARK: Giving up

    /// A log that is full of what the vault does not take, or holds more of it than a resynchronisation would send, is given up for
    /// one, where the policy says so.
    private func giveUp(_ disk: ProtectedDisk, _ fill: LogFill) throws {
        let lane = LaneKey(disk)
        let isBeyond = fill.isBeyond(percent: disk.policy.resyncPercent, ofDiskBytes: disk.sizeBytes)
        guard fill.pressure == .full || isBeyond else { return progress.withLock { $0[lane] = nil } }
        guard try catalogue.resynchronisation(ofDisk: disk.name, at: disk.vaultID) == nil else { return }
        let isFailing = try catalogue.replication(ofDisk: disk.name, at: disk.vaultID).failures > 0
        // `refuse` is there so that no write is without a vault: another target has what this one lacks.
        let isKeptElsewhere = fill.pressure == .full ? try otherKeepsUp(disk) : false
        var reason: String?
        if fill.pressure == .full, isFailing ? disk.policy.whenFull == .resync || isKeptElsewhere : try isKeptElsewhere && (disk.isPaused || isStuck(disk)) {
            reason = "the log's budget was used up while the vault could not be brought up to date"
        } else if isBeyond, isFailing {
            reason = "the vault could not be brought up to date and lacks \(fill.unreplicatedBytes >> 20) MiB of writes, \(disk.policy.resyncPercent) % of the disk's size"
        }
        if let reason { try markResynchronisation(disk, LogFolder(disk.logFolder), catalogue, reason: reason) }
    }

    /// Whether another target of the disk gets what is written.
    private func otherKeepsUp(_ disk: ProtectedDisk) throws -> Bool {
        guard disk.targetCount > 1 else { return false }
        let folder = LogFolder(disk.logFolder)
        let behind = try folder.targetsBehind()
        return try catalogue.targets(ofDisk: disk.name).contains { other in
            guard other.vaultID != disk.vaultID, !behind.contains(other.vaultID), !other.isPaused, other.takenOver == nil,
                !folder.isReleased(target: other.vaultID)
            else { return false }
            let state = try catalogue.replication(ofDisk: disk.name, at: other.vaultID)
            return state.phase == .delta && state.failures == 0
        }
    }

    /// An attempt that waits for its deadlines has not failed yet.
    private func isStuck(_ disk: ProtectedDisk) throws -> Bool {
        let sent = try LogFolder(disk.logFolder).sent(target: disk.vaultID)
        let now = replicator.clock.now()
        return progress.withLock { progress in
            guard let known = progress[LaneKey(disk)], known.sequence == sent else {
                progress[LaneKey(disk)] = Progress(sequence: sent, since: now)
                return false
            }
            return now - min(now, known.since) >= ReplicationLimits.stuckSecondsMax * 1_000_000_000
        }
    }

    /// The lane sees that, when it goes on, and holds the image again at a later state.
    private func letGoOfImage(_ disk: ProtectedDisk, _ fill: LogFill) throws {
        guard disk.targetCount > 1, fill.isMergeAwaited, try replicator.holds.isHeld(by: disk) else { return }
        guard let frozen = try LogFolder(disk.logFolder).freezeTime() else { return }
        let now = Clock.wallNanoseconds()
        // Not at once: how full the log is was seen a moment ago.
        guard now < frozen || now - frozen >= ReplicationLimits.heldImageSecondsMin * 1_000_000_000 else { return }
        try replicator.holds.letGo(disk, replicator.owner(disk))
    }
}

/// How far a log is filled up with what the vault lacks.
package struct LogFill: Equatable, Sendable {
    package enum Pressure: Equatable, Sendable {
        case low
        /// Half: uploaded before the interval is over, or guests would get ENOSPC while nobody sends.
        case half
        /// Seven eighths: in time for a resynchronisation to spare guests the ENOSPC.
        case full
    }

    /// Less than this is sent as quickly as it is compared.
    package static let resyncBytesMin: UInt64 = 256 << 20

    private(set) var unreplicatedBytes: UInt64
    let budgetBytes: UInt64
    /// What the image lacks.
    let undestagedBytes: UInt64

    package init(unreplicatedBytes: UInt64, budgetBytes: UInt64, undestagedBytes: UInt64 = 0) {
        self.unreplicatedBytes = unreplicatedBytes
        self.budgetBytes = budgetBytes
        self.undestagedBytes = undestagedBytes
    }

    /// The log keeps nothing for a target that is not behind.
    func ofTarget(isBehind: Bool) -> LogFill {
        var fill = self
        if !isBehind { fill.unreplicatedBytes = 0 }
        return fill
    }

    static let none = LogFill(unreplicatedBytes: 0, budgetBytes: .max)

    package var pressure: Pressure { unreplicatedBytes >= budgetBytes / 8 * 7 ? .full : unreplicatedBytes >= budgetBytes / 2 ? .half : .low }

    /// An image that is held must be let go of, or the log gets full.
    var isMergeAwaited: Bool { undestagedBytes >= budgetBytes / 2 }

    /// Comparing the disk costs less than sending all that was written; `percent` of the disk's size, 0: never.
    package func isBeyond(percent: Int, ofDiskBytes diskBytes: UInt64) -> Bool {
        percent > 0 && unreplicatedBytes >= max(diskBytes / 100 * UInt64(percent), Self.resyncBytesMin)
    }
}
