// What a vault becomes when points come every five minutes and retention and collection do their work: how large, how many
// objects, what it costs in requests. 5 days here, 365 with FARSHORE_CAMPAIGN_SCALE=73.

import BlockIO
import Foundation
import ObjectStore
import RecoveryPoints
import Testing
import Vault
import VaultFixtures

/// A disk that remembers who wrote each block when, and fills it from that.
private final class LongDisk {
    static let blocks = 16_384
    let vault: Vault
    let id = VaultID.random()
    let lineage = VaultID.random()
    private var numbers: SeededNumbers
    private(set) var sequence: UInt64 = 1
    /// Sequences that wrote each block, rising.
    private var writes = [[UInt64]](repeating: [], count: blocks)
    private let writer: HistoryWriter
    private let cleaning: Cleaning
    private let epoch: UInt64
    private(set) var copiedBytes = 0

    init(_ vault: Vault, seed: UInt64) throws {
        self.vault = vault
        numbers = SeededNumbers(seed: seed)
        writer = HistoryWriter(vault: vault, disk: id)
        cleaning = Cleaning(vault: vault, disk: id)
        let sizeBytes = UInt64(Self.blocks * 4_096)
        _ = try vault.register(disk: id, name: "year", sizeBytes: sizeBytes)
        let map = InitialMap(vault: vault, sizeBytes: sizeBytes, epoch: 1)
        let point = RecoveryPoint(sequence: sequence, timeMicros: 0, kind: .crash, tag: nil)
        let state = try writer.start(lineage: lineage, sequence: sequence, sizeBytes: sizeBytes, root: try map.finish(), point: point)
        epoch = try vault.heads(group: id).claim(host: "year").document.writer.epoch
        try vault.heads(group: id).update(epoch: epoch) { $0.set(state) }
    }

    static func content(_ block: Int, _ sequence: UInt64) -> [UInt8] {
        guard sequence > 0 else { return [UInt8](repeating: 0, count: 4_096) }
        var numbers = SeededNumbers(seed: sequence &* 1_000_003 &+ UInt64(block))
        var bytes = [UInt8](repeating: 0, count: 4_096)
        bytes.withUnsafeMutableBytes { for at in stride(from: 0, to: 2_048, by: 8) { $0.storeBytes(of: numbers.next(), toByteOffset: at, as: UInt64.self) } }
        return bytes
    }

    func content(_ block: Int, at sequence: UInt64) -> [UInt8] { Self.content(block, version(block, at: sequence)) }

    private func version(_ block: Int, at sequence: UInt64) -> UInt64 { writes[block].last { $0 <= sequence } ?? 0 }

    /// How many contents of blocks these points hold, each counted once.
    func needed(_ points: [UInt64]) -> Int {
        writes.indices.reduce(0) { sum, block in sum + Set(points.map { version(block, at: $0) }).subtracting([0]).count }
    }

    /// Five minutes of a guest, as its uploader brings them to the vault.
    func step(_ number: UInt64, writes count: Int) throws {
        let segment = SegmentWriter(vault: vault, disk: id, lineage: lineage)
        for _ in 0..<count {
            sequence += 1
            // Four of five writes go to a sixteenth of the disk.
            let block = Int.random(in: 0..<(Int.random(in: 0..<5, using: &numbers) > 0 ? Self.blocks / 16 : Self.blocks), using: &numbers)
            writes[block].append(sequence)
            let record = SegmentRecord(kind: .write, sequence: sequence, diskOffset: UInt64(block * 4_096), length: 4_096, wallNanoseconds: 0, flushedThrough: sequence - 1)
            try Self.content(block, sequence).withUnsafeBytes { try segment.append(record, payload: $0) }
        }
        let entry = try segment.finish()
        sequence += 1
        let point = RecoveryPoint(sequence: sequence, timeMicros: number * 300_000_000, kind: .crash, tag: nil)
        let head = try vault.heads(group: id).newest()!.document
        let (before, moved) = (head.state(of: id)!, cleaning.ready)
        let next = try writer.extend(before, through: sequence, segments: [entry], points: [point], moved: moved, epoch: head.collectionEpoch)
        try publish { head in
            var state = head.state(of: next.disk)!
            state.follow(next)
            head.set(state)
        }
        cleaning.note(fullness: writer.fullness(of: next), moved: next.current?.full == before.current?.full ? 0 : moved.count)
    }

