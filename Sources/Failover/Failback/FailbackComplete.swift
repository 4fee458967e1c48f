// `failback complete`: the replica was shut down and has sent everything (`failover prepare` there); the images get the rest, and each disk
// is the home's source again, with a log made anew that branches off at the replica's last state. So nothing is replicated anew.

import BlockIO
import ChangeLog
import Glibc
import Site
import Vault

extension Failbacks {
    /// Repeatable: a run that was killed is continued.
    package func complete(_ unitName: String) throws -> FailbackReport {
        let (standing, lock) = try heads.alone(unitName, on: catalogue.site)
        defer { withExtendedLifetime(lock) {} }
        try standing.unit.refusePart()
        try standing.check(.failbackComplete)
        let startedMicros = Clock.wallNanoseconds() / 1_000
        do {
            let report = try carryOut(standing, unitName)
            // Said again it is no other failback.
            if standing.state != .failedOver { keep(standing, isGood: true, "", startedMicros) }
            return report
        } catch {
            keep(standing, isGood: false, ": \(error)", startedMicros)
            throw error
        }
    }

    /// For `drill report`. Nothing is started by it: that is the person's.
    private func keep(_ standing: LifeCycleStanding, isGood: Bool, _ what: String, _ startedMicros: UInt64) {
        let shared = SharedPoints(vault, head: standing.head, catalog: standing.catalog)
        let recovered = (standing.lifeCycle?.points ?? []).compactMap { point -> Drill.Recovered? in
            guard isGood, let disk = standing.unit.disks.first(where: { $0.id == point.disk }) else { return nil }
            // What cannot be told any more is the time of its end.
            let time = try? shared.time(of: ChosenPoint(disk: disk, sequence: point.sequence))
            return Drill.Recovered(disk: disk.name, sequence: point.sequence, timeMicros: time.flatMap { $0 } ?? startedMicros)
        }
        let from = standing.lifeCycle.map { standing.name(of: $0.state == .failingOver ? $0.former ?? $0.active : $0.active) } ?? "elsewhere"
        let drill = Drill(
            unit: standing.unit.name, disks: recovered, check: Drill.noCheck, isGood: isGood, note: "from \(from)" + what, startedMicros: startedMicros,
            tookMicros: Drill.microsSince(startedMicros), isNewest: false)
        drill.keep(as: .failback, in: vault, catalogue, by: heads.host)
    }

    private func carryOut(_ standing: LifeCycleStanding, _ unitName: String) throws -> FailbackReport {
        try asJob(unitName, steps: ["claim", "refresh", "log", "publish", "serve"]) { job in
            let disks = try ownDisks(standing.unit)
            var homes: [HomeDisk] = []
            var head = standing.head
            try job.step("claim") {
                // What was made anew by an earlier run is not looked at again.
                let points = standing.lifeCycle?.points ?? []
                let open = disks.filter { disk in !isAnew(disk, points) }
                homes = try examine(open, standing.head)
                try refuseUnknown(homes, unitName)
                head = try claim(standing.unit)
                return "the replica is shut down; nothing is published from there any more"
            }
            let points = Dictionary(uniqueKeysWithValues: (head.lifeCycle?.points ?? []).map { ($0.disk, RefreshMark.State(lineage: $0.lineage, sequence: $0.sequence)) })
            var report = FailbackReport(unit: unitName, state: .failingOver, disks: try homes.map { .init(parted: try self.parted($0, head), mark: nil) })
            try job.step("refresh") {
                for index in homes.indices {
                    guard let target = points[homes[index].mark.disk] else { throw missingPoint(homes[index].disk, unitName) }
                    report.disks[index].mark = try refresh(homes[index], after: nil, to: target, try history(of: homes[index].disk, in: head), isFull: false)
                }
                report.passes = 1
                return nil
            }
            try job.step("log") {
                for home in homes {
                    guard let target = points[home.mark.disk] else { throw missingPoint(home.disk, unitName) }
                    try beginAnew(home, at: target, head)
                }
                return nil
            }
            try job.step("publish") {
                try heads.publish(.failbackComplete, standing.unit, claiming: false) { (head: inout Head, lifeCycle: inout LifeCycle?) throws(VaultError) in
                    guard lifeCycle?.target == heads.host.id else { throw .refused("\(unitName): another host took it over meanwhile") }
                    lifeCycle?.state = .failedOver
                    lifeCycle?.active = heads.host.id
                    unpin(&head)
                }
                report.state = .failedOver
                return nil
            }
            try job.step("serve") {
                for disk in disks {
                    try catalogue.hold(disk: disk.name, reason: nil)
                    if try !actions.serve(disk.name) { report.unserved = true }
                }
                return report.unserved ? "no mount of this site runs" : nil
            }
            try catalogue.record(.information, disk: nil, "\(unitName) is back on this host")
            return report
        }
    }

