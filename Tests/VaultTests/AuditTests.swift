// The audit chain: records of several hosts in one order, by targets with and without conditional PUT; what is changed or taken out is found.

import BlockIO
import Foundation
import Testing
import Vault
import VaultFixtures

@Suite struct AuditTests {
    private struct Note: Codable, Equatable {
        let text: String
    }

    @Test(arguments: [true, false]) func recordsOfTwoHostsStandInOneOrder(conditional: Bool) throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        meddled.meddle { $0.conditionalPut = conditional }
        let other = try test.reopened()
        for number in 1...5 {
            try test.vault.audit(event: "test-failover", actor: "a", document: Note(text: "\(number)"))
            try other.audit(event: "verification", actor: "b", document: Note(text: "\"\(number)\" <é>"))
        }
        let records = try test.reopened().auditRecords()
        #expect(records.map(\.number) == Array(1...10))
        #expect(records.map(\.actor) == Array(repeating: ["a", "b"], count: 5).flatMap { $0 })
        #expect(try records[9].decode(Note.self) == Note(text: "\"5\" <é>"))
        #expect(try test.vault.auditRecords(limit: 2, where: { $0.actor == "a" }).map(\.number) == [7, 9])
        #expect(try test.vault.checkAudit() == AuditCheck(records: 10, damage: []))
    }

    @Test func threadsThatRecordAtTheSameTimeLoseNothing() throws {
        let test = try TestVault()
        let vault = test.vault
        forEachInParallel(Array(0..<24), threads: 4) { number in
            do { try vault.audit(event: "event", actor: "\(number)", document: Note(text: "")) } catch { Issue.record("\(error)") }
        }
        #expect(Set(try test.vault.auditRecords().map(\.actor)) == Set((0..<24).map { "\($0)" }))
        #expect(try test.vault.checkAudit() == AuditCheck(records: 24, damage: []))
    }

    @Test func whatWasChangedExchangedOrTakenOutIsFound() throws {
        let test = try TestVault()
        for number in 1...6 { try test.vault.audit(event: "event", actor: "\(number)", document: Note(text: "")) }
        let place = ObjectPlace.audit(3).key
        let sound = try Data(contentsOf: URL(filePath: test.file(place)))
        try test.flipBit(place, at: sound.count * 8 - 3)
        #expect(try damaged(test) == [place])
        try FileManager.default.removeItem(atPath: test.file(place))
        #expect(try damaged(test) == [place])
        #expect(throws: VaultError.self) { try test.vault.auditRecords() }
        // Whoever has the key can seal a record of his own, but not one that the next names.
        let forged = try TestVault()
        for number in 1...3 { try forged.vault.audit(event: "event", actor: "forged \(number)", document: Note(text: "")) }
        try sound.write(to: URL(filePath: test.file(place)))
        #expect(try damaged(test) == [])
        try Data(contentsOf: URL(filePath: forged.file(place))).write(to: URL(filePath: test.file(place)))
        #expect(try damaged(test) == [place])
    }

    /// A host that saw the newest record notices that it is gone.
    @Test func whatWasCutOffIsNoticed() throws {
        let test = try TestVault()
        for number in 1...3 { try test.vault.audit(event: "event", actor: "\(number)", document: Note(text: "")) }
        try FileManager.default.removeItem(atPath: test.file(ObjectPlace.audit(3).key))
        #expect {
            try test.vault.checkAudit()
        } throws: { error in
            if case VaultError.rolledBack = error { true } else { false }
        }
    }

    @Test func whatDoesNotFitIsRefused() throws {
        let test = try TestVault()
        #expect(throws: VaultError.self) { try test.vault.audit(event: "two words", actor: "a", document: Note(text: "")) }
        #expect(throws: VaultError.self) { try test.vault.audit(event: "event", actor: "a", document: Note(text: String(repeating: "x", count: 70_000))) }
        #expect(try test.vault.checkAudit() == AuditCheck(records: 0, damage: []))
        let long = try test.vault.audit(event: "event", actor: String(repeating: "é", count: 200), document: Note(text: ""))
        #expect(long.actor.utf8.count <= FormatLimits.auditActorBytesMax && long.actor.allSatisfy { $0 == "é" })
    }

    private func damaged(_ test: TestVault) throws -> [String] {
        try test.vault.checkAudit().damage.map { error in
            switch error {
            case .damaged(let object, _), .missing(let object): object
            default: "\(error)"
            }
        }
    }

    @Test func verdictsReplaceEachOtherAndTheOldestGo() throws {
        let test = try TestVault()
        let disk = try ModelDisk(test.vault, sizeBytes: 1 << 20, seed: 1)
        try disk.replicateInitially()
        for _ in 0..<3 { try disk.step(records: 4) }
        func verdict(_ sequence: UInt64, _ check: String, _ isGood: Bool, _ time: UInt64) -> Head.Verdict {
            Head.Verdict(disk: disk.id, sequence: sequence, check: check, isGood: isGood, note: "", timeMicros: time)
        }
        let points = disk.points.map(\.sequence)
        try test.vault.publish([verdict(points[1], "fsck", true, 1), verdict(points[2], "fsck", true, 2), verdict(points[2], "boot", false, 3)], group: disk.id)
        func shared() throws -> SharedPoints { try SharedPoints(test.vault, of: try test.vault.disk("disk")) }
        #expect(try shared().newestVerified(on: [disk.id]) == points[1])
        try test.vault.publish([verdict(points[2], "boot", true, 4)], group: disk.id)
        #expect(try shared().newestVerified(on: [disk.id]) == points[2])
        #expect(try shared().verdicts(on: disk.id, at: points[2]).map(\.check) == ["boot", "fsck"])
        // The uploader goes on as if nothing had been.
        try disk.step(records: 4)
        #expect(try shared().newestVerified(on: [disk.id]) == points[2])
        try test.vault.publish((0..<1_100).map { verdict(UInt64($0) + 1, "many", true, UInt64($0) + 10) }, group: disk.id)
        #expect(try shared().verdicts.count == FormatLimits.verdictsMax)
        #expect(try shared().verdicts(on: disk.id, at: points[2]).filter { $0.check == "fsck" }.isEmpty)
    }
}
