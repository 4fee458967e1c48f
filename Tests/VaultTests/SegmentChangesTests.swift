// What manifests carry of segments is what the segments say, old points have it too, and nothing in it is believed unseen.

import Foundation
import ObjectStore
import Testing
import Vault
import VaultFixtures

@Suite struct SegmentChangesTests {
    private func readAll(_ vault: Vault, _ disk: VaultID, _ entries: [SegmentEntry]) throws -> [SegmentChanges] {
        try SegmentChanges.readAll(vault, disk: disk, entries, manifestLineage: disk)
    }

    private func same(_ one: [SegmentChanges], _ other: [SegmentChanges]) -> Bool {
        one.elementsEqual(other) { $0.id == $1.id && $0.changes == $1.changes && $0.object.header == $1.object.header && $0.object.table.offsets == $1.object.table.offsets }
    }

    /// Also where points with tags lie between the writes, and where a write ends with the disk.
    @Test(arguments: [true, false]) func carriedIsWhatTheSegmentSays(encrypted: Bool) throws {
        let test = try TestVault(encrypted: encrypted)
        var numbers = SeededNumbers(seed: 8)
        for _ in 0..<20 {
            let (disk, lineage) = (VaultID.random(), VaultID.random())
            let writer = SegmentWriter(vault: test.vault, disk: disk, lineage: lineage)
            var sequence = UInt64.random(in: 1...1 << 50, using: &numbers)
            for _ in 0..<Int.random(in: 1...200, using: &numbers) {
                sequence += UInt64.random(in: 1...5, using: &numbers)
                let kind: SegmentRecordKind = [.write, .write, .zero, .discard, .point].randomElement(using: &numbers)!
                let isLarge = kind == .zero || kind == .discard
                let place = UInt64.random(in: 0..<(1 << 34), using: &numbers) * 4096
                let length = isLarge ? UInt64.random(in: 1...1 << 36, using: &numbers) * 512 : kind == .point ? UInt64.random(in: 0...20, using: &numbers) : UInt64.random(in: 1...40, using: &numbers) * 512
                let record = SegmentRecord(kind: kind, sequence: sequence, diskOffset: kind == .point ? 0 : place, length: length, wallNanoseconds: 5, flushedThrough: 0)
                try [UInt8](repeating: 7, count: record.payloadBytes).withUnsafeBytes { try writer.append(record, payload: $0) }
            }
            let entry = try writer.finish().named(from: lineage)
            #expect(entry.index != nil)
            #expect(same(try readAll(test.vault, disk, [entry]), try readAll(test.vault, disk, [entry.withoutIndex])))
        }
    }

