// `farshore audit …`: what was done with the copies, by whom and when, and whether the record of it is whole.

import ArgumentParser
import Vault

struct AuditCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "audit",
        abstract: "The vault's audit chain: what was recovered, tested and changed.",
        subcommands: [AuditList.self, AuditCheckCommand.self])
}

struct AuditList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the audit records of a vault, newest last.",
        discussion: """
            Every record has the hash of the one before and none is ever removed: `farshore audit check` finds what was changed since.

            Example:
              farshore audit list --vault file:///backup/vault --key-file /etc/farshore/vault.key --limit 20
            """)

    struct Document: Encodable {
        let number: UInt64
        let time: String
        let event: String
        let actor: String
        /// JSON, by the event.
        let document: String
    }

    @OptionGroup var vault: VaultOptions

    @Option(name: .long, help: "The newest so many.")
    var limit: Int = 100

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard limit > 0 else { throw ValidationError("--limit is a number of records") }
    }

    func run() throws {
        let records = try vault.open(site).auditRecords(limit: limit).map { record in
            Document(number: record.number, time: auditTimeText(record.timeMicros), event: record.event, actor: record.actor, document: record.document)
        }
        try output.print(records) { records in
            guard !records.isEmpty else { return "the vault has no audit records" }
            return tableText([["RECORD", "TIME", "EVENT", "BY", ""]] + records.map { ["\($0.number)", $0.time, $0.event, $0.actor, $0.document] })
        }
    }
}

struct AuditCheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check that no audit record was changed, exchanged or removed.",
        discussion: """
            Reads every record and compares it with the hash that the one behind it has of it. What was cut off the end is noticed by hosts that saw
            it: each remembers the newest record in its site directory.

            Example:
              farshore audit check --vault file:///backup/vault --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        let records: UInt64
        let damaged: [String]
    }

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let found = try vault.open(site).checkAudit()
        try output.print(Document(records: found.records, damaged: found.damage.map(\.description))) { document in
            document.damaged.isEmpty ? "\(document.records) audit records, each the one that the next names: whole" : "\(document.records) audit records"
        }
        guard !found.damage.isEmpty else { return }
        throw Failure(
            .integrityDamage, "the audit chain is not whole: " + found.damage.map(\.description).joined(separator: "; "),
            try: "ask who could write to the target; a copy of it from before may have the records")
    }
}

func auditTimeText(_ micros: UInt64) -> String { timeText(nanoseconds: micros.multipliedReportingOverflow(by: 1000).partialValue) }
