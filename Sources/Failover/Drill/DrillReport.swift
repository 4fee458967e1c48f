// What was rehearsed, for the person who has to show it: drills out of the audit chain, as values and as one HTML page.

import Foundation
package import Vault

package struct DrillReport: Sendable {
    package struct Entry: Sendable {
        package let record: AuditRecord
        package let event: Drill.Event
        package let drill: Drill

        /// Nil for the end of a test, which is no drill.
        package var verdict: Drill.Verdict? { event == .testCleanup ? nil : drill.verdict }
    }

    package let vault: VaultID
    /// Oldest first.
    package let entries: [Entry]
    /// Of the whole chain.
    package let audit: AuditCheck

    package init(_ vault: Vault, sinceMicros: UInt64, limit: Int) throws(VaultError) {
        self.vault = vault.id
        audit = try vault.checkAudit()
        var entries: [Entry] = []
        guard audit.damage.isEmpty else {
            self.entries = []
            return
        }
        for record in try vault.auditRecords(limit: limit, where: { Drill.Event(rawValue: $0.event) != nil && $0.timeMicros >= sinceMicros }) {
            guard let event = Drill.Event(rawValue: record.event) else { continue }
            entries.append(Entry(record: record, event: event, drill: try record.decode(Drill.self)))
        }
        self.entries = entries
    }

    /// One page without anything from elsewhere, to be printed or sent.
    package func html(title: String, made: String, time: (UInt64) -> String, span: (UInt64) -> String) -> String {
        let rows = entries.reversed().map { entry in
            let drill = entry.drill
            let states = drill.disks.map { "\($0.disk) #\($0.sequence), \(time($0.timeMicros))" }.joined(separator: "; ")
            let cells = [
                "\(entry.record.number)", time(entry.record.timeMicros), entry.event.rawValue, drill.unit, states, entry.verdict == nil ? "–" : drill.check, entry.verdict?.rawValue ?? "–",
                drill.behindMicros.map(span) ?? "–", span(drill.tookMicros), entry.record.actor, drill.note,
            ]
            return "<tr class=\"\(drill.verdict.rawValue)\">" + cells.map { "<td>\(Self.escaped($0))</td>" }.joined() + "</tr>"
        }
        let verdicts = entries.compactMap(\.verdict)
        let heads = ["record", "recorded", "event", "what", "states recovered", "check", "verdict", "behind (RPO)", "took (RTO)", "by", "note"]
        let chain = audit.damage.isEmpty
            ? "The chain of \(audit.records) audit records is whole: each has the hash of the one before."
            : "THE AUDIT CHAIN IS NOT WHOLE: " + audit.damage.map(\.description).joined(separator: "; ")
        return """
            <!DOCTYPE html>
            <html lang="en"><head><meta charset="utf-8"><title>\(Self.escaped(title))</title>
            <style>body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}td,th{border:1px solid #999;padding:4px 8px;text-align:left;vertical-align:top}
            tr.bad td{background:#fdd}td:last-child{white-space:pre-wrap}</style></head><body>
            <h1>\(Self.escaped(title))</h1>
            <p>Vault \(vault), made \(Self.escaped(made)). \(verdicts.count) drills, \(verdicts.count { $0 == .good }) of them good, \(verdicts.count { $0 == .unchecked }) unchecked (nothing was started or looked at what was recovered). \(Self.escaped(chain))</p>
            <table><tr>\(heads.map { "<th>\($0)</th>" }.joined())</tr>
            \(rows.joined(separator: "\n"))
            </table></body></html>

            """
    }

    /// Names and notes come from whoever wrote the vault.
    static func escaped(_ text: String) -> String {
        text.replacingOccurrences(of: "&", with: "&amp;").replacingOccurrences(of: "<", with: "&lt;").replacingOccurrences(of: ">", with: "&gt;")
            .replacingOccurrences(of: "\"", with: "&quot;")
    }
}
