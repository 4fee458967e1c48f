// Looks after the disks of a mount: notes in the site's events when something a guest or an administrator would notice
// begins and ends (writes refused, a failed log or image, destage that does not get on), and tries again to open disks
// that were refused, so that a mended one is served without a new mount. Owned by the worker; one thread.

import BlockIO
import ChangeLog
import Glibc
import Replication
import Site
import VirtualDisk

final class DiskWatch: @unchecked Sendable {
    // Sendable: `isStopping` is guarded by `monitor`, all else belongs to the thread.
    private struct Seen {
        var trouble: DiskTrouble?
        var refusedAppends: UInt64 = 0
        var mergedThrough: UInt64 = 0
        var mergedPoints: UInt64 = 0
        var mergeFailure: String?
        /// When the two before were told of, by the monotonic clock.
        var mergeToldNanoseconds: UInt64 = 0
    }

    private static let lookMilliseconds = 1_000
    /// A log that is merged again and again is told of that often.
    private static let mergeSeconds: UInt64 = 600
    /// Looks between two attempts to open what was refused.
    private static let retryLooks = 5

    private let disks: MountedDisks
    private let catalogue: Catalogue
    private let monitor = Monitor()
    private let stopping = Signal()
    private var isStopping = false
    private var seen: [String: Seen] = [:]
    private var thread: OwnThread?

    init(disks: MountedDisks, catalogue: Catalogue) throws(SystemError) {
        self.disks = disks
        self.catalogue = catalogue
        thread = try OwnThread(name: "watch") { [self] in run() }
    }

    /// Returns when nothing is being opened any more.
    func stop() {
        monitor.lock()
        isStopping = true
        stopping.wakeAll()
        monitor.unlock()
        thread?.join()
        thread = nil
        disks.endReopening()
    }

    private func run() {
        var looks = 0
        while pause() {
            looks += 1
            let served = disks.all()
            let statuses = served.map(\.disk.status)
            for status in statuses {
                look(at: status)
                releaseFullLog(status)
            }
            if statuses.contains(where: \.log.isAwaitingRoom) || served.contains(where: { $0.filling?.hasWaitingReads == true }) { disks.noteWaiting() }
            for entry in served { entry.filling?.watch() }
            let names = Set(statuses.map(\.name))
            seen = seen.filter { names.contains($0.key) }
            if looks % Self.retryLooks == 0 { disks.openRefused() }
        }
    }

    /// What was seen is only remembered once the event is in the catalogue; while that fails, each look tries again.
    private func look(at status: DiskStatus) {
        let before = seen[status.name] ?? Seen()
        let log = status.log
        var now = Seen(
            trouble: status.trouble, refusedAppends: log.refusedAppends, mergedThrough: log.merged.last?.through ?? 0, mergedPoints: log.mergedPoints,
            mergeFailure: log.mergeFailure)
        let refused = now.refusedAppends - min(before.refusedAppends, now.refusedAppends)
        do throws(SiteError) {
            if now.trouble != before.trouble {
                if now.trouble != nil {
                    try catalogue.record(status.health == .critical ? .critical : .warning, disk: status.name, status.reason)
                } else {
                    try catalogue.record(.information, disk: status.name, Self.ended(before.trouble, refused: now.refusedAppends))
                }
            } else if refused > 0, now.trouble == nil {
                try catalogue.record(.warning, disk: status.name, "\(refused) writes got ENOSPC for a moment: the log had no room; writes work again")
            }
            try tell(ofMerges: log, before, &now, status.name)
        } catch {
            serviceLog("\(status.name): an event could not be recorded: \(error)")
            now = before
        }
        seen[status.name] = now
    }

    private func tell(ofMerges log: LogStatus, _ before: Seen, _ now: inout Seen, _ disk: String) throws(SiteError) {
        if let failure = now.mergeFailure, failure != before.mergeFailure {
            try catalogue.record(.warning, disk: disk, "what the vault lacks cannot be merged, so the log gets full sooner: \(failure)")
        }
        let lost = now.mergedPoints - min(before.mergedPoints, now.mergedPoints)
        let time = Clock.monotonicNanoseconds()
        let isDue = before.mergedThrough == 0 || time >= before.mergeToldNanoseconds + Self.mergeSeconds * 1_000_000_000
        let isOver = now.mergedThrough == 0
        guard isOver ? lost > 0 : isDue && now.mergedThrough > before.mergedThrough else {
            (now.mergedThrough, now.mergedPoints, now.mergeToldNanoseconds) = (isOver ? 0 : before.mergedThrough, before.mergedPoints, before.mergeToldNanoseconds)
            return
        }
        now.mergeToldNanoseconds = time
        let intervals = log.merged.isEmpty ? "" : " of \(log.merged.map(\.description).joined(separator: ", ")) only the end can be had"
        let points = lost > 0 ? "\(intervals.isEmpty ? "" : ",") \(lost) points that were not sent yet are lost" : ""
        try catalogue.record(.warning, disk: disk, "to keep the log within its budget, what the vault lacks was merged:\(intervals)\(points)")
    }

    /// Nobody sends what the log of a recovery disk holds before the disk is replicated again. Its writes are not refused for that: the log
    /// lets go of it, and the vault gets it by a resynchronisation.
    private func releaseFullLog(_ status: DiskStatus) {
        guard status.log.unreplicatedBytes >= status.log.budgetBytes / 8 * 7 else { return }
        do {
            let disk = try catalogue.disk(named: status.name)
            let folder = LogFolder(disk.logFolder)
            guard disk.role == .recovery, !folder.isReleased(target: disk.vaultID) else { return }
            try markResynchronisation(disk, folder, catalogue, reason: "the log's budget was used up before the disk was replicated again")
        } catch {
            serviceLog("\(status.name): its log is full of what the vault lacks, and cannot be let go: \(error)")
        }
    }

    private static func ended(_ trouble: DiskTrouble?, refused: UInt64) -> String {
        switch trouble {
        case .writesRefused: "writes work again; \(refused) were refused since the disk was opened"
        case .notMerging, .imageFailed: "the log is merged into the image again"
        case .imageReplaced: "the image is again the file that was opened"
        case .parentLost: "all files the image is read through are there again"
        case .logFailed, nil: "the disk works again"
        }
    }

    /// False when stopping.
    private func pause() -> Bool {
        monitor.lock()
        defer { monitor.unlock() }
        if !isStopping { monitor.wait(for: stopping, milliseconds: Self.lookMilliseconds) }
        return !isStopping
    }
}
