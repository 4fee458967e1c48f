// Where two states of a disk differ, against arrays of bytes: histories with branches, discards, growth and kept points.

import Foundation
import ObjectStore
import RecoveryPoints
import Testing
import Vault
import VaultFixtures

@Suite struct StateDifferenceTests {
    private func limits() -> HistoryWriter.Limits {
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 5
        limits.deltasPerRollup = 2
        return limits
    }

    private func history(_ disk: ModelDisk) throws -> DiskHistory {
        try #require(try DiskHistory.newest(disk.vault, try disk.vault.disk("disk")))
    }

    private func reader(_ disk: ModelDisk, _ sources: PointSources, at sequence: UInt64) throws -> PointReader {
        try PointReader(sources, disk: disk.id, plan: try history(disk).plan(at: sequence))
    }

    private func branch(_ disk: ModelDisk, at sequence: UInt64) throws {
        let heads = disk.vault.heads(group: disk.id)
        let lineage = VaultID.random()
        let next = try disk.writer.branch(try #require(try heads.newest()?.document.state(of: disk.id)), to: lineage, at: sequence, epoch: 1)
        try heads.update(epoch: disk.epoch) { $0.set(next) }
        try disk.branched(at: sequence, lineage: lineage)
    }

    /// The blocks of the difference; each piece is what the newer state has there, and no two touch one block.
    private func blocks(from older: PointReader, to newer: PointReader) throws -> Set<UInt64> {
        let difference = StateDifference(from: older, to: newer)
        var found: Set<UInt64> = []
        var position: UInt64 = 0
        while let piece = try difference.next(from: position) {
            #expect(piece.startBlock >= position && piece.blockCount > 0)
            let there = try newer.extent(at: piece.startBlock, before: piece.startBlock + piece.blockCount)
            #expect(there == piece)
            found.formUnion(piece.startBlock..<piece.startBlock + piece.blockCount)
            position = piece.startBlock + piece.blockCount
        }
        return found
    }

    private func differing(_ older: [UInt8], _ newer: [UInt8]) -> Set<UInt64> {
        Set((0..<(newer.count + 4095) / 4096).filter { block in
            let new = newer[block * 4096..<min(newer.count, block * 4096 + 4096)]
            guard block * 4096 < older.count else { return new.contains { $0 != 0 } }
            return !new.elementsEqual(older[block * 4096..<min(older.count, block * 4096 + 4096)])
        }.map(UInt64.init))
    }

    /// Every block that differs is found, and none that nobody wrote.
    private func check(_ disk: ModelDisk, _ from: UInt64, _ to: UInt64, since: UInt64, _ sources: PointSources) throws {
        let found = try blocks(from: try reader(disk, sources, at: from), to: try reader(disk, sources, at: to))
        #expect(found.isSuperset(of: differing(disk.content(at: from), disk.content(at: to))), "from \(from) to \(to)")
        #expect(found.isSubset(of: disk.blocksWritten(after: since)), "from \(from) to \(to)")
    }

    @Test(arguments: 1...4) func differencesOfRandomStatesAreFound(seed: UInt64) throws {
        let test = try TestVault(encrypted: seed % 2 == 0)
        let disk = try ModelDisk(test.vault, sizeBytes: (6 << 20) + (seed % 3 == 0 ? 512 : 0), seed: seed, limits: limits())
        try disk.replicateInitially()
        for step in 0..<9 { try disk.step(records: 5, segmentBytes: 300_000, checkpoint: step == 4) }
        let at = disk.sequences[disk.sequences.count - 12]
        let left = disk.sequence
        try branch(disk, at: at)
        for step in 0..<6 {
            if step == 2, seed % 3 != 0 { disk.grow(to: 9 << 20) }
            try disk.step(records: 5)
        }
        let sources = PointSources(vault: test.vault)
        defer { sources.close() }
        var numbers = SeededNumbers(seed: seed + 100)
        for _ in 0..<12 {
            let one = disk.sequences.randomElement(using: &numbers)!
            let two = disk.sequences.randomElement(using: &numbers)!
            try check(disk, min(one, two), max(one, two), since: min(one, two, at), sources)
        }
        // Back as well: what was left, and the state of the branch in the history that went on.
        try check(disk, disk.sequence, left, since: at, sources)
        #expect(try blocks(from: try reader(disk, sources, at: left), to: try reader(disk, sources, at: left)).isEmpty)
    }

    /// Points below the window are maps alone.
    @Test func differencesToKeptPointsAreFound() throws {
        let test = try TestVault()
        let disk = try ModelDisk(test.vault, sizeBytes: 5 << 20, seed: 77, limits: limits())
        try disk.replicateInitially()
        for _ in 0..<12 { try disk.step(records: 4) }
        let pinned = disk.points[3].sequence
        _ = try test.vault.pin(try test.vault.disk("disk"), sequence: pinned, name: "kept", reason: "", spanMicros: nil)
        #expect(try disk.thin(Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 30)])))
        #expect(try history(disk).state.oldestSequence > pinned)
        let sources = PointSources(vault: test.vault)
        defer { sources.close() }
        for _ in 0..<3 {
            try check(disk, pinned, disk.sequence, since: pinned, sources)
            try disk.step(records: 3)
        }
    }

    /// Two maps of many leaves that differ in one: the others are not asked for.
    @Test func whatBothMapsNameIsNotRead() throws {
        let store = CountingStore(MemoryStore())
        let vault = try Vault.create(store: store, protection: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        let disk = VaultID.random()
        let sizeBytes = UInt64(40 << 30)
        _ = try vault.register(disk: disk, name: "disk", sizeBytes: sizeBytes)
        let map = InitialMap(vault: vault, sizeBytes: sizeBytes, epoch: 1)
        // A chunk in each of the 640 leaves; none of them is ever read.
        for leaf in 0..<640 { try map.append(chunk: UInt64(leaf * 64), ChunkRef(id: Hash256(bytes: [UInt8](repeating: UInt8(leaf % 250 + 1), count: 32))!, epoch: 1)) }
        let base = try map.finish()
        let writer = HistoryWriter(vault: vault, disk: disk)
        var state = try writer.start(
            lineage: .random(), sequence: 1, sizeBytes: sizeBytes, root: base, point: RecoveryPoint(sequence: 1, timeMicros: 1, kind: .crash, tag: nil))
        let segment = SegmentWriter(vault: vault, disk: disk, lineage: state.current!.id, payloadBytesMax: 1 << 20)
        try [UInt8](repeating: 9, count: 8192).withUnsafeBytes {
            try segment.append(SegmentRecord(kind: .write, sequence: 2, diskOffset: 20 << 30, length: 8192, wallNanoseconds: 1, flushedThrough: 0), payload: $0)
        }
        state = try writer.extend(state, through: 2, segments: [try segment.finish()], points: [], checkpoint: true, epoch: 1)
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let history = DiskHistory(vault: vault, state: state)
        let (older, newer) = (try PointReader(sources, disk: disk, plan: history.plan(at: 1)), try PointReader(sources, disk: disk, plan: history.plan(at: 2)))
        let before = store.counts.gets
        #expect(try blocks(from: older, to: newer) == [5 << 20, (5 << 20) + 1])
        // The two roots' pages on the way to the one leaf, and the leaf of each.
        #expect(store.counts.gets - before <= 8)
    }
}
