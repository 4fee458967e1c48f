// Looks, beside the threads that upload, whether each disk's vault is as new as its policy wants it, and whether its cycles
// are kept: an upload that hangs or crawls is noticed while it does. Keeps the warnings in the catalogue. Called by
// UploadService's own thread; the disks' threads tell what succeeded.

import BlockIO
import ChangeLog
import Logging
import Site
import Synchronization

final class DelayWatch: Sendable {
    private struct Watched {
        var lag = LagWatch()
        var cycles: MissedCycles?
        var nextLook: UInt64 = 0
    }

    private let catalogue: Catalogue
    private let clock: UploadClock
    private let log: Logger
    private let watched = Mutex<[LaneKey: Watched]>([:])

    init(_ replicator: Replicator, log: Logger) {
        catalogue = replicator.catalogue
        clock = replicator.clock
        self.log = log
    }

    /// What an uploader before left standing is looked at anew.
    func begin() throws(SiteError) {
        for disk in try catalogue.disksAtTargets() where try catalogue.warnings(ofDisk: disk.name, at: disk.vaultID).contains(where: { $0.kind == .lag }) {
            watched.withLock { $0[LaneKey(disk)] = Watched(lag: LagWatch(wasRaised: true)) }
        }
        try catalogue.takeAwayAllWarnings()
    }

    func succeeded(_ lane: LaneKey, begunAt time: UInt64) {
        watched.withLock {
            $0[lane, default: Watched()].lag.succeeded(begunAt: time)
            $0[lane]?.cycles?.succeeded(begunAt: time)
        }
    }

    /// At each of their targets.
    func look(at disks: [ProtectedDisk]) {
        let lanes = Set(disks.map(LaneKey.init))
        watched.withLock { $0 = $0.filter { lanes.contains($0.key) } }
        for disk in disks {
            do throws(SiteError) { try look(disk) } catch { log.error("\(disk.name): its lag cannot be noted: \(error)") }
        }
    }

    private func look(_ disk: ProtectedDisk) throws(SiteError) {
        let now = clock.now()
        let lane = LaneKey(disk)
        guard now >= watched.withLock({ $0[lane]?.nextLook ?? 0 }) else { return }
        let replication = try catalogue.replication(ofDisk: disk.name, at: disk.vaultID)
        guard disk.isReplicated, !disk.isPaused, replication.phase == .delta, let proven = replication.provenSequence else {
            watched.withLock { $0[lane] = nil }
            for warning in try catalogue.warnings(ofDisk: disk.name, at: disk.vaultID) where warning.kind != .anomaly { try catalogue.takeAway(warning.kind, of: disk) }
            return
        }
        let oldest = oldestUnproven(disk, proven)
        let (late, missed, isCountedAnew) = watched.withLock { all -> (LagWatch.Change?, MissedCycles.Change?, Bool) in
            var mine = all[lane] ?? Watched()
            defer { all[lane] = mine }
            // Often enough to see what the threshold is about, and no more: each look reads the log's folder.
            mine.nextLook = now + UInt64(max(1, min(disk.policy.intervalSeconds, disk.policy.lateSeconds / 4))) * 1_000_000_000
            let isCountedAnew = mine.cycles?.isFor(intervalSeconds: disk.policy.intervalSeconds) != true
            if isCountedAnew { mine.cycles = MissedCycles(intervalSeconds: disk.policy.intervalSeconds, now: now) }
            let late = mine.lag.look(
                oldestWallNanoseconds: oldest, now: now, wallNanoseconds: Clock.wallNanoseconds(), lateSeconds: disk.policy.lateSeconds,
                intervalSeconds: disk.policy.intervalSeconds)
            return (late, mine.cycles?.look(now: now), isCountedAnew)
        }
        if isCountedAnew { try catalogue.takeAway(.missedCycles, of: disk) }
        try note(late, disk)
        try note(missed, disk)
    }

    /// The time of the oldest write that the vault lacks; nil when it has all, or the log cannot be read, which `status` says.
    private func oldestUnproven(_ disk: ProtectedDisk, _ proven: UInt64) -> UInt64? {
        struct Found: Error {}
        var oldest: UInt64?
        do {
            try LogReader(LogFolder(disk.logFolder)).headers(after: proven) { record in
                guard record.kind != .void else { return }
                oldest = record.wallNanoseconds
                throw Found()
            }
        } catch {}
        return oldest
    }

    private func note(_ change: LagWatch.Change?, _ disk: ProtectedDisk) throws(SiteError) {
        let allowed = Quantity.spanText(seconds: UInt64(disk.policy.lateSeconds))
        switch change {
        case .raised(let seconds):
            try catalogue.set(
                StandingWarning(
                    kind: .lag, text: "the vault is proven to be \(Int(seconds)) s behind, more than the \(allowed) of the policy \(disk.policy.name)",
                    remedy: "look at the target and the way to it, or allow more with farshore policy edit \(disk.policy.name) --rpo SPAN"),
                of: disk)
        case .over:
            if try catalogue.takeAway(.lag, of: disk) { try catalogue.record(.information, of: disk, "the vault is no more than \(allowed) behind again") }
        case nil: break
        }
    }

    private func note(_ change: MissedCycles.Change?, _ disk: ProtectedDisk) throws(SiteError) {
        switch change {
        case .raised(let missed, let all):
            try catalogue.set(
                StandingWarning(
                    kind: .missedCycles, text: "\(missed) of the last \(all) upload intervals were missed",
                    remedy: "farshore events says what failed; where nothing did, the target is too slow for this interval"),
                of: disk)
        case .over:
            if try catalogue.takeAway(.missedCycles, of: disk) { try catalogue.record(.information, of: disk, "upload intervals are kept again") }
        case nil: break
        }
    }
}
