// The alarm on data that is overwritten by data that looks encrypted: what it takes for that, when it is raised and over, and
// the pin that it leaves.

import BlockIO
import ChangeLog
import Foundation
import Replication
import Site
import Testing
import Vault

@Suite struct AnomalyTests {
    private static let mib: UInt64 = 1 << 20

    private func random(_ count: Int, _ seed: UInt64 = 1) -> [UInt8] {
        var numbers = SeededRandom(seed)
        return (0..<count).map { _ in UInt8.random(in: 0...255, using: &numbers) }
    }

    private func text(_ count: Int) -> [UInt8] { Array(String(repeating: "The quick brown fox jumps over the lazy dog 0123456789. ", count: count / 50 + 1).utf8.prefix(count)) }

    @Test func randomDataIsToldFromOrdinaryData() {
        func kind(_ bytes: [UInt8]) -> ContentMap.Kind { bytes.withUnsafeBytes { ContentMap.kind(of: $0) } }
        for seed in 1...200 as ClosedRange<UInt64> { #expect(kind(random(4_096 << (seed % 3), seed)) == .random, "seed \(seed)") }
        #expect(kind(text(16_384)) == .ordinary && kind(Array(Data(random(12_000)).base64EncodedString().utf8)) == .ordinary)
        #expect(kind([UInt8](repeating: 0, count: 16_384)) == .empty && kind([UInt8](repeating: 7, count: 16_384)) == .ordinary)
        // Every other half encrypted, as some do it.
        #expect(kind((0..<8).flatMap { $0 % 2 == 0 ? text(2_048) : random(2_048, UInt64($0)) }) == .ordinary)
    }

    @Test func onlyOrdinaryDataThatIsOverwrittenCounts() throws {
        let map = ContentMap(diskBytes: 64 * Self.mib, kind: .empty)
        func write(_ bytes: [UInt8], _ offset: UInt64) -> UInt64 { bytes.withUnsafeBytes { map.write($0, at: offset).convertedBytes } }
        #expect(write(random(65_536), 0) == 0, "nothing was there")
        #expect(write(random(65_536, 2), 0) == 0, "random before")
        #expect(write(text(65_536), 1 << 20) == 0)
        #expect(write(random(65_536), 1 << 20) == 65_536)
        #expect(write(random(65_536, 3), 1 << 20) == 0, "counted once")
        #expect(write(text(65_536), 2 << 20) == 0)
        map.clear(at: 2 << 20, length: 65_536)
        #expect(write(random(65_536), 2 << 20) == 0, "discarded before")
        #expect(map.heldBytes == 3 * 65_536)
        // Over the edges of regions, and at the end of the disk.
        #expect(write(text(40_000), 5_000_000) == 0)
        #expect(write(random(8_192), 64 * Self.mib - 8_192) == 0)
        let path = FileManager.default.temporaryDirectory.path + "/farshore-content-" + UUID().uuidString
        defer { unlink(path) }
        try map.store(path, diskBytes: 64 * Self.mib)
        let again = try #require(try ContentMap.load(path, diskBytes: 64 * Self.mib))
        #expect(again.heldBytes == map.heldBytes && again.kind(at: 1 << 20) == .random && again.kind(at: 2 << 20) == .random && again.kind(at: 32 << 20) == .empty)
        #expect(try ContentMap.load(path, diskBytes: 32 * Self.mib) == nil)
        var bytes = try #require(try DurableFile.read(path))
        bytes[bytes.count - 1] ^= 1
        try DurableFile.replace(path, with: bytes)
        #expect(try ContentMap.load(path, diskBytes: 64 * Self.mib) == nil)
    }

    @Test func itIsRaisedOnceAndOverWhenItIsCalm() {
        let second: UInt64 = 1_000_000_000
        var watch = AnomalyWatch()
        func change(_ converted: UInt64, of written: UInt64) -> ContentMap.Change {
            ContentMap.Change(writtenBytes: written * Self.mib, convertedBytes: converted * Self.mib)
        }
        // Much of everything, little of it so.
        for at in 0..<20 as Range<UInt64> { #expect(watch.look(change(1, of: 10), after: at, heldBytes: 100 * Self.mib, now: at * 30 * second) == nil) }
        #expect(watch.look(change(1, of: 1), after: 20, heldBytes: 0, now: 5_000 * second) == nil)
        #expect(watch.look(change(12, of: 14), after: 21, heldBytes: 0, now: 5_030 * second) == nil)
        #expect(watch.look(change(20, of: 20), after: 22, heldBytes: 0, now: 5_060 * second)
            == .raised(convertedBytes: 32 * Self.mib, writtenBytes: 34 * Self.mib, seconds: 60, cleanSequence: 20))
        #expect(watch.look(change(50, of: 50), after: 23, heldBytes: 0, now: 5_090 * second) == nil && watch.isRaised)
        // Over when ten minutes hold little of it, and then raised again.
        #expect(watch.look(change(0, of: 1), after: 24, heldBytes: 0, now: 5_680 * second) == nil)
        #expect(watch.look(change(0, of: 1), after: 25, heldBytes: 0, now: 5_691 * second) == .over)
        #expect(watch.look(change(40, of: 40), after: 26, heldBytes: 0, now: 6_000 * second) != nil)
        // One that another watch raised stands as long as that would have let it, and longer while it goes on.
        var later = AnomalyWatch(standsUntil: 700 * second)
        #expect(later.look(change(0, of: 1), after: 27, heldBytes: 0, now: 200 * second) == nil && later.isRaised)
        #expect(later.look(change(9, of: 9), after: 28, heldBytes: 0, now: 300 * second) == nil && later.standsUntil == 900 * second)
        #expect(later.look(ContentMap.Change(), after: 29, heldBytes: 0, now: 899 * second) == nil)
        #expect(later.look(ContentMap.Change(), after: 29, heldBytes: 0, now: 901 * second) == .over && !later.isRaised)
        // What was written before does not hide it.
        var busy = AnomalyWatch()
        #expect(busy.look(change(0, of: 500), after: 1, heldBytes: 0, now: second) == nil)
        #expect(busy.look(change(40, of: 50), after: 2, heldBytes: 0, now: 9 * second) == .raised(convertedBytes: 40 * Self.mib, writtenBytes: 50 * Self.mib, seconds: 0, cleanSequence: 2))
        // Of a large disk it takes more.
        var large = AnomalyWatch()
        #expect(large.look(change(900, of: 900), after: 1, heldBytes: 1 << 40, now: second) == nil)
        #expect(large.look(change(200, of: 200), after: 2, heldBytes: 1 << 40, now: 2 * second) != nil)
    }

    @Test(arguments: Policy.Anomaly.allCases) func anAlarmPinsTheLastPointFromBefore(_ setting: Policy.Anomaly) throws {
        let disk = try ReplicatedDisk(content: text(48 << 20))
        let catalogue = try Catalogue(site: disk.site)
        _ = try catalogue.changePolicy(named: Policy.defaultName, PolicyChange(anomaly: setting))
        let service = UploadService(replicator: try disk.replicator(), log: ReplicatedDisk.quiet)
        #expect(try service.runOnce().isEmpty)
        try disk.write(text(1 << 20), at: 1 << 20)
        let clean = try disk.cut()
        #expect(try service.runOnce().isEmpty)
        for megabyte in 0..<36 { try disk.write(random(1 << 20, UInt64(megabyte)), at: megabyte << 20) }
        try disk.cut()
        #expect(try service.runOnce().isEmpty)
        let head = try #require(try disk.openVault().heads(group: VaultID(disk.id.description)!).newest()?.document)
        let warnings = try catalogue.warnings(ofDisk: ReplicatedDisk.name).filter { $0.kind == .anomaly }
        #expect(warnings.count == (setting == .off ? 0 : 1))
        #expect(head.pins?.map(\.sequence) == (setting == .pin ? [clean] : nil), "\(warnings)")
        guard setting == .pin else { return }
        #expect(warnings[0].text.contains("looks encrypted") && warnings[0].remedy.contains("anomaly-\(clean)"), "\(warnings)")
        #expect(try vaultContent(#require(try disk.history()), at: clean) == disk.points[clean])
        try expectItStandsOverRestarts(disk, catalogue, service)
        // Nobody is told to take away a pin that is gone.
        try catalogue.notePinGone("anomaly-\(clean + 1)", ofDiskID: disk.id.description, vault: disk.openVault().id.description)
        #expect(try alarms(catalogue).first?.remedy == warnings[0].remedy)
        try catalogue.notePinGone("anomaly-\(clean)", ofDiskID: disk.id.description, vault: disk.openVault().id.description)
        #expect(try alarms(catalogue).first.map { !$0.remedy.contains("unpin") && $0.text == warnings[0].text } == true)
        // Calm, and nothing is written.
        try catalogue.note(.anomaly, standsUntil: Clock.wallNanoseconds(), of: catalogue.disk(named: ReplicatedDisk.name))
        #expect(try service.runOnce().isEmpty)
        #expect(try alarms(catalogue).isEmpty && catalogue.events(limit: 5).contains { $0.text.contains("no longer overwritten") })
        // Nor does one stand that nobody watches for any more.
        try catalogue.set(StandingWarning(kind: .anomaly, text: "t", remedy: "r"), of: catalogue.disk(named: ReplicatedDisk.name))
        _ = try catalogue.changePolicy(named: Policy.defaultName, PolicyChange(anomaly: .off))
        #expect(try service.runOnce().isEmpty && alarms(catalogue).isEmpty)
    }

    private func alarms(_ catalogue: Catalogue) throws -> [StandingWarning] { try catalogue.warnings(ofDisk: ReplicatedDisk.name).filter { $0.kind == .anomaly } }

    /// Each run of the service is a watch of its own, as after a restart.
    private func expectItStandsOverRestarts(_ disk: ReplicatedDisk, _ catalogue: Catalogue, _ service: UploadService) throws {
        let raised = try #require(try alarms(catalogue).first?.standsUntilNanoseconds)
        let tenMinutes = Clock.wallNanoseconds() + AnomalyWatch.windowNanoseconds
        #expect(raised <= tenMinutes && raised > tenMinutes - 120_000_000_000)
        try catalogue.takeAwayAllWarnings()
        #expect(try service.runOnce().isEmpty)
        try disk.write(text(1 << 20), at: 40 << 20)
        try disk.cut()
        #expect(try service.runOnce().isEmpty)
        #expect(try alarms(catalogue).first?.standsUntilNanoseconds == raised)
        // It goes on: the ten minutes begin anew.
        for megabyte in 36..<46 { try disk.write(random(1 << 20, UInt64(megabyte)), at: megabyte << 20) }
        try disk.cut()
        #expect(try service.runOnce().isEmpty)
        #expect(try alarms(catalogue).first?.standsUntilNanoseconds.map { $0 > raised } == true)
    }
}
