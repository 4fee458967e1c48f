// `farshore drill report`: what was rehearsed, out of the audit chain.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import Vault

struct DrillCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drill", abstract: "What was rehearsed, and what came out.", subcommands: [DrillReportCommand.self])
}

struct DrillReportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report",
        abstract: "Report verifications, test failovers, failovers and failbacks from the audit chain.",
        discussion: """
            Of each: what was recovered, to which state, how far behind its start that was (the recovery point that was proven; only where the newest
            state was asked for), how long it took until it was in use or checked (the recovery time that was measured), the verdict and the notes. The check is `started` where start
            commands succeeded and nothing else looked, `none` where nothing was started either: then the verdict is `unchecked`. A test's end is there with the notes of its cleanup.
            Nothing is reported from a chain that is not whole.

            Example:
              farshore drill report --vault file:///backup/vault --key-file /etc/farshore/vault.key --since 2026-10-01T00:00:00Z --html drills.html
            """)

    struct StateDocument: Encodable {
        let disk: String
        let sequence: UInt64
        let time: String
    }

    struct DrillDocument: Encodable {
        let number: UInt64
        let time: String
        let event: String
        let unit: String
        let actor: String
        let disks: [StateDocument]
        let check: String
        let isGood: Bool
        /// Absent for the end of a test.
        let verdict: String?
        let note: String
        let started: String
        let tookSeconds: Double
        let behindSeconds: Double?
    }

    struct Document: Encodable {
        let vault: String
        let auditRecords: UInt64
        let drills: [DrillDocument]
    }

    @OptionGroup var vault: VaultOptions

    @Option(name: .long, help: ArgumentHelp("Only what was recorded since then.", valueName: "time"))
    var since: String?

    @Option(name: .long, help: "The newest so many.")
    var limit: Int = 1_000

    @Option(name: .long, help: ArgumentHelp("Write the report as a page of HTML, too.", valueName: "file"))
    var html: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    private func sinceMicros() throws -> UInt64 {
        guard let since else { return 0 }
        guard let date = try? Date(since, strategy: .iso8601) else { throw ValidationError("--since takes a time such as 2026-11-21T14:03:07Z") }
        return UInt64(max(date.timeIntervalSince1970, 0) * 1e6)
    }

    func validate() throws {
        _ = try sinceMicros()
        guard limit > 0 else { throw ValidationError("--limit is a number of drills") }
    }

    func run() throws {
        let report = try DrillReport(try vault.open(site), sinceMicros: try sinceMicros(), limit: limit)
        guard report.audit.damage.isEmpty else {
            throw Failure(
                .integrityDamage, "the audit chain is not whole: " + report.audit.damage.map(\.description).joined(separator: "; "),
                try: "ask who could write to the target; a copy of it from before may have the records")
        }
        if let html {
            let made = timeText(nanoseconds: Clock.wallNanoseconds())
            let page = report.html(title: "Drill report", made: made, time: auditTimeText) { durationText(seconds: Double($0) / 1e6) }
            try DurableFile.replace(absolutePath(html), with: Array(page.utf8), mode: 0o644)
        }
        let document = Document(vault: report.vault.description, auditRecords: report.audit.records, drills: report.entries.map(Self.document))
        try output.print(document) { Self.text($0) }
    }

    private static func document(_ entry: DrillReport.Entry) -> DrillDocument {
        let drill = entry.drill
        return DrillDocument(
            number: entry.record.number, time: auditTimeText(entry.record.timeMicros), event: entry.event.rawValue, unit: drill.unit, actor: entry.record.actor,
            disks: drill.disks.map { StateDocument(disk: $0.disk, sequence: $0.sequence, time: auditTimeText($0.timeMicros)) }, check: drill.check,
            isGood: drill.isGood, verdict: entry.verdict?.rawValue, note: drill.note, started: auditTimeText(drill.startedMicros), tookSeconds: Double(drill.tookMicros) / 1e6,
            behindSeconds: drill.behindMicros.map { Double($0) / 1e6 })
    }

    private static func text(_ document: Document) -> String {
        guard !document.drills.isEmpty else { return "no drill is recorded" }
        let rows = document.drills.map { drill in
            [
                drill.time, drill.event, drill.unit, drill.disks.map { "\($0.disk) #\($0.sequence)" }.joined(separator: ","),
                drill.verdict == nil ? "-" : cutText(drill.check, 40), drill.verdict.map { $0 == "bad" ? "BAD" : $0 } ?? "-", drill.behindSeconds.map { durationText(seconds: $0) } ?? "", durationText(seconds: drill.tookSeconds), cutText(drill.note, 160),
            ]
        }
        return tableText([["TIME", "EVENT", "WHAT", "STATES", "CHECK", "VERDICT", "BEHIND", "TOOK", "NOTE"]] + rows)
    }
}
