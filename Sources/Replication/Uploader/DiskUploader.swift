// The thread of one disk: attempts when its cycle says so, and keeps state, health and events in the catalogue. Nothing
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
    private let catalogue: Catalogue
    private let stop: StopFlag
    private let clock: UploadClock
    private let log: Logger
    private let replicator: Replicator
    /// How far the disk's log is filled up with what the vault lacks.
    private let fill: @Sendable () -> LogFill
    private let delays: DelayWatch?

    package convenience init(name: String, replicator: Replicator, log: Logger) {
        self.init(name: name, replicator: replicator, log: log, delays: nil) { .none }
    }

    init(name: String, replicator: Replicator, log: Logger, delays: DelayWatch?, fill: @escaping @Sendable () -> LogFill) {
        self.delays = delays
        self.fill = fill
        self.name = name
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
        let replication = DiskReplication(replicator)
        defer { replication.storeContent(log) }
        while !stop.isStopping {
            do throws(SiteError) {
                guard let disk = try catalogue.disks().first(where: { $0.name == name }), disk.isReplicated else { return }
                cycle.setInterval(seconds: disk.policy.intervalSeconds)
                // The catalogue may have failed with the attempt: health and `resume` go by what is noted there.
                if let failure = unrecorded { announced = try recordFailure(failure, nextAttemptIn: wait(cycle)) }
                unrecorded = nil
                if wasPaused, !disk.isPaused { cycle.resume(now: clock.now()) }
                wasPaused = disk.isPaused
                if cycle.isHalted, try catalogue.replication(ofDisk: name).nextAttemptNanoseconds != announced { cycle.resume(now: clock.now()) }
                if try isUrgent(disk) { cycle.hasten(now: clock.now()) }
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

    /// Whether the next attempt is due before its interval is over. A log that is full of what the vault does not take, or holds more of it
    /// than a resynchronisation would send, is given up for one, where the policy says so.
    private func isUrgent(_ disk: ProtectedDisk) throws(SiteError) -> Bool {
        let mark = try catalogue.resynchronisation(ofDisk: name)
        let fill = fill()
        if mark == nil, let reason = reasonToGiveUp(fill, disk), try catalogue.replication(ofDisk: name).failures > 0 {
            do {
                try markResynchronisation(disk, LogFolder(disk.logFolder), catalogue, reason: reason)
            } catch {
                log.error("\(name): the log cannot be given up for a resynchronisation: \(error)")
            }
        }
        // A disk that was shut down for a failover: somebody waits until the vault has everything.
        return fill.pressure != .low || mark?.isNow == true || disk.held != nil
    }

    private func reasonToGiveUp(_ fill: LogFill, _ disk: ProtectedDisk) -> String? {
        if fill.pressure == .full, disk.policy.whenFull == .resync { return "the log's budget was used up while the vault could not be brought up to date" }
        guard fill.isBeyond(percent: disk.policy.resyncPercent, ofDiskBytes: disk.sizeBytes) else { return nil }
        return "the vault could not be brought up to date and lacks \(fill.unreplicatedBytes >> 20) MiB of writes, \(disk.policy.resyncPercent) % of the disk's size"
    }

    /// One attempt now, whatever the schedule says; its failure, when it failed.
    func runOnce(_ disk: ProtectedDisk, _ replication: DiskReplication) throws -> AttemptFailure? {
        do {
            guard try replication.attempt(disk) else {
                let mark = try catalogue.resynchronisation(ofDisk: name)
                return AttemptFailure(
                    .mayPass, "resynchronisation required: \(mark?.reason ?? "it was just marked"); it begins in the hours of its policy (\(disk.policy.resyncWindow.text))",
                    remedy: "farshore resync \(name) --now", cause: VaultError.refused("it waits for its resynchronisation"))
            }
            try recordSuccess()
            return nil
        } catch let stopped as Stopped {
            throw stopped
        } catch {
            let failure = AttemptFailure(error)
            _ = try recordFailure(failure, nextAttemptIn: nil)
            return failure
        }
    }

    /// One attempt; its failure, when it failed.
    private func carryOut(_ cycle: inout UploadCycle, _ disk: ProtectedDisk, _ replication: DiskReplication) throws(SiteError) -> AttemptFailure? {
        let began = clock.now()
        do {
            let isReplicated = try replication.attempt(disk, isLogFilling: fill().pressure != .low)
            cycle.ended(.succeeded, now: clock.now())
            if isReplicated {
                delays?.succeeded(disk.name, begunAt: began)
                try recordSuccess()
            }
        } catch is Stopped {
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

    private func recordSuccess() throws(SiteError) {
        var state = try catalogue.replication(ofDisk: name)
        guard state.health != .normal || state.failures > 0 else { return }
        state.recover()
        try catalogue.setReplication(state, ofDisk: name)
        try catalogue.record(.information, disk: name, "replication goes on")
        log.info("\(name): replication goes on")
    }

    private func recordFailure(_ failure: AttemptFailure, nextAttemptIn wait: UInt64?) throws(SiteError) -> UInt64? {
        var state = try catalogue.replication(ofDisk: name)
        state.fail(failure, nextAttemptNanoseconds: wait.map { Clock.wallNanoseconds() + $0 })
        try catalogue.setReplication(state, ofDisk: name)
        let next = wait.map { "next attempt in \(($0 + 500_000_000) / 1_000_000_000) s" }
            ?? (failure.outcome == .mayPass ? failure.remedy : "not retried by itself; \(failure.remedy)")
        try catalogue.record(failure.isAlarm ? .critical : .warning, disk: name, "replication failed: \(failure.message); \(next)")
        log.error("\(name): replication failed: \(failure.message); \(next)")
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
