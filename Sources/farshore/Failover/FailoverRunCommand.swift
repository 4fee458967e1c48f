// `farshore failover run` and `change-point`, on the host that takes over.

import ArgumentParser
import Failover
import RecoveryPoints
import Site
import Vault

/// What a failover, a change of point and a test tell.
struct FailoverDocument: Encodable {
    let unit: String
    let run: String
    let state: String
    let disks: [RecoveryDisk]
    let warnings: [String]
    /// It was failed over before; nothing was chosen or made by this command.
    let isRepeated: Bool
    /// Machines that this very command started.
    let started: [String]

    struct RecoveryDisk: Encodable {
        let disk: String
        let machine: String
        let sequence: UInt64
        /// Of the newest cut point at or before it.
        let time: String?
        /// Absent while no mount serves it.
        let path: String?
    }

    init(_ report: FailoverReport) {
        unit = report.unit
        run = report.run
        state = report.state.rawValue
        warnings = report.warnings
        isRepeated = report.isRepeated
        started = report.started
        disks = report.disks.map {
            RecoveryDisk(disk: $0.name ?? $0.disk.name, machine: $0.disk.machineName, sequence: $0.point.sequence, time: pointTime(micros: $0.timeMicros), path: $0.path)
        }
    }

    var text: String {
        let rows = disks.map { [$0.disk, "#\($0.sequence)", $0.time ?? "-", $0.path ?? "not served"] }
        let before = isRepeated ? " already; farshore failover change-point \(unit) --at POINT chooses another point" : ""
        let starting = isRepeated && !started.isEmpty ? "\nstarted now: \(started.joined(separator: ", "))" : ""
        return "\(unit): \(state)\(before)\n" + tableText(rows) + starting + warnings.map { "\nwarning: \($0)" }.joined()
    }
}

struct PointOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("The point: \(PointName.choices). Default: latest.", valueName: "point"))
    var at: String?

    func validate() throws { _ = try point }

    /// Nil where none was named.
    var point: PointName? {
        get throws {
            guard let at else { return nil }
            guard let name = PointName(at) else { throw ValidationError("\(at.debugDescription) is no point: use \(PointName.choices)") }
            return name
        }
    }
}

/// What planned and unplanned failovers are told alike.
struct FailoverRunOptions: ParsableArguments {
    @OptionGroup var unit: UnitOptions

    @Option(name: .long, help: ArgumentHelp("Where the recovery disks lie (default: SITE/recovery/UNIT).", valueName: "dir"))
    var folder: String?

    @Option(name: .long, help: ArgumentHelp("Start the machine when its disks are served.", valueName: "command"))
    var start: String?

    @Option(name: .long, help: ArgumentHelp("Refuse unless guests write on the first host and this is the second, by the names that `failover show` prints, or ids.", valueName: "from:to"))
    var direction: String?

    @OptionGroup var times: CommandTimeOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard direction.map({ $0.split(separator: ":", omittingEmptySubsequences: false).count == 2 }) ?? true else { throw ValidationError("--direction is FROM:TO, two hosts") }
    }

    func run(_ opened: OpenedUnit, isPlanned: Bool, point: PointName?, sourceCommand: String?) throws {
        try opened.announce(point: isPlanned ? nil : point ?? .latest, direction: direction)
        let report = try opened.failovers.run(FailoverRequest(
            unit: unit.unit, point: point, isPlanned: isPlanned, vaultURL: opened.place.url, keyFile: opened.place.keyFile,
            passphraseFile: opened.place.passphraseFile, folder: folder.map(absolutePath), sourceCommand: sourceCommand, startCommand: start, commandSeconds: Double(times.commandSeconds)))
        try output.print(FailoverDocument(report), text: \.text)
    }

    /// The plan that was named, of which a run decides all else.
    func plan(_ opened: OpenedUnit, _ others: [String: String?] = [:]) throws -> NamedPlan? {
        try NamedPlan(opened, output, others: others.merging(["--folder": folder, "--start": start, "--direction": direction]) { first, _ in first })
    }
}

