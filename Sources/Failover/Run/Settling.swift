// `failover commit` and `failover cancel`: how a failover ends. Canceled, everything is as before it, and the old source can go on.

import BlockIO
import Glibc
import Site
import Vault

extension Failovers {
    /// Cut points from before the states that guests went on from, but for those that stay.
    package struct PointsBefore: Equatable, Sendable {
        package let count: Int
        /// Of the first and the last one; 0 where there are none.
        package let oldestMicros: UInt64
        package let newestMicros: UInt64
    }

    /// What a commit lets go of that keeps no points.
    package func pointsBefore(_ standing: LifeCycleStanding) throws -> PointsBefore {
        let shared = SharedPoints(vault, head: standing.head, catalog: standing.catalog)
        let begun = (standing.lifeCycle?.points ?? []).map(\.sequence).min() ?? 0
        let staying = try Self.afterCommit(vault, epoch: standing.head.collectionEpoch).staying(in: standing.head, standing.catalog)
        var points: [VaultID: [RecoveryPoint]] = [:]
        for member in shared.members { points[member.disk.id] = try member.history.points() }
        // As they are listed: one that disks share counts once.
        var going: Set<[UInt64]> = []
        for member in shared.members {
            for (point, _) in shared.points(of: member.disk.id, among: points) where point.sequence < begun && !staying.contains(point.sequence) {
                going.insert([point.timeMicros, point.sequence])
            }
        }
        let times = going.map { $0[0] }
        return PointsBefore(count: times.count, oldestMicros: times.min() ?? 0, newestMicros: times.max() ?? 0)
    }

    /// With `keepsPoints` false the points from before the one that was chosen are let go, as far as no pin keeps them; `tell` hears of them before.
    package func commit(_ unitName: String, keepsPoints: Bool, tell: (PointsBefore) -> Void = { _ in }) throws -> LifeCycleStanding {
        let (standing, lock) = try alone(unitName)
        defer { withExtendedLifetime(lock) {} }
        try standing.unit.refusePart()
        try standing.check(.commit)
        try requireDisks(standing)
        // Said again when all is done, it must not let go of what the first one kept.
        let isRepeated = try standing.state == .committed && openRecord(.failover, of: standing.unit) == nil
        if !keepsPoints, !isRepeated { tell(try pointsBefore(standing)) }
        try heads.publish(.commit, standing.unit, claiming: true) { (_: inout Head, lifeCycle: inout LifeCycle?) throws(VaultError) in
            guard lifeCycle?.run == standing.lifeCycle?.run else { throw .refused("\(unitName): another failover began meanwhile") }
            lifeCycle?.state = .committed
        }
        if !keepsPoints, !isRepeated { try letGoOfPoints(standing) }
        // Its disks are no longer to be taken back; nor, after a failback, is how this host was shut down before it.
        for kind in [FailoverRecord.Kind.failover, .preparation] {
            if let record = try openRecord(kind, of: standing.unit) { try catalogue.end(failover: record.run, note: "committed") }
        }
        try catalogue.record(.information, disk: nil, "the failover of \(unitName) was committed; it is not replicated until it is reprotected")
        return try heads.standing(of: unitName)
    }

    /// What is committed can neither be taken back nor made again: without one of its disks the unit would stay as it is.
    private func requireDisks(_ standing: LifeCycleStanding) throws {
        let points = Self.points(of: standing)
        guard standing.state == .failedOver, let first = points.first else { return }
        switch try disksHere(points) {
        case .all: return
        case .none: throw Self.incompleteDisks(first, standing)
        case .part(let missing): throw Self.incompleteDisks(missing, standing)
        }
    }

    private static func afterCommit(_ vault: Vault, epoch: UInt32) -> Retention { Retention(vault: vault, thinning: Thinning(rules: []), epoch: epoch) }

    /// A claim of its own, for collections wait while kept points are written under the epoch that it acknowledges.
    private func letGoOfPoints(_ standing: LifeCycleStanding) throws(VaultError) {
        let chain = vault.heads(group: standing.unit.group)
        let claimed = try chain.claim(host: heads.host.name, id: heads.host.id, keepsEpoch: { _ in false }) { head throws(VaultError) in
            guard head.lifeCycle?.state == .committed, head.lifeCycle?.run == standing.lifeCycle?.run else { throw .refused("\(standing.unit.name): another failover began meanwhile") }
        }.document
        let pruning = try Self.afterCommit(vault, epoch: claimed.collectionEpoch).pruning(of: claimed, standing.catalog)
        try chain.update(epoch: claimed.writer.epoch) { head in
            pruning?.apply(to: &head)
            head.writer.isReleased = 1
        }
    }

