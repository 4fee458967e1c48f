// `failover run` and `failover change-point`, on the host that takes over. Steps: prerequisites (nothing is changed), source (it is asked to
// stop, then fenced by the claim of the heads, which fixes and pins the points), failover (the recovery disks), start.

import BlockIO
import Glibc
package import RecoveryPoints
import Site
package import Vault

package struct FailoverRequest: Sendable {
    package let unit: String
    /// Nil: nothing was said, so the newest one, or that of the run that goes on.
    package let point: PointName?
    package let isPlanned: Bool
    package let vaultURL: String
    package let keyFile: String?
    package let passphraseFile: String?
    /// Of the recovery disks; nil: nothing was said.
    package let folder: String?
    package let sourceCommand: String?
    package let startCommand: String?
    package let commandSeconds: Double

    package init(
        unit: String, point: PointName?, isPlanned: Bool, vaultURL: String, keyFile: String?, passphraseFile: String?, folder: String?, sourceCommand: String?, startCommand: String?, commandSeconds: Double
    ) {
        self.unit = unit
        self.point = point
        self.isPlanned = isPlanned
        self.vaultURL = vaultURL
        self.keyFile = keyFile
        self.passphraseFile = passphraseFile
        self.folder = folder
        self.sourceCommand = sourceCommand
        self.startCommand = startCommand
        self.commandSeconds = commandSeconds
    }
}

package struct FailoverReport: Sendable {
    package struct Disk: Sendable {
        package let disk: Catalog.Disk
        package let point: LifeCycle.Point
        /// Of the newest cut point at or before it.
        package let timeMicros: UInt64?
        /// What it is called on this site.
        package var name: String?
        package var path: String?

        var chosen: ChosenPoint { ChosenPoint(disk: disk, sequence: point.sequence) }
    }

    package let unit: String
    package let run: String
    package var state: LifeCycle.State
    package var disks: [Disk]
    package var warnings: [String]
    /// By machine.
    package var errors: [String: String]
    /// The unit had been failed over before; nothing was chosen or made anew.
    package var isRepeated = false
    /// Machines that were started by this very command.
    package var started: [String] = []
}

extension Failovers {
    package func run(_ request: FailoverRequest) throws -> FailoverReport {
        let command: LifeCycleCommand = request.isPlanned ? .runPlanned : .run
        let (standing, lock) = try alone(request.unit, waitSeconds: request.commandSeconds)
        defer { withExtendedLifetime(lock) {} }
        try standing.unit.refusePart()
        try standing.check(command)
        let record = try ownRecord(standing, request)
        if standing.isUnderWay { try refuseOtherWishes(standing, request, record) }
        if standing.state == .failedOver, case .part(let missing) = try disksHere(Self.points(of: standing)) { throw Self.incompleteDisks(missing, standing) }
        let startedMicros = Clock.wallNanoseconds() / 1_000
        return try catalogue.asJob(.failover, request.unit, steps: ["prerequisites", "source", "failover", "start"]) { job in
            func keep(_ report: FailoverReport, _ failure: (any Error)?) {
                let note = (request.isPlanned ? "planned" : "unplanned") + (failure.map { ": \($0)" } ?? "")
                let check = standing.catalog.check(ofMachines: standing.unit.machines, start: request.startCommand, hasChecks: false)
                report.recordDrill(
                    .failover, in: vault, catalogue, by: heads.host, check: check, isGood: failure == nil, note: note, startedMicros,
                    isNewest: request.point ?? .latest == .latest && !report.disks.isEmpty)
            }
            let report: FailoverReport
            do { report = try carryOut(command, standing, request, record, job) } catch {
                keep(FailoverReport(unit: request.unit, run: record.run, state: standing.state, disks: [], warnings: [], errors: [:]), error)
                throw error
            }
            let failure = report.errors.isEmpty ? nil : Self.incomplete(report)
            // Said again, with nothing left to do, it is no other failover.
            if !report.isRepeated || failure != nil || !report.started.isEmpty { keep(report, failure) }
            if let failure { throw failure }
            return report
        }
    }

