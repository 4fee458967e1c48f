// Test failovers: throw-away disks over a pinned point while replication goes on, in a site directory of their own with a mount of their
// own, so that nothing of the host's own site is touched. Cleaned up, they leave an event and a job with the notes.

import BlockIO
import Foundation
package import RecoveryPoints
package import Site
import Vault

package struct TestRequest: Sendable {
    package let unit: String
    package let name: String
    /// Nil: nothing was said, so the newest one, or that of the test that goes on.
    package let point: PointName?
    package let vaultURL: String
    package let keyFile: String?
    package let passphraseFile: String?
    package let startCommand: String?
    package let checkCommand: String?
    package let commandSeconds: Double

    package init(
        unit: String, name: String, point: PointName?, vaultURL: String, keyFile: String?, passphraseFile: String?, startCommand: String?,
        checkCommand: String?, commandSeconds: Double
    ) {
        self.unit = unit
        self.name = name
        self.point = point
        self.vaultURL = vaultURL
        self.keyFile = keyFile
        self.passphraseFile = passphraseFile
        self.startCommand = startCommand
        self.checkCommand = checkCommand
        self.commandSeconds = commandSeconds
    }
}

package struct TestActions: Sendable {
    /// Makes throw-away disks of the states in the test's own site; their names there.
    package let make: @Sendable ([ChosenPoint], FailoverRecord, SiteDirectory) throws -> [String]
    /// Starts the mount of the test's site in the background; returns the directory when it serves.
    package let mount: @Sendable (SiteDirectory) throws -> String
    /// Ends it. Nothing where none runs; throws while somebody uses it.
    package let unmount: @Sendable (SiteDirectory) throws -> Void

    package init(
        make: @escaping @Sendable ([ChosenPoint], FailoverRecord, SiteDirectory) throws -> [String],
        mount: @escaping @Sendable (SiteDirectory) throws -> String, unmount: @escaping @Sendable (SiteDirectory) throws -> Void
    ) {
        self.make = make
        self.mount = mount
        self.unmount = unmount
    }
}

