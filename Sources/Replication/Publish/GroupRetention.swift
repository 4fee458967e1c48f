// Lets points of one vault go as the policies say: one round looks at every group that this uploader writes there, and publishes the
// heads without them; `clean` copies what is left of mostly dead objects. Each on a thread of its own, so that no upload waits, no other
// vault, and no thinning for a copy; what fails is an event and is tried again.

import BlockIO
import ChangeLog
import Logging
import Site
import Synchronization
import Vault

/// When a group's points are looked at again. Pure.
package struct RetentionSchedule: Equatable, Sendable {
    private var lastRound: UInt64?
    private var lastHead: UInt64?

    package init() {}

    /// Points are looked at when those beyond the window's whole part may be a quarter of it old, within 1 s and an hour.
    package static func periodNanoseconds(wholeMicros: UInt64) -> UInt64 {
        min(max(wholeMicros / 4, 1_000_000), 3_600_000_000) * 1_000
    }

    /// `clockMicros` is the time up to which points were looked at, nil before the first round. A clock that was set anywhere
    /// else makes a round due, which costs requests and lets nothing go too soon. Where there is no other head there is no new point.
    package mutating func isDue(head: UInt64, now: UInt64, wallMicros: UInt64, clockMicros: UInt64?, wholeMicros: UInt64) -> Bool {
        guard head != lastHead else { return false }
        let period = Self.periodNanoseconds(wholeMicros: wholeMicros)
        if let lastRound, now - min(now, lastRound) < period { return false }
        if let clockMicros {
            let passed = wallMicros > clockMicros ? wallMicros - clockMicros : clockMicros - wallMicros
            guard passed > wholeMicros + period / 1_000 else { return false }
        }
        (lastRound, lastHead) = (now, head)
        return true
    }
}

final class GroupRetention: Sendable {
    private struct State {
        var schedules: [VaultID: RetentionSchedule] = [:]
        var problems: [VaultID: String] = [:]
        /// Settings that the vault did not take are offered again then.
        var settingsDue: UInt64 = 0
        /// Of disks where it failed.
        var cleaningDue: [VaultID: UInt64] = [:]
    }

    private static let pauseNanoseconds: UInt64 = 60_000_000_000

    private let catalogue: Catalogue
    private let connection: VaultConnection
    private let log: Logger
    private let state = Mutex(State())

    init(_ connection: VaultConnection, _ catalogue: Catalogue, log: Logger) {
        self.catalogue = catalogue
        self.connection = connection
        self.log = log
    }

    func round() {
        publishSettings()
        for heads in connection.claimedHeads { round(heads) }
    }

    private func publishSettings() {
        guard state.withLock({ $0.settingsDue }) <= Clock.monotonicNanoseconds() else { return }
        do {
            try catalogue.publishSettings(to: connection.vault)
            try connection.publishPolicies(of: catalogue)
        } catch {
            state.withLock { $0.settingsDue = Clock.monotonicNanoseconds() + Self.pauseNanoseconds }
            log.warning("settings of machines and policies of disks are not in the vault yet: \(error)")
        }
    }

    private func round(_ heads: GroupHeads) {
        do {
            guard let head = heads.head?.document else { return }
            if try isFilled(heads, head) { try heads.publish { $0.removeFailoverPins() } }
            guard let thinning = try thinning(heads.group, head) else { return }
            let isDue = state.withLock {
                $0.schedules[heads.group, default: RetentionSchedule()].isDue(
                    head: head.number, now: Clock.monotonicNanoseconds(), wallMicros: Clock.wallNanoseconds() / 1_000, clockMicros: head.clock?.timeMicros,
                    wholeMicros: max(thinning.wholeMicros, thinning.rules.map(\.periodMicros).min() ?? 0))
            }
            guard isDue else { return }
            try heads.retain(thinning, connection.catalogRead())
            note(nil, heads.group)
        } catch {
            note("\(error)", heads.group)
        }
    }

    // MARK: Cleaning

    /// One step of what is to be copied out of mostly dead objects, for each disk where that is due.
    func clean() {
        for heads in connection.claimedHeads {
            for (disk, cleaning) in heads.cleanings.withLock({ $0 }) where state.withLock({ $0.cleaningDue[disk] ?? 0 }) <= Clock.monotonicNanoseconds() {
                do {
                    try clean(disk, cleaning, heads)
                } catch {
                    state.withLock { $0.cleaningDue[disk] = Clock.monotonicNanoseconds() + Self.pauseNanoseconds }
                    // No event: what is wrong with the target or the vault is told where points depend on it.
                    log.warning("what is left of mostly dead objects of \(disk) is not copied now: \(error)")
                }
            }
        }
    }