    private func carryOut(_ command: LifeCycleCommand, _ standing: LifeCycleStanding, _ request: FailoverRequest, _ record: FailoverRecord, _ job: RunningJob) throws -> FailoverReport {
        var warnings: [String] = []
        try job.step("prerequisites") {
            if standing.state == .failedOver { return "it is failed over already" }
            if standing.isUnderWay { return "an earlier run is continued" }
            warnings += try checkPrerequisites(standing, request, record)
            return warnings.isEmpty ? nil : warnings.joined(separator: "; ")
        }
        var head = standing.head
        try job.step("source") {
            if standing.isUnderWay { return nil }
            let stopped = stopSource(request, &warnings)
            // A source that was told to stop may have had the addresses; nothing is claimed yet.
            try Self.refuseObstacles(standing.unit, standing.catalog, isTest: false)
            head = try claim(command, standing.unit, request, record)
            return stopped
        }
        return try finish(command, standing.unit, head, record, job, startCommand: request.startCommand, seconds: request.commandSeconds, warnings)
    }

    /// The record of the run that goes on, or of a new one.
    private func ownRecord(_ standing: LifeCycleStanding, _ request: FailoverRequest) throws -> FailoverRecord {
        let isBegun = standing.isUnderWay
        // Nothing is noted of disks that are no recovery disks: they would be taken for what a failover made.
        if isBegun, try catalogue.disks().contains(where: { own in own.role == .source && standing.unit.disks.contains { $0.id.description == own.id } }) {
            throw FailoverError(
                .notNow, "\(standing.unit.name) comes back to the disks that this site has of it, by a failback", remedy: "farshore failback complete \(standing.unit.name) continues it")
        }
        let known = try openRecord(.failover, of: standing.unit)
        var run = VaultID.random().description
        if let begun = standing.lifeCycle?.run, isBegun {
            if let known, known.run == begun.description { return known }
            run = begun.description
        }
        if let known {
            guard try catalogue.disks(ofFailover: known.run).isEmpty else {
                throw FailoverError(
                    .prerequisite, "this host still has the recovery disks of a failover of \(standing.unit.name) that was taken back on another host; what was written on them is nowhere else",
                    remedy: "save what is needed of them; farshore failover cancel \(standing.unit.name) removes them")
            }
            // Killed before its claim.
            try catalogue.end(failover: known.run, note: "begun again")
        }
        let record = FailoverRecord(
            run: run, kind: .failover, name: standing.unit.name, unit: standing.unit.name, group: standing.unit.group.description, vaultURL: request.vaultURL,
            vaultID: vault.id.description, keyFile: request.keyFile, passphraseFile: request.passphraseFile, point: (request.point ?? .latest).text,
            isPlanned: request.isPlanned, folder: request.folder ?? "\(catalogue.site.path)/recovery/\(standing.unit.plainName)")
        try catalogue.begin(record)
        return record
    }

    /// A run that goes on has its point and its folder; another one is not chosen by saying it again.
    private func refuseOtherWishes(_ standing: LifeCycleStanding, _ request: FailoverRequest, _ record: FailoverRecord) throws(FailoverError) {
        let what = "\(standing.unit.name) is \(standing.state == .failedOver ? "failed over already" : "being failed over")"
        if let point = request.point, point != PointName(record.point) {
            throw FailoverError(
                .notNow, "\(what), at \(standing.pointsText) (asked for as \(record.point)); --at chooses no other point now",
                remedy: "farshore failover change-point \(standing.unit.name) --at \(point.text)")
        }
        if let folder = request.folder, folder != record.folder {
            throw FailoverError(
                .notNow, "\(what), its recovery disks are in \(record.folder); --folder does not move them",
                remedy: "farshore failover run \(standing.unit.name) without --folder, or farshore failover cancel \(standing.unit.name) first")
        }
    }

    // MARK: Prerequisites

    /// Throws for what would make the failover fail; what it may be done without is a warning.
    private func checkPrerequisites(_ standing: LifeCycleStanding, _ request: FailoverRequest, _ record: FailoverRecord) throws -> [String] {
        let unit = standing.unit
        let shared = SharedPoints(vault, head: standing.head, catalog: standing.catalog)
        let points = request.isPlanned ? try preparedPoints(standing.head) : try Self.startingPoints(request.point ?? .latest, of: unit, shared)
        try checkReadable(points, unit, shared)
        let taken = try catalogue.disks().filter { own in unit.disks.contains { $0.name == own.name || $0.id.description == own.id } }
        if let first = taken.first {
            // The home's own, from before guests left: its image stays when it is released.
            let isOwn = first.role == .source && unit.disks.contains { $0.id.description == first.id }
            throw FailoverError(
                .prerequisite, "this site has a disk named \(first.name) already",
                remedy: (isOwn ? "farshore failover release \(unit.name) takes this host's own disks of it out of the site first, then the same command again; or " : "")
                    + "fail over on another host, or into another site directory: --site DIR")
        }
        try Directory.create(record.folder)
        guard access(record.folder, W_OK) == 0 else {
            throw FailoverError(.prerequisite, "\(record.folder) cannot be written", remedy: "another folder: --folder DIR")
        }
        try RecoveryDisks.refuseTaken(unit.disks.map(\.name), in: record.folder)
        var warnings: [String] = []
        if try !catalogue.wasTested(group: unit.group.description) { warnings.append("\(unit.name) was never tested on this site: farshore failover test \(unit.name)") }
        return warnings
    }