package struct TestFailovers: Sendable {
    let heads: LifeCycleHeads
    let catalogue: Catalogue
    let actions: TestActions

    package init(heads: LifeCycleHeads, catalogue: Catalogue, actions: TestActions) {
        self.heads = heads
        self.catalogue = catalogue
        self.actions = actions
    }

    private var vault: Vault { heads.vault }

    package static func site(of record: FailoverRecord) -> SiteDirectory { SiteDirectory(path: record.folder) }

    private static func pinName(_ record: FailoverRecord) -> String { "test-\(record.run.prefix(16))" }

    /// What failed is thrown and the test stays as it is, to be looked into, until it is gone on with by the same name or cleaned up.
    package func run(_ request: TestRequest) throws -> FailoverReport {
        guard Catalog.isValidName(request.name) else {
            throw FailoverError(.prerequisite, "\(request.name.debugDescription) is no name for a test", remedy: "1 to 64 of A-Z a-z 0-9 . _ - not starting with . or -")
        }
        let standing = try heads.standing(of: request.unit)
        try standing.check(.test)
        let lock = try alone(request.name, waitSeconds: request.commandSeconds)
        defer { withExtendedLifetime(lock) {} }
        let record = try ownRecord(standing, request)
        let startedMicros = Clock.wallNanoseconds() / 1_000
        return try catalogue.asJob(.testFailover, request.unit, steps: ["pin", "disks", "serve", "start", "check"]) { job in
            var report = FailoverReport(unit: request.unit, run: record.run, state: standing.state, disks: [], warnings: [], errors: [:])
            func keep(isGood: Bool, _ note: String) throws(SiteError) {
                report.recordDrill(
                    .testFailover, in: vault, catalogue, by: heads.host,
                    check: standing.catalog.check(ofMachines: standing.unit.machines, start: request.startCommand, check: request.checkCommand), isGood: isGood, note: note, startedMicros,
                    isNewest: PointName(record.point) == .latest && !report.disks.isEmpty)
                try catalogue.setVerdict(isGood ? .good : .bad, finding: isGood ? nil : note, ofTest: record.run)
            }
            do { try carryOut(request, standing, record, &report, job) } catch {
                try keep(isGood: false, "\(request.name): \(error)")
                throw try settled(error, request, record)
            }
            try keep(isGood: true, request.name)
            try catalogue.record(.information, disk: nil, "test failover \(request.name) of \(request.unit) is up" + (request.checkCommand == nil ? "" : " and its check passed"))
            return report
        }
    }

    /// One command at a time makes, goes on with or ends a test. One whose plan was killed ends soon.
    private func alone(_ name: String, waitSeconds: Double = 0) throws -> SiteLock {
        let path = catalogue.site.failoverLockPath(group: "test-" + name)
        let deadline = Clock.monotonicNanoseconds() + UInt64(waitSeconds * 1e9)
        var taken = try SiteLock.tryTake(path)
        while taken == nil, Clock.monotonicNanoseconds() < deadline {
            usleep(200_000)
            taken = try SiteLock.tryTake(path)
        }
        guard let lock = taken else {
            throw FailoverError(.inUse, "another command works on the test \(name)", remedy: "wait until it ends (farshore job list), then farshore failover tests")
        }
        return lock
    }

    /// The record of a test that failed or was killed, to go on with it, or a new one.
    private func ownRecord(_ standing: LifeCycleStanding, _ request: TestRequest) throws -> FailoverRecord {
        if let known = try catalogue.openFailovers(.test).first(where: { $0.name == request.name }), known.verdict != .good, known.group == standing.unit.group.description,
            UnitName(known.unit).plain == UnitName(request.unit).plain {
            guard let point = request.point, PointName(known.point) != point else { return known }
            throw FailoverError(
                .notNow, "the test \(request.name) was begun at \(known.point); --at chooses no other point now",
                remedy: "farshore failover test \(request.unit) --name with another name, or farshore failover cleanup \(request.name) first")
        }
        // Of one that goes on, a machine that was started may have the addresses.
        try Failovers.refuseObstacles(standing.unit, standing.catalog, isTest: true)
        let record = FailoverRecord(
            run: VaultID.random().description, kind: .test, name: request.name, unit: request.unit, group: standing.unit.group.description, vaultURL: request.vaultURL,
            vaultID: vault.id.description, keyFile: request.keyFile, passphraseFile: request.passphraseFile, point: (request.point ?? .latest).text, isPlanned: false,
            folder: catalogue.site.path + "/tests/" + request.name)
        try catalogue.begin(record)
        return record
    }

    /// What is thrown of `error`. A test that pinned nothing leaves nothing that could be gone on with.
    private func settled(_ error: any Error, _ request: TestRequest, _ record: FailoverRecord) throws -> any Error {
        switch error {
        case VaultError.notFound, VaultError.refused:
            if try catalogue.disks(ofFailover: record.run).isEmpty { try catalogue.end(failover: record.run, note: "\(error)") }
            return error
        case let failure as FailoverError where failure.code == .commandFailed:
            return FailoverError(
                .commandFailed, failure.message,
                remedy: "look at its disks (farshore failover tests names them); farshore failover test \(request.unit) --name \(request.name) goes on from there, farshore failover cleanup \(request.name) ends it")
        default: return error
        }
    }

    private func carryOut(_ request: TestRequest, _ standing: LifeCycleStanding, _ record: FailoverRecord, _ report: inout FailoverReport, _ job: RunningJob) throws {
        try job.step("pin") {
            let points = try pinned(standing, record)
            let shared = SharedPoints(vault, head: standing.head, catalog: standing.catalog)
            for point in points {
                let chosen = ChosenPoint(disk: try standing.unit.disk(of: point), sequence: point.sequence)
                report.disks.append(FailoverReport.Disk(disk: chosen.disk, point: point, timeMicros: try shared.time(of: chosen)))
            }
            return nil
        }
        let site = Self.site(of: record)
        try job.step("disks") {
            try Directory.create(catalogue.site.path + "/tests", mode: 0o700)
            try site.create()
            for (index, name) in try actions.make(report.disks.map(\.chosen), record, site).enumerated() { report.disks[index].name = name }
            return nil
        }
        try job.step("serve") {
            let directory = try actions.mount(site)
            for index in report.disks.indices { report.disks[index].path = report.disks[index].name.map { "\(directory)/\($0)/disk.raw" } }
            return directory
        }
        let known = try catalogue.startedMachines(ofFailover: record.run)
        try job.step("start") {
            try runCommand(request.startCommand, "start", report, request, leavingOut: known) { machine in try catalogue.noteStarted(machine, ofFailover: record.run) }
        }
        try job.step("check") { try runCommand(request.checkCommand, "check", report, request) }
    }

    /// While the test lives, retention leaves its states alone. One that goes on has those it was begun with.
    private func pinned(_ standing: LifeCycleStanding, _ record: FailoverRecord) throws -> [LifeCycle.Point] {
        let known = try catalogue.disks(ofFailover: record.run).compactMap { disk in
            if let id = VaultID(disk.id), let lineage = VaultID(disk.lineage) { LifeCycle.Point(disk: id, lineage: lineage, sequence: disk.sequence) } else { nil }
        }
        guard known.isEmpty, let name = PointName(record.point) else { return known }
        var points: [LifeCycle.Point] = []
        try heads.publish(.test, standing.unit, claiming: false) { (head: inout Head, _: inout LifeCycle?) throws(VaultError) in
            let shared = SharedPoints(vault, head: head, catalog: standing.catalog)
            points = try Failovers.points(name, of: standing.unit, shared)
            try Failovers.addPins(record.run, points, reason: "test failover \(record.name)", to: &head, shared, named: Self.pinName(record))
        }
        let disks = try points.map { point in
            FailoverRecord.Disk(name: try standing.unit.disk(of: point).name, id: point.disk.description, lineage: point.lineage.description, sequence: point.sequence)
        }
        try catalogue.note(disks, ofFailover: record.run)
        return points
    }

    private func runCommand(
        _ given: String?, _ what: String, _ report: FailoverReport, _ request: TestRequest, leavingOut known: Set<String> = [], done: (String) throws -> Void = { _ in }
    ) throws -> String? {
        let catalog = try vault.catalog().document
        var said: [String] = []
        for machine in Set(report.disks.map(\.disk.machineName)).subtracting(known).sorted() {
            let settings = catalog.settings(ofMachine: machine)
            guard let command = given ?? (what == "check" ? settings?.check : settings?.start) else { continue }
            var environment = try Failovers.environment(report, machine, catalog, emptyFolder: "\(catalogue.site.path)/tests/\(request.name)/empty", isTest: true)
            environment["FARSHORE_TEST"] = request.name
            said.append(try Failovers.command(command, what, environment: environment, seconds: Failovers.seconds(settings, isGiven: given != nil, else: request.commandSeconds)))
            try done(machine)
        }
        guard !said.isEmpty else { return nil }
        return said.joined(separator: "; ")
    }

    /// For `drill report`: what the person had to say.
    private func keepEnd(of record: FailoverRecord, _ notes: String?, _ startedMicros: UInt64) {
        let drill = Drill(
            unit: record.unit, disks: [], check: Drill.noCheck, isGood: true, note: [record.name, notes].compactMap { $0 }.joined(separator: ": "), startedMicros: startedMicros,
            tookMicros: Drill.microsSince(startedMicros), isNewest: false)
        drill.keep(as: .testCleanup, in: vault, catalogue, by: heads.host)
    }

    /// Repeatable: what is gone already is no error.
    package func cleanUp(_ record: FailoverRecord, notes: String?) throws {
        let lock = try alone(record.name)
        defer { withExtendedLifetime(lock) {} }
        let startedMicros = Clock.wallNanoseconds() / 1_000
        try catalogue.asJob(.testFailover, record.unit, steps: ["unmount", "unpin", "remove"]) { job in
            try job.step("unmount") {
                let site = Self.site(of: record)
                try actions.unmount(site)
                // Whatever serves its disks still, wherever it was mounted: their guests would lose them with the folder.
                guard try !SiteLock.isTaken(site.mountLockPath) else {
                    throw FailoverError(
                        .inUse, "a mount of the test \(record.name) still runs, and its guests may use the disks: nothing was removed",
                        remedy: "stop the guests, farshore unmount \(site.path)/mnt --site \(site.path), then farshore failover cleanup \(record.name)")
                }
                return nil
            }
            try job.step("unpin") {
                guard let group = VaultID(record.group) else { return nil }
                try vault.heads(group: group).edit { head throws(VaultError) in
                    let left = (head.pins ?? []).filter { $0.name != Self.pinName(record) }
                    head.pins = left.isEmpty ? nil : left
                }
                return nil
            }
            try job.step("remove") {
                if FileManager.default.fileExists(atPath: record.folder) { try FileManager.default.removeItem(atPath: record.folder) }
                // Said again when all is done it is no other end of the test.
                if try catalogue.openFailovers(.test).contains(where: { $0.run == record.run }) { keepEnd(of: record, notes, startedMicros) }
                try catalogue.end(failover: record.run, note: notes)
                return notes
            }
        }
        try catalogue.record(.information, disk: nil, "test failover \(record.name) of \(record.unit) was cleaned up" + (notes.map { ": \($0)" } ?? ""))
    }
}