    func clean() throws {
        let head = try vault.heads(group: id).newest()!.document
        while cleaning.isDue(head.state(of: id)!) {
            let step = try cleaning.step(head.state(of: id)!, epoch: head.collectionEpoch) { chunk, bytes in
                _ = try vault.putChunk(bytes, as: chunk)
                return chunk
            }
            copiedBytes += step?.bytes ?? 0
        }
    }

    func thin(_ thinning: Thinning) throws {
        let head = try vault.heads(group: id).newest()!.document
        guard let pruning = try Retention(vault: vault, thinning: thinning, epoch: head.collectionEpoch).pruning(of: head, try vault.catalog().document) else { return }
        try publish { pruning.apply(to: &$0) }
    }

    func acknowledge() throws {
        let newest = try vault.catalog().document.collectionEpoch
        try publish { $0.collectionEpoch = newest }
    }

    private func publish(_ change: (inout Head) -> Void) throws { try vault.heads(group: id).update(epoch: epoch) { change(&$0) } }
}

@Suite struct YearTests {
    private static let days = min(365, 5 * max(1, Int(ProcessInfo.processInfo.environment["FARSHORE_CAMPAIGN_SCALE"] ?? "") ?? 1))

    @Test func pointsOfManyDays() throws {
        let store = MemoryStore()
        let vault = try Vault.create(store: store, protection: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        let disk = try LongDisk(vault, seed: 1)
        let thinning = Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 7_200), .init(periodSeconds: 3_600, spanSeconds: 86_400), .init(periodSeconds: 86_400, spanSeconds: 15 * 86_400)])
        var (uploader, collector) = (MemoryStore.Requests(), MemoryStore.Requests())
        var writtenBytes = 0
        for day in 0..<Self.days {
            store.resetRequests()
            for step in 0..<288 {
                try disk.step(UInt64(day * 288 + step + 1), writes: 8)
                writtenBytes += 8 * 4_096
                // A quarter of the whole part, as the uploader does it.
                if step % 6 == 5 { try disk.thin(thinning) }
                try disk.clean()
            }
            try disk.acknowledge()
            uploader = store.requests
            store.resetRequests()
            // From a timer, with nothing remembered.
            _ = try Collector(vault: try Self.open(store)).run()
            collector = store.requests
        }
        // So that what was condemned last is gone too.
        for _ in 0..<2 {
            try disk.acknowledge()
            _ = try Collector(vault: try Self.open(store)).run()
        }
        let listed = try expectEveryPointRestores(store, disk)
        let points = listed.count
        let (seconds, requests) = try openNewest(store, disk)
        let kinds = store.objectCounts.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
        print("""
            \(Self.days) days of 5-minute points, \(Self.days * 288) cut, \(points) kept; \(writtenBytes >> 10) KiB written
              vault: \(store.byteCount >> 10) KiB for \(disk.needed(listed) * Self.storedBytes >> 10) KiB that points hold; copied by cleaning \(disk.copiedBytes >> 10) KiB
              vault: \(store.byteCount >> 10) KiB in \(store.objectCount) objects: \(kinds)
              a day, uploader: \(uploader.puts) PUT, \(uploader.gets) GET, \(uploader.heads) HEAD, \(uploader.lists) LIST, \(uploader.deletes) DELETE, \(uploader.putBytes >> 10) KiB
              a day, collection: \(collector.puts) PUT, \(collector.gets) GET, \(collector.heads) HEAD, \(collector.lists) LIST, \(collector.deletes) DELETE
              newest point, each request taking 2 ms: opened in \(String(format: "%.3f", seconds)) s with \(requests) requests
            """)
        #expect(uploader.lists == 0 && uploader.deletes == 0)
        #expect(points >= 25 + 20 && points <= 70)
        #expect(seconds < 1)
        #expect(try VaultCheck(vault: Self.open(store), readData: true).run().findings == [])
        expectNoMoreThanPointsNeed(store, disk, listed)
    }

    /// What a block takes: half of it are random bytes.
    private static let storedBytes = 2_200

    /// The vault follows what the points hold, not how long it has existed: each kind of object by what points need of it.
    private func expectNoMoreThanPointsNeed(_ store: MemoryStore, _ disk: LongDisk, _ listed: [UInt64]) {
        let counts = store.objectCounts
        let (stepsADay, manifestsPerFull) = (288, FormatLimits.manifestsPerFullMax)
        // Daily points of 15 days and the one before; what each was made of: the segments since its full manifest and of the one before, which
        // the next one cleans unless a collection came between; and the window of two hours.
        let steps = min(Self.days * stepsADay, 16 * stepsADay + 3 * manifestsPerFull + 30)
        #expect(counts["segments", default: 0] <= steps)
        // A chunk has 128 blocks at least when it is made, and 64 when it stays; a block is copied out of its segment, and once more for one freed.
        #expect(counts["chunks", default: 0] <= LongDisk.blocks / 64 + 2 * 8 * steps / 128)
        // The disk has one page; full manifests of the window with the one before it, and a base each.
        #expect(counts["maps", default: 0] <= listed.count + 6)
        // Of three full manifests, the roll-ups and deltas of each.
        #expect(counts["manifests", default: 0] <= 3 + 3 * 2 * FormatLimits.deltasPerRollupMax)
        let anchors = Self.days * (stepsADay + 60) / Int(FormatLimits.anchorInterval) + 1
        #expect(counts["heads", default: 0] <= 2 * Int(FormatLimits.anchorInterval) + stepsADay + 60 + anchors)
        #expect(counts["catalog", default: 0] <= min(2 * Self.days + 10, 2 * Int(FormatLimits.anchorInterval)))
        // An object that is left alone holds a quarter of what it takes, or is one that a point which stays was made of.
        #expect(store.byteCount < 4 * disk.needed(listed) * Self.storedBytes + (8 << 20))
    }

    private static func open(_ store: MemoryStore) throws -> Vault {
        try Vault.open(store: store, key: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings)
    }

    private func expectEveryPointRestores(_ store: MemoryStore, _ disk: LongDisk) throws -> [UInt64] {
        let vault = try Self.open(store)
        let history = try #require(try DiskHistory.newest(vault, try vault.disk("year")))
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        var numbers = SeededNumbers(seed: 2)
        let points = try history.points()
        for point in points {
            let reader = try PointReader(sources, disk: disk.id, plan: try history.plan(at: point.sequence))
            for _ in 0..<150 {
                let block = Int.random(in: 0..<(Bool.random(using: &numbers) ? LongDisk.blocks / 16 : LongDisk.blocks), using: &numbers)
                var bytes = [UInt8](repeating: 1, count: 4_096)
                try bytes.withUnsafeMutableBytes { try reader.read(into: $0, at: UInt64(block * 4_096)) }
                #expect(bytes == disk.content(block, at: point.sequence), "block \(block) at #\(point.sequence)")
            }
        }
        return points.map(\.sequence)
    }

    private func openNewest(_ store: MemoryStore, _ disk: LongDisk) throws -> (seconds: Double, requests: Int) {
        store.resetRequests()
        store.setLatency(microseconds: 2_000)
        defer { store.setLatency(microseconds: 0) }
        let began = Clock.monotonicNanoseconds()
        let vault = try Self.open(store)
        let history = try #require(try DiskHistory.newest(vault, try vault.disk("year")))
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let reader = try PointReader(sources, disk: disk.id, plan: try history.plan(at: history.newestSequence))
        var block = [UInt8](repeating: 0, count: 4_096)
        try block.withUnsafeMutableBytes { try reader.read(into: $0, at: 0) }
        return (Double(Clock.monotonicNanoseconds() - began) / 1e9, store.requests.all)
    }
}
