// The commands of the life cycle as they run on one host: what they have in common. Each asks the vault's head and the site how far an
// earlier run of it came, so that a killed one is continued by running it again, or taken back.

import BlockIO
import RecoveryPoints
package import Site
import Vault

/// What a failover does beyond vault and catalogue.
package struct FailoverActions: Sendable {
    /// Makes recovery disks of the states and registers them on this site, all or none; their names there. Repeatable.
    package let make: @Sendable ([ChosenPoint], FailoverRecord) throws -> [String]
    /// Takes a recovery disk out of this site, its image and log with it; nothing where there is none.
    package let remove: @Sendable (FailoverRecord.Disk, FailoverRecord) throws -> Void
    /// Lets the site's mount serve the disk; its path, nil where no mount runs.
    package let serve: @Sendable (String) throws -> String?
    /// The site's mount gives the disk up, all it acknowledged durable in its log. Throws while somebody uses it.
    package let release: @Sendable (String) throws -> Void

    package init(
        make: @escaping @Sendable ([ChosenPoint], FailoverRecord) throws -> [String],
        remove: @escaping @Sendable (FailoverRecord.Disk, FailoverRecord) throws -> Void, serve: @escaping @Sendable (String) throws -> String?,
        release: @escaping @Sendable (String) throws -> Void
    ) {
        self.make = make
        self.remove = remove
        self.serve = serve
        self.release = release
    }
}