    /// Each state opens: its manifests, the indexes of its segments, and a first block through its map.
    func checkReadable(_ points: [LifeCycle.Point], _ unit: FailoverUnit, _ shared: SharedPoints) throws {
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        for point in points {
            guard let history = shared.history(of: point.disk) else { throw VaultError.notFound("nothing of the disk \(point.disk) is in the vault yet") }
            let reader = try PointReader(sources, disk: point.disk, plan: try history.plan(at: point.sequence))
            let block = AlignedBuffer(count: 512)
            try reader.read(into: block.bytes, at: 0)
        }
    }

    /// Zero loss, or refused: the vault must have exactly what the source had acknowledged when it was shut down.
    private func preparedPoints(_ head: Head) throws(VaultError) -> [LifeCycle.Point] {
        let points = head.lifeCycle?.points ?? []
        guard head.lifeCycle?.state == .prepared, !points.isEmpty else { throw .refused("the source was not prepared: farshore failover prepare UNIT on the active host") }
        for state in head.disks where state.movedTo == nil {
            guard let point = points.first(where: { $0.disk == state.disk }) else {
                throw .refused("the disk \(state.disk) was not prepared with the others: farshore failover prepare UNIT once more on the active host")
            }
            guard state.current?.id == point.lineage, state.newestSequence == point.sequence else {
                throw .refused(
                    "the vault has the disk \(state.disk) up to #\(state.newestSequence), but the source acknowledged writes up to #\(point.sequence) when it was shut down: "
                        + "a planned failover loses nothing, so it is refused; farshore failover prepare UNIT once more, or without --planned")
            }
        }
        return points
    }

    // MARK: Source

    private func stopSource(_ request: FailoverRequest, _ warnings: inout [String]) -> String? {
        guard let command = request.sourceCommand else { return "the source is fenced in the vault" }
        do {
            return "the source was told to stop: " + (try Self.command(command, "source", environment: ["FARSHORE_UNIT": request.unit], seconds: request.commandSeconds))
        } catch {
            warnings.append("the source could not be stopped (\(error)); it is fenced in the vault, but may still be running")
            return warnings.last
        }
    }

    /// From here on nothing of the source is published; what it published until now counts.
    private func claim(_ command: LifeCycleCommand, _ unit: FailoverUnit, _ request: FailoverRequest, _ record: FailoverRecord) throws -> Head {
        guard let run = VaultID(record.run) else { throw FailoverError(.notFound, "the run \(record.run) has no valid id", remedy: "farshore failover cancel \(unit.name)") }
        let catalog = try vault.catalog().document
        return try heads.publish(command, unit, claiming: true) { (head: inout Head, lifeCycle: inout LifeCycle?) throws(VaultError) in
            guard let before = lifeCycle, before.run != run || before.state == .replicating || before.state == .prepared else { return }
            let shared = SharedPoints(vault, head: head, catalog: catalog)
            let points = request.isPlanned ? try preparedPoints(head) : try Self.startingPoints(request.point ?? .latest, of: unit, shared)
            try Self.addPins(record.run, points, reason: "failover of \(unit.name)", to: &head, shared)
            lifeCycle = LifeCycle(
                state: .failingOver, active: before.active, home: before.home, target: heads.host.id, former: before.active, run: run,
                kind: request.isPlanned ? .planned : .unplanned, points: points, timeMicros: 0)
        }
    }

    // MARK: Failover and start