    /// Between two maps the parts of the full manifest carry it; where they are gone, the segments are asked.
    @Test func everyPointHasIt() throws {
        let test = try TestVault()
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 9
        limits.deltasPerRollup = 3
        let disk = try ModelDisk(test.vault, sizeBytes: 6 << 20, seed: 12, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<24 { try disk.step(records: 8, segmentBytes: 1 << 18) }
        func plans() throws -> [ReadPlan] {
            let history = try #require(try DiskHistory.newest(test.reopened(), try test.vault.disk("disk")))
            return try disk.sequences.map { try history.plan(at: $0) }
        }
        for plan in try plans() {
            #expect(plan.segments.allSatisfy { $0.index != nil }, "\(plan.sequence)")
            #expect(same(try readAll(test.vault, disk.id, plan.segments), try readAll(test.vault, disk.id, plan.segments.map(\.withoutIndex))), "\(plan.sequence)")
        }
        let state = try #require(try test.vault.heads(group: disk.id).newest()?.document.state(of: disk.id))
        let needed = Set(try state.lineages.flatMap { [$0.full] + $0.tail }.map { try test.vault.manifest($0, disk: disk.id, lineage: disk.lineage).sequence })
        for key in try test.keys() where key.contains("/manifests/") {
            let manifest = try test.vault.read(.manifest(disk: disk.id, lineage: disk.lineage, sequence: UInt64(key.suffix(20))!))
            guard !String(decoding: manifest, as: UTF8.self).contains("\"kind\":\"full\""), !needed.contains(UInt64(key.suffix(20))!) else { continue }
            try FileManager.default.removeItem(atPath: test.file(key))
        }
        #expect(try plans().contains { $0.segments.contains { $0.index == nil } })
        for sequence in disk.sequences where sequence % 7 == 0 { #expect(try readState(test.vault, disk: disk.id, at: sequence) == disk.content(at: sequence), "\(sequence)") }
    }

    /// A collection leaves them, and a copy has them.
    @Test func partsAreKept() throws {
        let test = try TestVault()
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 9
        limits.deltasPerRollup = 3
        let disk = try ModelDisk(test.vault, sizeBytes: 4 << 20, seed: 13, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<12 { try disk.step(records: 8) }
        for _ in 0..<2 {
            _ = try Collector(vault: test.reopened()).run()
            try disk.acknowledge()
        }
        func check(_ vault: Vault) throws {
            let history = try #require(try DiskHistory.newest(vault, try vault.disk("disk")))
            for sequence in disk.sequences { #expect(try history.plan(at: sequence).segments.allSatisfy { $0.index != nil }, "\(sequence)") }
        }
        try check(test.reopened())
        let place = MemoryStore()
        _ = try VaultCopy(of: test.reopened(), at: place, begins: true) { _ in HeadMemory(folder: nil) }.run()
        try check(Vault.open(store: place, key: test.key, memory: HeadMemory(folder: nil), settings: TestVault.settings))
    }

    @Test(arguments: [true, false]) func whatIsChangedIsRefusedOrHarmless(encrypted: Bool) throws {
        let test = try TestVault(encrypted: encrypted)
        let (disk, lineage) = (VaultID.random(), VaultID.random())
        let writer = SegmentWriter(vault: test.vault, disk: disk, lineage: lineage)
        var numbers = SeededNumbers(seed: 9)
        for sequence in UInt64(100)..<160 {
            let record = SegmentRecord(
                kind: sequence % 3 == 0 ? .zero : .write, sequence: sequence, diskOffset: UInt64.random(in: 0..<1 << 30, using: &numbers) * 4096, length: 8192, wallNanoseconds: 0, flushedThrough: 0)
            try [UInt8](repeating: 1, count: record.payloadBytes).withUnsafeBytes { try writer.append(record, payload: $0) }
        }
        let entry = try writer.finish().named(from: lineage)
        let sound = [UInt8](try #require(entry.index))
        var (refused, read) = (0, 0)
        for round in 0..<4_000 {
            var bytes = sound
            switch round % 4 {
            case 0: bytes.removeLast(Int.random(in: 1...bytes.count, using: &numbers))
            case 1: bytes += numbers.bytes(Int.random(in: 1...12, using: &numbers))
            default: for _ in 0...(round % 3) { bytes[Int.random(in: 0..<bytes.count, using: &numbers)] ^= UInt8.random(in: 1...255, using: &numbers) }
            }
            do {
                let changes = try #require(try readAll(test.vault, disk, [entry.carrying(Data(bytes))]).first).changes
                read += 1
                for change in changes {
                    let end = change.sourceBlock.map { UInt64($0) * 4096 + change.length } ?? 0
                    #expect(change.sequence >= 100 && change.sequence < 160 && change.end <= 1 << 48 && end <= entry.payloadOffset + entry.payloadBytes)
                }
            } catch let error as VaultError {
                refused += 1
                #expect(error.isIntegrityDamage || "\(error)".contains("version") || "\(error)".contains("key"), "\(error)")
            }
        }
        #expect(refused > 2_000 && read > 0)
        for (first, last) in [(UInt64(0), UInt64(159)), (100, 99)] {
            let lying = SegmentEntry(
                lineage: lineage, first: first, last: last, bytes: entry.bytes, hash: entry.hash, records: entry.records, payloadOffset: entry.payloadOffset,
                payloadBytes: entry.payloadBytes, index: entry.index)
            #expect(throws: VaultError.self) { try readAll(test.vault, disk, [lying]) }
        }
    }
}
