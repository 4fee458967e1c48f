// Drills go into the audit chain and come out as a report; names and notes cannot break the page.

import Failover
import Testing
import Vault
import VaultFixtures

@Suite struct DrillTests {
    /// That nothing failed where nothing was asked to is no good verdict; what a person had to say of a test is there.
    @Test func whatNobodyLookedAtIsNotGood() throws {
        let test = try TestVault()
        func drill(_ check: String, isGood: Bool = true) -> Drill { Drill(unit: "shop", disks: [], check: check, isGood: isGood, note: "", startedMicros: 1, tookMicros: 2, isNewest: false) }
        try test.vault.record(drill(Drill.noCheck), as: .failover, actor: "host")
        try test.vault.record(drill(Drill.noCheck, isGood: false), as: .failback, actor: "host")
        try test.vault.record(drill(Drill.startCheck), as: .changePoint, actor: "host")
        try test.vault.record(drill(Drill.noCheck), as: .testCleanup, actor: "host")
        let report = try DrillReport(test.vault, sinceMicros: 0, limit: 10)
        #expect(report.entries.map(\.verdict) == [.unchecked, .bad, .good, nil] && report.entries.map(\.record.event) == ["failover", "failback", "change-point", "test-cleanup"])
        let page = report.html(title: "", made: "", time: { "\($0)" }, span: { "\($0)" })
        #expect(page.contains("3 drills, 1 of them good, 1 unchecked") && page.contains("<td>none</td><td>unchecked</td>") && page.contains("<td>–</td><td>–</td>"))
    }

    @Test func aReportTellsWhatWasRecorded() throws {
        let test = try TestVault()
        let states = [Drill.Recovered(disk: "db1", sequence: 7, timeMicros: 5_000_000), Drill.Recovered(disk: "db2", sequence: 7, timeMicros: 4_000_000)]
        let first = Drill(
            unit: "shop", disks: states, check: "boot", isGood: true, note: "<script>alert(1)</script> & \"more\"", startedMicros: 9_000_000, tookMicros: 1_500_000, isNewest: true)
        try test.vault.record(first, as: .testFailover, actor: "root@<b>host</b>")
        try test.vault.audit(event: "commit", actor: "somebody", document: ["unit": "shop"])
        try test.vault.record(
            Drill(unit: "db1", disks: [states[0]], check: "fsck", isGood: false, note: "", startedMicros: 1, tookMicros: 2, isNewest: false), as: .verification, actor: "timer")
        let report = try DrillReport(test.vault, sinceMicros: 0, limit: 10)
        #expect(report.entries.map(\.event) == [.testFailover, .verification])
        #expect(report.entries[0].drill == first && first.behindMicros == 5_000_000)
        #expect(report.entries[0].verdict == .good && report.entries[1].verdict == .bad)
        #expect(report.entries[1].drill.behindMicros == nil && !report.entries[1].drill.isGood)
        #expect(report.audit == AuditCheck(records: 3, damage: []))
        #expect(try DrillReport(test.vault, sinceMicros: 0, limit: 1).entries.map(\.event) == [.verification])
        #expect(try DrillReport(test.vault, sinceMicros: .max, limit: 10).entries.isEmpty)

        let page = report.html(title: "Drills", made: "now", time: { "t\($0)" }, span: { "\($0) µs" })
        #expect(!page.contains("<script>") && !page.contains("<b>host") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;more&quot;"))
        #expect(page.contains("db1 #7, t5000000; db2 #7, t4000000") && page.contains("<td>5000000 µs</td><td>1500000 µs</td>"))
        #expect(page.contains("The chain of 3 audit records is whole"))

        try test.flipBit(ObjectPlace.audit(2).key, at: 900)
        let broken = try DrillReport(test.vault, sinceMicros: 0, limit: 10)
        #expect(broken.entries.isEmpty && broken.audit.damage.count == 1)
        #expect(broken.html(title: "", made: "", time: { "\($0)" }, span: { "\($0)" }).contains("THE AUDIT CHAIN IS NOT WHOLE"))
    }
}