    private func missingPoint(_ disk: ProtectedDisk, _ unit: String) -> FailoverError {
        FailoverError(.prerequisite, "the replica was not shut down with \(disk.name)", remedy: "farshore failover prepare \(unit) once more on the active host")
    }

    /// Nothing of the home is given up here that nobody agreed to.
    private func refuseUnknown(_ homes: [HomeDisk], _ unit: String) throws {
        guard let first = homes.first(where: { !$0.isBegun && ($0.unsent.records > 0 || $0.mark.base == nil) }) else { return }
        throw FailoverError(
            .prerequisite, "the failback of \(first.disk.name) was not started, and this host has writes that the vault never got, or an image that has to be compared",
            remedy: "farshore failover cancel \(unit) on the active host, then farshore failback start \(unit) here")
    }

    /// From here on the replica's uploader publishes nothing; what it said it sent is all there is.
    private func claim(_ unit: FailoverUnit) throws -> Head {
        let run = VaultID.random()
        return try heads.publish(.failbackComplete, unit, claiming: true) { (head: inout Head, lifeCycle: inout LifeCycle?) throws(VaultError) in
            guard let before = lifeCycle, before.state == .prepared else { return }
            for point in before.points ?? [] {
                guard let state = head.state(of: point.disk), state.current?.id == point.lineage, state.newestSequence == point.sequence else {
                    throw .refused("the vault does not have the disk \(point.disk) up to #\(point.sequence), where it was shut down: farshore failover prepare \(unit.name) once more on the active host")
                }
            }
            lifeCycle = LifeCycle(
                state: .failingOver, active: before.active, home: before.home, target: heads.host.id, former: before.active, run: run, kind: .planned,
                points: before.points, timeMicros: 0)
        }
    }

    /// An earlier run came as far as the disk's new log.
    private func isAnew(_ disk: ProtectedDisk, _ points: [LifeCycle.Point]) -> Bool {
        guard let point = points.first(where: { $0.disk.description == disk.id }), let state = try? LogFolder(disk.logFolder).readState() else { return false }
        return access(LogFolder(disk.logFolder).failbackFile, F_OK) != 0 && state.lineages.last?.branchSequence == point.sequence
            && state.lineages.dropLast().last?.id.description == point.lineage.description
    }

    /// The mark goes last: until then a repetition makes the log once more.
    private func beginAnew(_ home: HomeDisk, at target: RefreshMark.State, _ head: Head) throws {
        let folder = home.folder
        guard let mark = try RefreshMark.load(folder), mark.base == target, mark.pass == nil, let id = LogID(hex: home.disk.id), let state = head.state(of: mark.disk) else {
            throw FailoverError(.incomplete, "the image of \(home.disk.name) is not at #\(target.sequence) yet", remedy: "the same command again")
        }
        let sizeBytes = state.sizeBytes(at: target.sequence)
        let old = try waitingForUploader(of: catalogue.site) { try OwnerLock.acquire(folder) }
        try folder.discard(old, duringFailback: true)
        let sequencer = try Sequencer(path: catalogue.site.sequencePath)
        try sequencer.raise(above: head.disks.flatMap(\.lineages).map(\.sequence).max() ?? target.sequence)
        let known = state.lineages.map { LogState.Lineage(id: LogID(high: $0.id.high, low: $0.id.low), branchSequence: $0.branchSequence ?? 0) }
        try ChangeLog.create(
            folder, diskID: id, diskBytes: sizeBytes, targets: [home.disk.vaultID], segmentBytes: SegmentGeometry.segmentBytes(forBudgetBytes: home.disk.logBudgetBytes),
            budgetBytes: home.disk.logBudgetBytes, startSequence: target.sequence, lineages: known + [LogState.Lineage(id: .random(), branchSequence: target.sequence)])
        if sizeBytes != home.disk.sizeBytes { try catalogue.setSize(sizeBytes, ofDisk: home.disk.name) }
        // The vault has it all up to there: a failback that is taken back and begun again finds what both sides have.
        try folder.storeMark(ReplicatedMark(sequence: target.sequence, lineage: LogID(high: target.lineage.high, low: target.lineage.low)), target: home.disk.vaultID)
        try RefreshMark.remove(folder)
        try catalogue.settleMove(ofDisk: home.disk.name, goingBack: false)
    }
}
