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
    package let point: PointName
    package let pointText: String
    package let vaultURL: String
    package let keyFile: String?
    package let passphraseFile: String?
    package let startCommand: String?
    package let checkCommand: String?
    package let commandSeconds: Double

    package init(
        unit: String, name: String, point: PointName, pointText: String, vaultURL: String, keyFile: String?, passphraseFile: String?, startCommand: String?,
        checkCommand: String?, commandSeconds: Double
    ) {
        self.unit = unit
        self.name = name
        self.point = point
        self.pointText = pointText
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

    /// What failed is thrown and the test stays as it is, to be looked into, until it is cleaned up.
    package func run(_ request: TestRequest) throws -> FailoverReport {
        guard Catalog.isValidName(request.name) else {
            throw FailoverError(.prerequisite, "\(request.name.debugDescription) is no name for a test", remedy: "1 to 64 of A-Z a-z 0-9 . _ - not starting with . or -")
        }
        let standing = try heads.standing(of: request.unit)
        try standing.check(.test)
        try Failovers.refuseObstacles(standing.unit, standing.catalog, isTest: true)
        let record = FailoverRecord(
            run: VaultID.random().description, kind: .test, name: request.name, unit: request.unit, group: standing.unit.group.description, vaultURL: request.vaultURL,
            vaultID: vault.id.description, keyFile: request.keyFile, passphraseFile: request.passphraseFile, point: request.pointText, isPlanned: false,
            folder: catalogue.site.path + "/tests/" + request.name)
        try catalogue.begin(record)
        let startedMicros = Clock.wallNanoseconds() / 1_000
        return try catalogue.asJob(.testFailover, request.unit, steps: ["pin", "disks", "serve", "start", "check"]) { job in
            var report = FailoverReport(unit: request.unit, run: record.run, state: standing.state, disks: [], warnings: [], errors: [:])
            try job.step("pin") {
                try pin(request, standing, record, &report)
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
            do {
                try job.step("start") { try runCommand(request.startCommand, "start", report, request) }
                try job.step("check") { try runCommand(request.checkCommand, "check", report, request) }
            } catch {
                report.recordDrill(.testFailover, in: vault, catalogue, by: heads.host, check: request.checkCommand, isGood: false, note: "\(error)", startedMicros, isNewest: request.point == .latest)
                throw error
            }
            report.recordDrill(.testFailover, in: vault, catalogue, by: heads.host, check: request.checkCommand, isGood: true, note: request.name, startedMicros, isNewest: request.point == .latest)
            try catalogue.record(.information, disk: nil, "test failover \(request.name) of \(request.unit) is up" + (request.checkCommand == nil ? "" : " and its check passed"))
            return report
        }
    }

    /// While the test lives, retention leaves its states alone.
    private func pin(
        _ request: TestRequest, _ standing: LifeCycleStanding, _ record: FailoverRecord, _ report: inout FailoverReport
    ) throws {
        var points: [LifeCycle.Point] = []
        try heads.publish(.test, standing.unit, claiming: false) { (head: inout Head, _: inout LifeCycle?) throws(VaultError) in
            let shared = SharedPoints(vault, head: head, catalog: standing.catalog)
            points = try Failovers.points(request.point, of: standing.unit, shared)
            try Failovers.addPins(record.run, points, reason: "test failover \(request.name)", to: &head, shared, named: Self.pinName(record))
        }
        let shared = SharedPoints(vault, head: standing.head, catalog: standing.catalog)
        for point in points {
            let chosen = ChosenPoint(disk: try standing.unit.disk(of: point), sequence: point.sequence)
            report.disks.append(FailoverReport.Disk(disk: chosen.disk, point: point, timeMicros: try shared.time(of: chosen)))
        }
    }

    private func runCommand(_ given: String?, _ what: String, _ report: FailoverReport, _ request: TestRequest) throws -> String? {
        let catalog = try vault.catalog().document
        var said: [String] = []
        for machine in Set(report.disks.map(\.disk.machineName)).sorted() {
            let settings = catalog.settings(ofMachine: machine)
            guard let command = given ?? (what == "check" ? settings?.check : settings?.start) else { continue }
            var environment = try Failovers.environment(report, machine, catalog, emptyFolder: "\(catalogue.site.path)/tests/\(request.name)/empty", isTest: true)
            environment["FARSHORE_TEST"] = request.name
            said.append(try Failovers.command(command, what, environment: environment, seconds: Failovers.seconds(settings, isGiven: given != nil, else: request.commandSeconds)))
        }
        guard !said.isEmpty else { return nil }
        return said.joined(separator: "; ")
    }

    /// Repeatable: what is gone already is no error.
    package func cleanUp(_ record: FailoverRecord, notes: String?) throws {
        try catalogue.asJob(.testFailover, record.unit, steps: ["unmount", "unpin", "remove"]) { job in
            try job.step("unmount") {
                try actions.unmount(Self.site(of: record))
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
                try catalogue.end(failover: record.run, note: notes)
                return notes
            }
        }
        try catalogue.record(.information, disk: nil, "test failover \(record.name) of \(record.unit) was cleaned up" + (notes.map { ": \($0)" } ?? ""))
    }
}
