// The lane of one disk to one of its targets: attempts when its cycle says so, and keeps state, health and events in the catalogue. Nothing
// here touches the vault; the attempt itself is Replicator's.

import BlockIO
import ChangeLog
package import Logging
import ObjectStore
import Site
import Synchronization
import Vault

package final class DiskUploader: Sendable {
    /// How often a waiting thread looks whether its disk was paused, resumed or removed.
    private static let pollMilliseconds = 1000

    private let name: String
    /// The id of the target; nil means the first.
    private let vault: String?
    private let catalogue: Catalogue
    private let stop: StopFlag
    private let clock: UploadClock
    private let log: Logger
    private let replicator: Replicator
    /// How far the disk's log is filled up with what this target lacks.
    private let fill: @Sendable () -> LogFill
    private let delays: DelayWatch?

    package convenience init(name: String, vault: String? = nil, replicator: Replicator, log: Logger) {
        self.init(name: name, vault: vault, replicator: replicator, log: log, delays: nil) { .none }
    }

    init(name: String, vault: String?, replicator: Replicator, log: Logger, delays: DelayWatch?, fill: @escaping @Sendable () -> LogFill) {
        self.delays = delays
        self.fill = fill
        self.name = name
        self.vault = vault
        self.replicator = replicator
        self.log = log
        catalogue = replicator.catalogue
        stop = replicator.stop
        clock = replicator.clock
    }

    /// Returns when the uploader stops or the disk is no longer replicated by this host.
    package func run() {
        var cycle = UploadCycle(intervalSeconds: 1, now: clock.now())
        var wasPaused = false
        var announced: UInt64?
        var unrecorded: AttemptFailure?
        let replication = DiskReplication(replicator, fill: fill)
        var last: ProtectedDisk?
        defer { replication.storeContent(log) }
        while !stop.isStopping {
            do throws(SiteError) {
                guard let disk = try catalogue.findDisk(name, at: vault), disk.isReplicated else { return try letGoOfImage(removed: last) }
                last = disk
                cycle.setInterval(seconds: disk.policy.intervalSeconds)
                // The catalogue may have failed with the attempt: health and `resume` go by what is noted there.
                if let failure = unrecorded { announced = try recordFailure(failure, disk, nextAttemptIn: wait(cycle)) }
                unrecorded = nil
                if wasPaused, !disk.isPaused { cycle.resume(now: clock.now()) }
                wasPaused = disk.isPaused
                if cycle.isHalted, try catalogue.replication(ofDisk: name, at: vault).nextAttemptNanoseconds != announced { cycle.resume(now: clock.now()) }
                if try isUrgent(disk) { cycle.hasten(now: clock.now()) }
                if cycle.isHalted || cycle.wakeAt == nil || disk.isPaused { letGoOfImage(disk, replication) }
                if !disk.isPaused, cycle.begin(now: clock.now()) {
                    unrecorded = try carryOut(&cycle, disk, replication)
                    if unrecorded != nil { continue }
                }
            } catch {
                // The catalogue itself fails (full disk, lock): nothing can be recorded there now.
                let failure = unrecorded.map { "; before that replication failed: \($0.message)" } ?? ""
                log.error("\(name): cannot record or look up how it stands: \(error)\(failure)")
                clock.sleep(Self.pollMilliseconds, stop)
            }
            // A fenced thread stays and does nothing: ended, it would be started again and take the disk back.
            sleep(until: cycle.wakeAt)
        }
    }

    /// Whether the next attempt is due before its interval is over.
    private func isUrgent(_ disk: ProtectedDisk) throws(SiteError) -> Bool {
        // A disk that was shut down for a failover: somebody waits until the vault has everything.
        if disk.held != nil || fill().pressure != .low { return true }
        return try catalogue.resynchronisation(ofDisk: name, at: vault)?.isNow == true
    }

    private func letGoOfImage(_ disk: ProtectedDisk, _ replication: DiskReplication) {
        do { try replication.letGoOfImage(disk, LogFolder(disk.logFolder)) } catch { log.error("\(name): the image cannot be let go of: \(error)") }
    }

    /// Of a disk that goes on at other targets: what was held for this one nobody else may ever let go of.
    private func letGoOfImage(removed disk: ProtectedDisk?) throws(SiteError) {
        guard let disk, let left = try catalogue.findDisk(name, at: nil), left.id == disk.id, left.isReplicated else { return }
        do {
            if try replicator.holds.isHeld(by: disk) { try replicator.holds.letGo(disk, replicator.owner(disk)) }
        } catch { log.error("\(name): the image cannot be let go of: \(error)") }
    }

    /// One attempt now, whatever the schedule says; its failure, when it failed.
    func runOnce(_ disk: ProtectedDisk, _ replication: DiskReplication) throws -> AttemptFailure? {
        do {
            guard try replication.attempt(disk) else {
                let mark = try catalogue.resynchronisation(ofDisk: name, at: vault)
                return AttemptFailure(
                    .mayPass, "resynchronisation required: \(mark?.reason ?? "it was just marked"); it begins in the hours of its policy (\(disk.policy.resyncWindow.text))",
                    remedy: "farshore resync \(disk.commandName) --now", cause: VaultError.refused("it waits for its resynchronisation"))
            }
            try recordSuccess(disk)
            return nil
        } catch let stopped as Stopped {
            throw stopped
        } catch let paused as Paused {
            return AttemptFailure(.mayPass, "\(paused)", remedy: "farshore resume \(disk.commandName)", cause: VaultError.refused("it was paused"))
        } catch {
            let failure = AttemptFailure(error)
            _ = try recordFailure(failure, disk, nextAttemptIn: nil)
            return failure
        }
    }

    /// One attempt; its failure, when it failed.
    private func carryOut(_ cycle: inout UploadCycle, _ disk: ProtectedDisk, _ replication: DiskReplication) throws(SiteError) -> AttemptFailure? {
        let began = clock.now()
        do {
            let isReplicated = try replication.attempt(disk)
            cycle.ended(.succeeded, now: clock.now())
            if isReplicated {
                delays?.succeeded(LaneKey(disk), begunAt: began)
                try recordSuccess(disk)
            }
        } catch where error is Stopped || error is Paused {
            cycle.ended(.succeeded, now: clock.now())
        } catch VaultError.store(let error) where error.code == .heldBack {
            // By the bandwidth limit, until the time to drain was over.
            cycle.ended(.succeeded, now: clock.now())
        } catch {
            let failure = AttemptFailure(error)
            cycle.ended(failure.outcome, now: clock.now())
            return failure
        }
        return nil
    }

    private func wait(_ cycle: UploadCycle) -> UInt64? {
        let now = clock.now()
        return cycle.wakeAt.map { $0 - min($0, now) }
    }

    private func sleep(until wakeAt: UInt64?) {
        let now = clock.now()
        let left = wakeAt.map { $0 > now ? Int(($0 - now + 999_999) / 1_000_000) : 0 } ?? Self.pollMilliseconds
        if left > 0 { clock.sleep(min(left, Self.pollMilliseconds), stop) }
    }

    private func recordSuccess(_ disk: ProtectedDisk) throws(SiteError) {
        var state = try catalogue.replication(ofDisk: name, at: disk.vaultID)
        guard state.health != .normal || state.failures > 0 else { return }
        state.recover()
        try catalogue.setReplication(state, ofDisk: name, at: disk.vaultID)
        try catalogue.record(.information, of: disk, "replication goes on")
        log.info("\(disk.laneName): replication goes on")
    }

    private func recordFailure(_ failure: AttemptFailure, _ disk: ProtectedDisk, nextAttemptIn wait: UInt64?) throws(SiteError) -> UInt64? {
        var state = try catalogue.replication(ofDisk: name, at: disk.vaultID)
        state.fail(failure, nextAttemptNanoseconds: wait.map { Clock.wallNanoseconds() + $0 })
        try catalogue.setReplication(state, ofDisk: name, at: disk.vaultID)
        let next = wait.map { "next attempt in \(($0 + 500_000_000) / 1_000_000_000) s" }
            ?? (failure.outcome == .mayPass ? failure.remedy : "not retried by itself; \(failure.remedy)")
        try catalogue.record(failure.isAlarm ? .critical : .warning, of: disk, "replication failed: \(failure.message); \(next)")
        log.error("\(disk.laneName): replication failed: \(failure.message); \(next)")
        return state.nextAttemptNanoseconds
    }
}

extension ReplicationState {
    mutating func recover() {
        failures = 0
        nextAttemptNanoseconds = nil
        health = .normal
        error = nil
        remedy = nil
    }

    mutating func fail(_ failure: AttemptFailure, nextAttemptNanoseconds: UInt64?) {
        failures += 1
        self.nextAttemptNanoseconds = nextAttemptNanoseconds
        health = failure.isAlarm ? .critical : .warning
        error = failure.message
        remedy = failure.remedy
    }
}