    /// The head that was read last says whose state it is, and which epoch holds; when a later one was acknowledged meanwhile, the copies are not named.
    private func clean(_ disk: VaultID, _ cleaning: Cleaning, _ heads: GroupHeads) throws {
        guard let head = heads.head?.document, let state = head.state(of: disk), state.movedTo == nil, cleaning.isDue(state), try isWanted(disk),
            // Where everything is kept nothing gets free by being copied.
            try thinning(heads.group, head) != nil
        else { return }
        try connection.settleDoubtsOnce()
        let step = try cleaning.step(state, epoch: head.collectionEpoch) { chunk, bytes in
            try connection.ledger.place(chunk) { chunk in _ = try cleaning.vault.putChunk(bytes, as: chunk) }
        }
        if let step { log.info("\(connection.known(disk)?.name ?? disk.description): \(step.bytes >> 10) KiB that were left of \(step.objects) objects are copied") }
    }

    private func isWanted(_ disk: VaultID) throws(SiteError) -> Bool {
        try catalogue.disksAtTargets().contains { $0.id == disk.description && $0.vaultID == connection.vault.id.description && $0.isReplicated && !$0.isPaused }
    }

    /// Reprotected while its images were filled, a group keeps pins of its failover that nobody needs any more.
    private func isFilled(_ heads: GroupHeads, _ head: Head) throws(SiteError) -> Bool {
        guard head.pins?.contains(where: { $0.name.hasPrefix(Head.Pin.failoverPrefix) }) == true, head.lifeCycle?.state == .replicating, head.lifeCycle?.active == heads.hostID,
            let found = try catalogue.consistencyGroups().first(where: { $0.id == heads.group.description })
        else { return false }
        return found.disks.allSatisfy { LogFolder($0.logFolder).isKnownFilled }
    }

    /// Of disks that share points each keeps what any of their policies asks for; nil when one keeps everything, or when a disk of the
    /// head is none of this group here any more: its points are not those of the others to thin out.
    private func thinning(_ group: VaultID, _ head: Head) throws(SiteError) -> Thinning? {
        guard let found = try catalogue.consistencyGroups().first(where: { $0.id == group.description }) else { return nil }
        let own = Set(found.disks.map(\.id))
        guard head.disks.allSatisfy({ $0.movedTo != nil || own.contains($0.disk.description) }) else { return nil }
        let policies = try catalogue.disksAtTargets().filter { own.contains($0.id) && $0.vaultID == connection.vault.id.description }.map(\.policy.retention)
        // A target that was just removed has no rules, and its points stay.
        guard policies.count == found.disks.count else { return nil }
        guard !policies.contains(.everything) else { return nil }
        return Thinning(rules: policies.flatMap(\.rules).map { Thinning.Rule(periodSeconds: $0.periodSeconds, spanSeconds: $0.spanSeconds) })
    }

    /// The first failure and the first success after one are events.
    private func note(_ problem: String?, _ group: VaultID) {
        let before = state.withLock { state in
            defer { state.problems[group] = problem }
            return state.problems[group]
        }
        guard before != problem else { return }
        let catalog = connection.catalogRead()
        let name = catalog.group(group)?.name ?? catalog.disks(inGroup: group).first?.name ?? group.description
        let text = problem.map { "the points of \(name) are not thinned out: \($0)" } ?? "the points of \(name) are thinned out again"
        log.warning("\(text)")
        do throws(SiteError) { try catalogue.record(problem == nil ? .information : .warning, disk: nil, text) } catch { log.error("\(error)") }
    }
}

extension GroupHeads {
    /// Publishes the head without the points that `thinning` lets go, if there are any.
    func retain(_ thinning: Thinning, _ catalog: Catalog) throws(VaultError) {
        guard let head = head?.document, writerEpoch != nil else { return }
        try making { epoch throws(VaultError) in
            guard let pruning = try Retention(vault: vault, thinning: thinning, epoch: epoch).pruning(of: self.head?.document ?? head, catalog) else { return }
            try publish { pruning.apply(to: &$0) }
        }
    }
}