    /// Makes the disks that are missing, says so in the vault, and starts what can be started: a machine that does not start keeps no other from it.
    func finish(
        _ command: LifeCycleCommand, _ unit: FailoverUnit, _ head: Head, _ record: FailoverRecord, _ job: RunningJob, startCommand: String?, seconds: Double,
        _ warnings: [String]
    ) throws -> FailoverReport {
        let shared = SharedPoints(vault, head: head, catalog: try vault.catalog().document)
        var report = FailoverReport(unit: unit.name, run: record.run, state: head.lifeCycle?.state ?? .failingOver, disks: [], warnings: warnings, errors: [:])
        report.isRepeated = head.lifeCycle?.state == .failedOver
        for point in head.lifeCycle?.points ?? [] {
            let chosen = ChosenPoint(disk: try unit.disk(of: point), sequence: point.sequence)
            report.disks.append(FailoverReport.Disk(disk: chosen.disk, point: point, timeMicros: try shared.time(of: chosen)))
        }
        try job.step("failover") {
            do {
                try makeDisks(&report, record)
                try publishFailedOver(command, unit, record, of: head.lifeCycle?.points ?? [])
            } catch {
                throw FencedFailure(cause: error, unit: unit.name, sinceMicros: head.lifeCycle?.timeMicros ?? 0)
            }
            report.state = .failedOver
            return "\(report.disks.count) disks"
        }
        try job.step("start") { try start(&report, startCommand, seconds, record) }
        if !report.isRepeated || !report.errors.isEmpty {
            try catalogue.record(
                report.errors.isEmpty ? .information : .critical, disk: nil, "\(unit.name) was failed over to this host" + (report.errors.isEmpty ? "" : ", but not all of it"))
        }
        return report
    }

    private func publishFailedOver(_ command: LifeCycleCommand, _ unit: FailoverUnit, _ record: FailoverRecord, of points: [LifeCycle.Point]) throws(VaultError) {
        try heads.publish(command, unit, claiming: false) { (head: inout Head, lifeCycle: inout LifeCycle?) throws(VaultError) in
            guard lifeCycle?.run?.description == record.run, lifeCycle?.target == heads.host.id else { throw .refused("\(unit.name): another host took the failover over meanwhile") }
            guard lifeCycle?.points == points else { throw .refused("\(unit.name): another point was chosen meanwhile; farshore failover run \(unit.name) makes its disks") }
            Self.keepPins(record.run, of: points, in: &head)
            lifeCycle?.state = .failedOver
            lifeCycle?.active = heads.host.id
        }
    }

    /// All or none: disks that share points are registered together. Where they are of another point, one of them even, or a kill left only some
    /// of them, all go first: whoever chose the point has given up what was written on them.
    private func makeDisks(_ report: inout FailoverReport, _ record: FailoverRecord) throws {
        let made = try catalogue.disks(ofFailover: record.run)
        let wanted = report.disks.map {
            FailoverRecord.Disk(name: $0.disk.name, id: $0.disk.id.description, lineage: $0.point.lineage.description, sequence: $0.point.sequence)
        }
        let isNoted = made.count == wanted.count && wanted.allSatisfy { disk in made.contains { $0.id == disk.id && $0.sequence == disk.sequence && $0.lineage == disk.lineage } }
        let isPart = if case .part = try disksHere(report.disks.map(\.point)) { true } else { false }
        if !report.isRepeated, !isNoted || isPart { try remove(made, of: record) }
        // Before they are made: whoever takes the failover back finds them, however far the making came.
        try catalogue.note(wanted, ofFailover: record.run)
        for (index, name) in try actions.make(report.disks.map(\.chosen), record).enumerated() { report.disks[index].name = name }
    }

    private func start(_ report: inout FailoverReport, _ given: String?, _ seconds: Double, _ record: FailoverRecord) throws -> String? {
        for index in report.disks.indices {
            guard let name = report.disks[index].name else { continue }
            do { report.disks[index].path = try actions.serve(name) } catch { report.errors[report.disks[index].disk.machineName] = "\(name): \(error)" }
        }
        let unserved = report.disks.contains { $0.path == nil && $0.name != nil }
        if unserved { report.warnings.append("no mount of this site runs: farshore mount DIR serves the recovery disks") }
        let catalog = try vault.catalog().document
        let known = try catalogue.startedMachines(ofFailover: record.run)
        let machines = Set(report.disks.map(\.disk.machineName)).subtracting(known).sorted()
        let commands = machines.compactMap { machine in (given ?? catalog.settings(ofMachine: machine)?.start).map { (machine: machine, command: $0) } }
        guard !commands.isEmpty else { return (unserved ? "not served" : "served") + (known.isEmpty ? "" : "; started before: \(known.sorted().joined(separator: ", "))") }
        guard !unserved else { throw FailoverError(.prerequisite, "nothing is started, for no mount of this site runs", remedy: "farshore mount DIR, then the same command again") }
        for (machine, command) in commands where report.errors[machine] == nil {
            do {
                let environment = try Self.environment(report, machine, catalog, emptyFolder: Self.emptyFolder(record.folder), isTest: false)
                let limit = Self.seconds(catalog.settings(ofMachine: machine), isGiven: given != nil, else: seconds)
                _ = try Self.command(command, "start", environment: environment, seconds: limit)
                // Killed before this it is started once more: a guest that is not started is worse than a command that is said twice.
                try catalogue.noteStarted(machine, ofFailover: record.run)
                report.started.append(machine)
            } catch {
                report.errors[machine] = "\(error)"
            }
        }
        return "\(report.disks.count) disks served"
    }