    /// On the target, or on the active host of a prepared unit; where nothing is under way, what an interrupted command left on this host.
    /// `onlyUnfinished`: refused where guests may have written on what was made.
    package func cancel(_ unitName: String, isLost: Bool, onlyUnfinished: Bool = false) throws -> LifeCycleStanding {
        let (standing, lock) = try alone(unitName)
        defer { withExtendedLifetime(lock) {} }
        try standing.check(isLost ? .cancelLost : .cancel)
        // One that guests went over from is no longer to be taken back.
        let preparation = standing.state == .replicating && standing.place != .active ? nil : try openRecord(.preparation, of: standing.unit)
        let failover = try openRecord(.failover, of: standing.unit)
        let hasLeftDisks = try standing.state == .replicating && standing.place != .active && failover.map { try !catalogue.disks(ofFailover: $0.run).isEmpty } ?? false
        if onlyUnfinished, standing.state == .failedOver || hasLeftDisks {
            throw FailoverError(
                .notNow, "the disks of \(unitName) are made, and guests may have written on them",
                remedy: "farshore failover cancel \(unitName) takes it back, with all that was written since")
        }
        if standing.state == .replicating, preparation == nil, failover == nil {
            throw FailoverError(.notFound, "nothing of \(unitName) is to be taken back", remedy: "farshore failover show \(unitName)")
        }
        // In this order: while a guest could still write on the recovery disks the source must not go on.
        if let failover, !isLost {
            // Guests write here for good: it was committed, and killed before it could say so.
            if standing.place == .active { try catalogue.end(failover: failover.run, note: "committed") } else { try removeDisks(of: failover, note: "cancelled") }
        } else if standing.place == .target {
            // A failback: the disks are this host's own, and stay.
            try holdAll(try catalogue.disks().filter { own in standing.unit.disks.contains { $0.id.description == own.id } },
                reason: Failbacks.takenBack(unitName), requireUnowned)
        }
        if standing.state != .replicating {
            try heads.publish(isLost ? .cancelLost : .cancel, standing.unit, claiming: isLost) { (head: inout Head, lifeCycle: inout LifeCycle?) throws(VaultError) in
                guard let before = lifeCycle, before.run == standing.lifeCycle?.run else { throw .refused("\(unitName): another failover began meanwhile") }
                if let run = before.run { Self.removePins(run.description, from: &head) }
                let active = before.former ?? before.active
                lifeCycle = active == LifeCycle.unknownHost ? nil : LifeCycle(state: .replicating, active: active, home: before.home, timeMicros: 0)
            }
        }
        let settled = try heads.standing(of: unitName)
        if let preparation {
            if settled.place == .active { try undo(preparation) } else { try catalogue.end(failover: preparation.run, note: "guests went over") }
        }
        try catalogue.record(isLost ? .critical : .information, disk: nil, "the failover of \(unitName) was taken back; farshore resume DISK on its source lets it go on")
        return settled
    }

    /// Takes the recovery disks of the run out of this site, and ends it.
    func removeDisks(of record: FailoverRecord, note: String) throws {
        try remove(try catalogue.disks(ofFailover: record.run), of: record)
        let catalog = try vault.catalog().document
        // Of a unit that the vault has forgotten meanwhile nothing is known.
        try catalog.removeEmptyDisks(ofMachines: (try? FailoverUnit(record.unit, in: catalog))?.machines ?? [], in: record.folder)
        try catalogue.end(failover: record.run, note: note)
    }
}

extension Catalog {
    /// Those of machines that were started, which stand for what is not replicated. Only what bears such a name goes, and folders that are empty then.
    /// `folder`: that of the failover.
    func removeEmptyDisks(ofMachines machines: [String], in folder: String) throws(SystemError) {
        let own = Failovers.emptyFolder(folder)
        guard access(own, F_OK) == 0 else { return }
        for machine in machines {
            for disk in settings(ofMachine: machine)?.disks ?? [] where disk.excludedSizeBytes != nil { try DurableFile.remove("\(own)/\(disk.name).raw") }
        }
        for path in [own, folder] where rmdir(path) != 0 {
            guard [ENOTEMPTY, EEXIST, ENOENT, EBUSY].contains(errno) else { throw SystemError(errno: errno, operation: "remove", path: path) }
        }
    }
}
