// `farshore failover test`, `tests` and `cleanup`: throw-away copies of machines beside running replication.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import FuseExport
import RecoveryPoints
import Site

struct FailoverTest: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "test",
        abstract: "Run a machine, group or recovery plan from a point beside its replication, on disks that are thrown away.",
        discussion: """
            Any host can, also for one machine of a group. The disks are served by a mount of their own below SITE/tests/NAME; the point is pinned until
            `failover cleanup NAME`. --start and --check are told what `failover run` tells its start command, and FARSHORE_TEST; when one of them fails the
            test stays, to be looked into, and the same command with --name NAME goes on from there: with the same disks, machines that were started are not started again.
            UNIT may be a recovery plan (plan:NAME, where something else has the name too): a test run of it, as by `plan run --kind test`.

            Example:
              farshore failover test db1 --vault s3://backup/vault --key-file vault.key --check 'fsck.ext4 -fn "$FARSHORE_DISK_1"'
            """)

    @OptionGroup var options: UnitOptions
    @OptionGroup var point: PointOptions

    @Option(name: .long, help: "What the test is called (default: the unit's name and a number).")
    var name: String?

    @Option(name: .long, help: ArgumentHelp("Start the machine when its disks are served.", valueName: "command"))
    var start: String?

    @Option(name: .long, help: ArgumentHelp("Say whether the test is good, by its exit status.", valueName: "command"))
    var check: String?

    @OptionGroup var times: CommandTimeOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let unit = UnitName(options.unit).plain
        let taken = Set(try options.site.catalogue().openFailovers(.test).map(\.name))
        let free = (1...10_000).lazy.map { "\(unit)-\($0)" }.first { !taken.contains($0) } ?? unit
        let opened = try options.opened(remembering: name == nil ? ["--name", free] : [], test: name)
        if let plan = try NamedPlan(opened, output, others: ["--at": point.at, "--name": name, "--start": start, "--check": check]) { return try plan.begin(.test) }
        let name = name ?? free
        try opened.announce(point: try point.point ?? .latest, isTest: true)
        let report = try opened.tests.run(TestRequest(
            unit: options.unit, name: name, point: try point.point, vaultURL: opened.place.url, keyFile: opened.place.keyFile,
            passphraseFile: opened.place.passphraseFile, startCommand: start, checkCommand: check, commandSeconds: Double(times.commandSeconds)))
        try output.print(Document(name: name, test: FailoverDocument(report))) { "test \($0.name) of " + $0.test.text }
    }

    struct Document: Encodable {
        let name: String
        let test: FailoverDocument
    }
}

struct FailoverTests: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tests",
        abstract: "List the test failovers that were not cleaned up.",
        discussion: "One that is older than 7 days is an event, and `status` shows it: it pins a point.\n\nExample:\n  farshore failover tests")

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct TestDocument: Encodable {
        let name: String
        let unit: String
        let point: String
        let since: String
        let directory: String
        let isServed: Bool
        let isForgotten: Bool
        /// Absent while it is being made, or where it was killed in that.
        let verdict: String?
        let finding: String?
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let forgotten = Set(try catalogue.forgottenTests().map(\.run))
        let documents = try catalogue.openFailovers(.test).map { test in
            let directory = test.folder + "/mnt"
            return TestDocument(
                name: test.name, unit: test.unit, point: test.point, since: timeText(nanoseconds: test.createdNanoseconds), directory: directory,
                isServed: try mounted(at: directory) != nil, isForgotten: forgotten.contains(test.run),
                verdict: test.verdict?.rawValue, finding: test.finding)
        }
        try output.print(documents) { documents in
            documents.isEmpty ? "no tests" : tableText([["TEST", "UNIT", "POINT", "SINCE", "VERDICT", "DISKS", "FOUND"]] + documents.map {
                [
                    $0.name, $0.unit, $0.point, $0.since + ($0.isForgotten ? " (forgotten?)" : ""), $0.verdict ?? "not complete", $0.isServed ? $0.directory : "not served",
                    $0.finding ?? "",
                ]
            })
        }
    }
}

struct FailoverCleanup: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cleanup",
        abstract: "End a test failover: its mount, disks and pin go.",
        discussion: "Refused while somebody uses its disks: stop the guests first. The notes stay in an event and in a job, and in the vault for `drill report`.\n\nExample:\n  farshore failover cleanup db1-1 --notes \"came up in 40 s\"")

    @Argument(help: "The test.")
    var name: String

    @Option(name: .long, help: "What is to be remembered of it.")
    var notes: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let name: String
        let unit: String
        let notes: String?
    }

    func run() throws {
        let catalogue = try site.catalogue()
        guard let record = try catalogue.openFailovers(.test).first(where: { $0.name == name }) else {
            throw Failure(.notFound, "there is no test failover named \(name) on this site", try: "farshore failover tests")
        }
        let opened = try OpenedUnit(record.unit, UnitVaultOptions.Place(record), site)
        try opened.tests.cleanUp(record, notes: notes)
        try output.print(Document(name: name, unit: record.unit, notes: notes)) { "test \($0.name) of \($0.unit) is cleaned up" }
    }
}