package struct Failovers: Sendable {
    package let heads: LifeCycleHeads
    package let catalogue: Catalogue
    let actions: FailoverActions

    package init(heads: LifeCycleHeads, catalogue: Catalogue, actions: FailoverActions) {
        self.heads = heads
        self.catalogue = catalogue
        self.actions = actions
    }

    var vault: Vault { heads.vault }

    func alone(_ unitName: String, waitSeconds: Double = 0) throws -> (standing: LifeCycleStanding, lock: SiteLock) {
        try heads.alone(unitName, on: catalogue.site, waitSeconds: waitSeconds)
    }

    /// By its group: a machine of one disk has two names.
    func openRecord(_ kind: FailoverRecord.Kind, of unit: FailoverUnit) throws -> FailoverRecord? {
        try catalogue.openFailovers(kind).first { $0.group == unit.group.description }
    }

    /// What this site has of the disks that a failover begins with. One that is being removed is none of them, but in the way of another.
    enum DisksHere {
        case none, all
        case part(missing: LifeCycle.Point)
    }

    func disksHere(_ points: [LifeCycle.Point]) throws -> DisksHere {
        let own = try catalogue.disks().filter { own in points.contains { $0.disk.description == own.id } }
        guard !own.isEmpty else { return .none }
        let missing = points.first { point in !own.contains { $0.id == point.disk.description && $0.state == .protected } }
        return missing.map { .part(missing: $0) } ?? .all
    }

    /// What the unit stands on; a disk that the vault was told to forget meanwhile is none of it.
    static func points(of standing: LifeCycleStanding) -> [LifeCycle.Point] {
        (standing.lifeCycle?.points ?? []).filter { point in standing.unit.disks.contains { $0.id == point.disk } }
    }

    /// What is refused of a unit that is failed over while only some of its disks are left: guests may have written on those.
    static func incompleteDisks(_ missing: LifeCycle.Point, _ standing: LifeCycleStanding) -> FailoverError {
        let name = standing.unit.name
        let disk = standing.unit.disks.first { $0.id == missing.disk }?.name ?? missing.disk.description
        return FailoverError(
            .prerequisite,
            "\(disk) is not on this site any more: "
                + "taking \(name) back was stopped before its end, or somebody unprotected the disk; without it \(name) is not whole",
            remedy: "farshore failover cancel \(name) goes on with taking it back; afterwards farshore failover run \(name) can begin again. "
                + "Where \(disk) is not wanted any more: farshore vault forget \(disk) --vault URL, then the unit goes on without it")
    }

    /// The mount serves none of them any more. Throws while somebody uses one. By id too: another vault's disk may have the name here.
    func release(_ disks: [FailoverRecord.Disk]) throws {
        let own = try catalogue.disks()
        for disk in disks where own.contains(where: { $0.name == disk.name && $0.id == disk.id }) { try actions.release(disk.name) }
    }

    /// All are let go of before the first one goes: while somebody uses one, none is removed, and the unit stays whole.
    func remove(_ disks: [FailoverRecord.Disk], of record: FailoverRecord) throws {
        try release(disks)
        for disk in disks {
            try actions.remove(disk, record)
            try catalogue.forget(disk, ofFailover: record.run)
        }
    }

    /// The name of the pins that keep what a run needs.
    static func pinName(_ run: String) -> String { "\(Head.Pin.failoverPrefix)\(run.prefix(16))" }

    /// Instead of those of that name; with `keepsOld` beside them.
    static func addPins(
        _ run: String, _ points: [LifeCycle.Point], reason: String, to head: inout Head, _ shared: SharedPoints, named name: String? = nil, keepsOld: Bool = false
    ) throws(VaultError) {
        let name = name ?? pinName(run)
        var pins = (head.pins ?? []).filter { pin in pin.name != name || (keepsOld && !points.contains { $0.disk == pin.disk && $0.sequence == pin.sequence }) }
        for point in points {
            let time = try shared.history(of: point.disk)?.newestPoint { $0.sequence <= point.sequence }?.timeMicros ?? 0
            pins.append(Head.Pin(name: name, disk: point.disk, sequence: point.sequence, timeMicros: time, reason: reason, untilMicros: nil))
        }
        guard pins.count <= FormatLimits.pinsMax else { throw .refused("there are \(FormatLimits.pinsMax) pins already: farshore point unpin DISK --name NAME") }
        head.pins = pins
    }

    /// The run's pins of `points` stay, its others go.
    static func keepPins(_ run: String, of points: [LifeCycle.Point], in head: inout Head) {
        head.pins = head.pins?.filter { pin in pin.name != pinName(run) || points.contains { $0.disk == pin.disk && $0.sequence == pin.sequence } }
    }

    static func removePins(_ run: String, from head: inout Head) {
        let left = (head.pins ?? []).filter { $0.name != pinName(run) }
        head.pins = left.isEmpty ? nil : left
    }

    /// The states that `name` stands for in `head`, each with the lineage it is read from.
    static func points(_ name: PointName, of unit: FailoverUnit, _ shared: SharedPoints) throws(VaultError) -> [LifeCycle.Point] {
        try ChosenPoint.resolve(name, on: unit.disks, in: shared).map { chosen throws(VaultError) in
            guard let state = shared.history(of: chosen.disk.id)?.state, let lineage = (state.lineages.first { $0.sequence >= chosen.sequence } ?? state.current)?.id else {
                throw .notFound("nothing of the disk \(chosen.disk.name) is in the vault yet")
            }
            return LifeCycle.Point(disk: chosen.disk.id, lineage: lineage, sequence: chosen.sequence)
        }
    }

    /// The same for guests to go on from. Of a point below the window only the map is kept: no history could go on from it, and the disk could not
    /// be replicated again.
    static func startingPoints(_ name: PointName, of unit: FailoverUnit, _ shared: SharedPoints) throws(VaultError) -> [LifeCycle.Point] {
        let points = try points(name, of: unit, shared)
        for point in points {
            guard let oldest = shared.history(of: point.disk)?.state.oldestSequence, point.sequence < oldest else { continue }
            let disk = unit.disks.first { $0.id == point.disk }?.name ?? point.disk.description
            throw .refused(
                "point #\(point.sequence) of \(disk) is older than the whole history that is kept (#\(oldest) on), so it could not be replicated again; choose a point from #\(oldest) on, "
                    + "farshore failover test \(unit.name) --at #\(point.sequence) runs this one beside, and farshore restore \(disk) --vault URL --at #\(point.sequence) --to FILE makes an image of it that can be protected anew")
        }
        return points
    }

    /// Where the empty disks of machines are, which stand for what is not replicated.
    static func emptyFolder(_ folder: String) -> String { "\(folder)/empty" }

    /// Runs a command of the administrator; its failure is thrown.
    static func command(_ text: String, _ what: String, environment: [String: String], seconds: Double) throws -> String {
        let outcome = try TimedCommand(text, environment: environment, seconds: seconds).run()
        guard outcome.isSuccess else {
            throw FailoverError(.commandFailed, "the \(what) command \(outcome.text)", remedy: "mend what it says, then the same command again: it goes on from there")
        }
        return outcome.text
    }
}

extension Catalogue {
    /// Runs `body` as the job; its error ends the job and is thrown on.
    func asJob<Value>(_ kind: Job.Kind, _ unit: String, steps: [String], _ body: (RunningJob) throws -> Value) throws -> Value {
        let job = try beginJob(kind, disk: unit, steps: steps)
        do {
            let value = try body(job)
            try job.succeed()
            return value
        } catch {
            try job.fail("\(error)", remedy: (error as? FailoverError)?.remedy ?? (error as? SiteError)?.remedy ?? (error as? FencedFailure)?.remedy ?? "farshore failover show \(unit)")
            throw error
        }
    }
}

extension FailoverUnit {
    func disk(of point: LifeCycle.Point) throws(FailoverError) -> Catalog.Disk {
        guard let disk = disks.first(where: { $0.id == point.disk }) else {
            throw FailoverError(.prerequisite, "the vault's catalog has no disk \(point.disk) in \(name) any more", remedy: "farshore failover cancel \(name)")
        }
        return disk
    }
}
