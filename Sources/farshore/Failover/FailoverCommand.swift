// `farshore failover …`: guests run on another host. The table of docs/operating/failover.md says which command may run where.

import ArgumentParser
import Failover
import Site
import Vault

struct FailoverCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "failover",
        abstract: "Run machines on another host, for a test or in earnest.",
        subcommands: [
            FailoverShow.self, FailoverPrepare.self, FailoverRunCommand.self, FailoverPlanned.self, FailoverUnplanned.self, FailoverChangePoint.self, FailoverCommit.self, FailoverCancel.self,
            FailoverRelease.self, FailoverTest.self, FailoverTests.self, FailoverCleanup.self,
        ])
}

/// How long commands of the administrator may take.
struct CommandTimeOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("How long each command may take, in seconds; those of a machine's settings as its settings say.", valueName: "seconds"))
    var commandSeconds = MachineSettings.commandSecondsDefault

    func validate() throws {
        guard MachineSettings.commandSecondsRange.contains(commandSeconds) else { throw ValidationError("--command-seconds must be between 1 and 86400") }
    }
}

/// A unit as it stands now; the answer of most commands.
struct StandingDocument: Encodable {
    let unit: String
    let state: String
    /// What this host is to it.
    let place: String
    let active: String?
    let home: String?
    let target: String?
    let former: String?
    let kind: String?
    let run: String?
    let since: String?
    let points: [Point]
    let disks: [String]
    /// Cut points from before the failover, which a commit lets go of that keeps none.
    var pointsBefore: Int?
    /// By this commit.
    var pointsLetGo: Int?
    /// By which the disks are replicated from this host.
    var policies: [Assigned]?

    struct Assigned: Encodable {
        let disk: String
        let policy: String
    }

    struct Point: Encodable {
        let disk: String
        let sequence: UInt64
    }

    init(_ standing: LifeCycleStanding) {
        let lifeCycle = standing.lifeCycle
        unit = standing.unit.name
        state = standing.state.rawValue
        place = standing.place.rawValue
        active = standing.name(of: lifeCycle?.active ?? standing.head.writer.id ?? LifeCycle.unknownHost)
        home = lifeCycle.map { standing.name(of: $0.home) }
        target = lifeCycle?.target.map(standing.name)
        former = lifeCycle?.former.map(standing.name)
        kind = lifeCycle?.kind?.rawValue
        run = lifeCycle?.run?.description
        since = lifeCycle.map { timeText(nanoseconds: $0.timeMicros.multipliedReportingOverflow(by: 1000).partialValue) }
        points = (lifeCycle?.points ?? []).map { point in Point(disk: standing.unit.disks.first { $0.id == point.disk }?.name ?? point.disk.description, sequence: point.sequence) }
        disks = standing.unit.disks.map(\.name)
    }

    var text: String {
        var lines = ["\(unit): \(state)" + (since.map { " since \($0)" } ?? "") + "; this host is \(place)"]
        if let active { lines.append("guests write on: \(active)") }
        if let home, home != active { lines.append("home: \(home)") }
        if let target, target != active { lines.append("failover to: \(target)") }
        if let former { lines.append("before the failover: \(former)") }
        if let pointsBefore { lines.append("points from before the failover that a commit without --keep-points lets go: \(pointsBefore)") }
        if !points.isEmpty { lines.append("begun with: " + points.map { "\($0.disk) #\($0.sequence)" }.joined(separator: ", ")) }
        return lines.joined(separator: "\n")
    }
}

struct FailoverShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show where a machine or group stands, which points it can be failed over to, and what each command would do here.",
        discussion: "Example:\n  farshore failover show db1 --vault s3://backup/vault --key-file vault.key")

    @OptionGroup var options: UnitOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let standing: StandingDocument
        let choices: [Choice]
        let commands: [Command]
    }

    struct Choice: Encodable {
        let point: String
        let disks: [DiskChoice]
        let obstacle: String?
    }

    struct DiskChoice: Encodable {
        let disk: String
        let sequence: UInt64
        /// Of the newest cut point at or before it.
        let time: String?
    }

    struct Command: Encodable {
        let command: String
        let next: String?
        let refusal: String?
        let remedy: String?
    }

    func run() throws {
        let opened = try options.opened()
        let standing = try opened.heads.standing(of: options.unit)
        let choices = try PointChoices.all(of: standing.unit, standing.head, standing.catalog, in: opened.heads.vault).map { choice in
            Choice(
                point: choice.name,
                disks: zip(choice.points, choice.timesMicros).map { DiskChoice(disk: $0.disk.name, sequence: $0.sequence, time: pointTime(micros: $1)) }, obstacle: choice.obstacle)
        }
        let commands = LifeCycleCommand.allCases.map { command in
            switch standing.decision(command) {
            case .next(let state): Command(command: command.rawValue, next: state.rawValue, refusal: nil, remedy: nil)
            case .refused(let refusal): Command(command: command.rawValue, next: nil, refusal: refusal.reason, remedy: refusal.remedy(options.unit))
            }
        }
        var shown = StandingDocument(standing)
        if standing.state == .failedOver { shown.pointsBefore = try opened.failovers.pointsBefore(standing).count }
        let document = Document(standing: shown, choices: choices, commands: commands)
        try output.print(document) { document in
            let points = document.choices.map { choice in
                [choice.point, choice.obstacle ?? choice.disks.map { "\($0.disk) #\($0.sequence) \($0.time ?? "before the first point")" }.joined(separator: ", ")]
            }
            let next = document.commands.map { ["farshore " + $0.command, $0.next.map { "-> " + $0 } ?? "no: " + ($0.refusal ?? "")] }
            return document.standing.text + "\n\nPOINTS\n" + tableText(points) + "\n\nCOMMANDS ON THIS HOST\n" + tableText(next)
        }
    }
}

func pointTime(micros: UInt64?) -> String? { micros.map { pointTimeText(nanoseconds: $0.multipliedReportingOverflow(by: 1000).partialValue) } }