struct FailoverPlanned: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "planned",
        abstract: "Fail a machine, group or recovery plan over that `failover prepare` has shut down, and lose nothing.",
        discussion: """
            The same as `failover run --planned`. UNIT may be a recovery plan (plan:NAME, where something else has the name too): a planned run of it, as by `plan run --kind planned`.

            Example:
              farshore failover planned db1 --vault s3://backup/vault --key-file vault.key --start ./start-db1
            """)

    @OptionGroup var options: FailoverRunOptions

    func run() throws {
        let opened = try options.unit.opened()
        if let plan = try options.plan(opened) { return try plan.begin(.planned) }
        try options.run(opened, isPlanned: true, point: nil, sourceCommand: nil)
    }
}

struct FailoverUnplanned: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unplanned",
        abstract: "Fail a machine, group or recovery plan over to this host, whatever became of the source.",
        discussion: """
            The same as `failover run`. UNIT may be a recovery plan (plan:NAME, where something else has the name too): an unplanned run of it, as by `plan run --kind unplanned`.

            Example:
              farshore failover unplanned shop --vault s3://backup/vault --key-file vault.key
            """)

    @OptionGroup var options: FailoverRunOptions
    @OptionGroup var point: PointOptions

    @Option(name: .long, help: ArgumentHelp("Tell the source to stop, as far as it can be reached.", valueName: "command"))
    var sourceCommand: String?

    func run() throws {
        let opened = try options.unit.opened()
        if let plan = try options.plan(opened, ["--at": point.at, "--source-command": sourceCommand]) { return try plan.begin(.unplanned) }
        try options.run(opened, isPlanned: false, point: point.point, sourceCommand: sourceCommand)
    }
}

struct FailoverRunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Fail a machine or group over to this host.",
        discussion: """
            Unplanned: the source is fenced, so that nothing it still sends counts, and guests go on here from the point chosen. With --source-command
            it is told to stop first; where that fails the failover goes on. --planned is for a source that `failover prepare` has shut down: every write
            it acknowledged is here, or the command is refused. The recovery disks are served by this site's mount at once and filled from the vault
            meanwhile. Killed, the command goes on when it is run again; `failover cancel` takes it back. Of a unit that is failed over already it starts the
            machines that no run has started yet, and nothing else. Which way it goes, and the time of each point, is printed before it begins.

            --start is run for each machine, told FARSHORE_UNIT, FARSHORE_MACHINE, FARSHORE_DISKS (how many) and FARSHORE_DISK_1 … (their paths, in the order of names).

            Example:
              farshore failover run db1 --vault s3://backup/vault --key-file vault.key --start ./start-db1
            """)

    @OptionGroup var options: FailoverRunOptions
    @OptionGroup var point: PointOptions

    @Flag(name: .long, help: "The source was shut down by `failover prepare`: lose nothing, or refuse.")
    var planned = false

    @Option(name: .long, help: ArgumentHelp("Tell the source to stop, as far as it can be reached.", valueName: "command"))
    var sourceCommand: String?

    func validate() throws {
        guard try !planned || point.point ?? .latest == .latest else { throw ValidationError("a planned failover loses nothing: it has no --at") }
    }

    func run() throws { try options.run(options.unit.opened(), isPlanned: planned, point: point.point, sourceCommand: sourceCommand) }
}

struct FailoverChangePoint: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "change-point",
        abstract: "Begin again with another point, as long as the failover is not committed.",
        discussion: """
            What was written on the recovery disks since the failover is given up. Refused while somebody uses them: stop the guests first.

            Example:
              farshore failover change-point db1 --at latest-app-consistent
            """)

    @OptionGroup var options: UnitOptions
    @OptionGroup var point: PointOptions

    @Option(name: .long, help: ArgumentHelp("Start the machine when its disks are served.", valueName: "command"))
    var start: String?

    @OptionGroup var times: CommandTimeOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let report = try options.opened().failovers.changePoint(options.unit, to: try point.point ?? .latest, startCommand: start, seconds: Double(times.commandSeconds))
        try output.print(FailoverDocument(report), text: \.text)
    }
}