    private static func incomplete(_ report: FailoverReport) -> FailoverError {
        FailoverError(
            .incomplete, report.errors.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }.joined(separator: "; "),
            remedy: "mend what it says; farshore failover run \(report.unit) starts what is missing, farshore failover cancel \(report.unit) takes it back")
    }

    // MARK: Change of point

    /// Disks that stand on the point already would stay, with all that was written since: what is to be given up would be kept.
    private static func refuseSame(_ points: [LifeCycle.Point], _ name: PointName, _ standing: LifeCycleStanding) throws(FailoverError) {
        let unit = standing.unit.name
        let now = standing.lifeCycle?.points ?? []
        guard standing.state == .failedOver, now.count == points.count, points.allSatisfy({ now.contains($0) }) else { return }
        throw FailoverError(
            .notNow, "\(unit) stands on that point already, at \(standing.pointsText), with what was written since; nothing was changed",
            remedy: "farshore failover run \(unit) starts what is not started yet; to begin again at that point, without what was written since: "
                + "farshore failover cancel \(unit), then farshore failover run \(unit) --at \(name.text)")
    }

    /// What guests wrote since the failover is given up.
    package func changePoint(_ unitName: String, to point: PointName, startCommand: String?, seconds: Double) throws -> FailoverReport {
        let (standing, lock) = try alone(unitName)
        defer { withExtendedLifetime(lock) {} }
        try standing.unit.refusePart()
        try standing.check(.changePoint)
        let unit = standing.unit
        guard let record = try openRecord(.failover, of: unit), record.run == standing.lifeCycle?.run?.description else {
            throw FailoverError(.notFound, "this site knows nothing of the failover of \(unitName)", remedy: "farshore failover run \(unitName) --vault URL on this site first")
        }
        let startedMicros = Clock.wallNanoseconds() / 1_000
        func keep(_ report: FailoverReport, _ failure: (any Error)?) {
            report.recordDrill(
                .changePoint, in: vault, catalogue, by: heads.host, check: standing.catalog.check(ofMachines: unit.machines, start: startCommand, hasChecks: false),
                isGood: failure == nil, note: "to \(point.text)" + (failure.map { ": \($0)" } ?? ""), startedMicros, isNewest: false)
        }
        return try catalogue.asJob(.failover, unitName, steps: ["prerequisites", "source", "failover", "start"]) { job in
            try job.step("prerequisites") {
                let shared = SharedPoints(vault, head: standing.head, catalog: standing.catalog)
                let points = try Self.startingPoints(point, of: unit, shared)
                try Self.refuseSame(points, point, standing)
                try checkReadable(points, unit, shared)
                // Refused while guests use them, before anything is changed.
                try release(try catalogue.disks(ofFailover: record.run))
                // Nothing runs on them any more, whatever becomes of this.
                try catalogue.forgetStarted(ofFailover: record.run)
                return nil
            }
            var head = standing.head
            try job.step("source") {
                head = try heads.publish(.changePoint, unit, claiming: false) { (head: inout Head, lifeCycle: inout LifeCycle?) throws(VaultError) in
                    guard lifeCycle?.run?.description == record.run else { throw .refused("\(unitName): another failover began meanwhile") }
                    let shared = SharedPoints(vault, head: head, catalog: standing.catalog)
                    let points = try Self.startingPoints(point, of: unit, shared)
                    // The disks that are there stand on the old points until they are gone.
                    try Self.addPins(record.run, points, reason: "failover of \(unitName)", to: &head, shared, keepsOld: true)
                    lifeCycle?.points = points
                    // Not to be committed before its disks are made: the old points would be let go under those that run.
                    lifeCycle?.state = .failingOver
                }
                try catalogue.setPoint(point.text, ofFailover: record.run)
                return nil
            }
            let report: FailoverReport
            do { report = try finish(.run, unit, head, record, job, startCommand: startCommand, seconds: seconds, []) } catch {
                keep(FailoverReport(unit: unitName, run: record.run, state: standing.state, disks: [], warnings: [], errors: [:]), error)
                throw error
            }
            let failure = report.errors.isEmpty ? nil : Self.incomplete(report)
            keep(report, failure)
            if let failure { throw failure }
            return report
        }
    }
}
