// Cleaning: what is left of mostly dead objects goes into chunks, every point reads as before, and the objects go; killed anywhere,
// beside collections, after branches, into copies.

import ObjectStore
import Testing
import Vault
import VaultFixtures

/// Times of a model disk are its sequences, in seconds: a step takes about five.
private let shortThinning = Thinning(rules: [
    .init(periodSeconds: 0, spanSeconds: 30), .init(periodSeconds: 15, spanSeconds: 60),
])

private final class World {
    let store = MemoryStore()
    let disk: ModelDisk
    private(set) var copiedBytes = 0

    init(seed: UInt64 = 1, sizeBytes: Int = 4 << 20, limits: Cleaning.Limits? = smallLimits()) throws {
        let vault = try Vault.create(store: store, protection: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        disk = try ModelDisk(vault, sizeBytes: sizeBytes, seed: seed, limits: quickLimits())
        if let limits { disk.cleaning = Cleaning(vault: vault, disk: disk.id, limits: limits) }
        try disk.replicateInitially()
    }

    /// So that what few steps write is worth a chunk.
    static func smallLimits() -> Cleaning.Limits {
        var limits = Cleaning.Limits()
        limits.blocksPerStepMin = 24
        return limits
    }

    /// So that everything takes several passes, and no pass sees all objects.
    static func tinyLimits() -> Cleaning.Limits {
        var limits = smallLimits()
        (limits.objectsCounted, limits.blocksCounted, limits.blocksPerManifest, limits.blocksPerStep, limits.pagesPerManifest) = (24, 600, 300, 60, 2)
        return limits
    }

    static func open(_ store: any ObjectStore) throws -> Vault {
        try Vault.open(store: store, key: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings)
    }

    func go(_ steps: Int, collects: Bool = true) throws {
        for number in 0..<steps {
            try disk.step(records: 2)
            if number % 4 == 3 { _ = try disk.thin(shortThinning) }
            copiedBytes += try disk.clean().bytes
            if collects, number % 20 == 19 { try collect(store) }
        }
    }

    func collect(_ store: any ObjectStore) throws {
        let vault = try Self.open(store)
        for _ in 0..<3 {
            _ = try Collector(vault: vault).run()
            let epoch = try vault.catalog().document.collectionEpoch
            try vault.heads(group: disk.id).update(epoch: disk.epoch) { $0.collectionEpoch = epoch }
        }
    }

    func expectWhole(_ store: any ObjectStore, _ comment: String, isCollected: Bool = false) throws {
        let vault = try Self.open(store)
        try expectAllReadable(vault, disk, comment)
        let report = try VaultCheck(vault: vault, readData: true, threads: 1).run()
        #expect(report.findings == [], "\(comment)")
        if isCollected { #expect(report.orphans?.objects == 0, "\(comment): \(report.orphans?.examples ?? [])") }
    }

    /// As an uploader that was just started: what is due is copied, and a full manifest at `sequence` names it.
    func cleanAnew(_ vault: Vault, at sequence: UInt64) throws {
        let cleaning = Cleaning(vault: vault, disk: disk.id, limits: Self.smallLimits())
        cleaning.note(fullness: 1)
        let heads = vault.heads(group: disk.id)
        let head = try #require(try heads.newest()).document
        let state = try #require(head.state(of: disk.id))
        while cleaning.isDue(state) {
            _ = try cleaning.step(state, epoch: head.collectionEpoch) { chunk, bytes in
                _ = try vault.putChunk(bytes, as: chunk)
                return chunk
            }
        }
        #expect(cleaning.ready.count > 10)
        let next = try HistoryWriter(vault: vault, disk: disk.id, limits: quickLimits()).extend(
            state, through: sequence, segments: [], points: [], moved: cleaning.ready, checkpoint: true, epoch: head.collectionEpoch)
        try heads.update(epoch: disk.epoch) { $0.set(next) }
    }

    func segments(of lineage: VaultID? = nil) -> [String] { store.keys.filter { $0.contains("/segments/") && $0.contains("\(lineage?.description ?? "")/") } }
}

@Suite struct CleaningTests {
    /// Promise K8: Cleaning changes no point: each reads bit-exact before, while and after what it needs is copied, and an object that was
    /// cleaned is deleted only when no point needs it.
    @Test(arguments: [Cleaning.Limits(), World.tinyLimits()]) func everyPointReadsAsBefore(limits: Cleaning.Limits) throws {
        let (cleaned, plain) = (try World(limits: limits), try World(limits: nil))
        let pinned = cleaned.disk.points[0]
        let disk = cleaned.disk
        _ = try disk.vault.heads(group: disk.id).update(epoch: disk.epoch) { head in
            head.pins = [Head.Pin(name: "first", disk: disk.id, sequence: pinned.sequence, timeMicros: pinned.timeMicros, reason: "", untilMicros: nil)]
        }
        for round in 0..<6 {
            try cleaned.go(40)
            try plain.go(40)
            try cleaned.expectWhole(cleaned.store, "round \(round)")
        }
        try cleaned.collect(cleaned.store)
        try cleaned.expectWhole(cleaned.store, "the end", isCollected: true)
        let history = try #require(try DiskHistory.newest(World.open(cleaned.store), try disk.vault.disk("disk")))
        #expect(try history.points().contains { $0.sequence == pinned.sequence })
        let (with, without) = (cleaned.segments().count, plain.segments().count)
        print("""
            segments \(with) with cleaning, \(without) without; \(cleaned.store.byteCount >> 10) and \(plain.store.byteCount >> 10) KiB; \
            written \(disk.writtenBytes >> 10) KiB, copied \(cleaned.copiedBytes >> 10) KiB
            """)
        // Those of the window (30 s at 3 s a step at least), of the two full manifests before it, and of a point kept from between, twice.
        #expect(with <= 10 + 2 * 5 + 2 * 5 && 2 * with < without)
        // Once out of its segment, and then at most once for each block that was freed beside it.
        guard limits.blocksPerStepMin == Cleaning.Limits().blocksPerStepMin else { return }
        #expect(cleaned.copiedBytes > 0 && cleaned.copiedBytes <= 2 * (disk.writtenBytes + (4 << 20)))
    }

    /// Each try begins as a new process would, and the vault is whole at every request.
    @Test(arguments: [false, true]) func killedAtAnyRequestItGoesOn(answerIsLost: Bool) throws {
        let world = try World(sizeBytes: 2 << 20, limits: nil)
        try world.go(24)
        let after = world.disk.sequence
        var number = 0
        var isFinished = false
        while !isFinished {
            number += 1
            let store = MemoryStore(copyOf: world.store)
            let interrupted = InterruptedStore(store)
            let vault = try World.open(interrupted)
            interrupted.interrupt(at: number, answerIsLost ? .diesAfter : .dies)
            do {
                try world.cleanAnew(vault, at: after + 1)
                isFinished = interrupted.calls < number
            } catch is VaultError {}
            guard number % 3 == 0 || isFinished else { continue }
            try world.expectWhole(store, "killed at \(number)")
            if !isFinished { try world.cleanAnew(try World.open(store), at: after + 2) }
            try world.collect(store)
            try world.expectWhole(store, "gone on after \(number)", isCollected: true)
        }
        #expect(number > 40, "\(number)")
    }

    /// A copy that a collection may have deleted is never named, and one that a map names is never deleted.
    @Test(arguments: [false, true]) func aCollectionBetweenCopyAndMap(isAcknowledged: Bool) throws {
        let world = try World(limits: World.smallLimits())
        let disk = world.disk
        try world.go(30)
        while disk.cleaning?.ready.isEmpty == true {
            try disk.step(records: 2)
            try disk.clean()
        }
        let before = Set(world.store.keys)
        let collector = Collector(vault: try World.open(world.store))
        #expect(try collector.run().condemnedObjects > 0)
        if isAcknowledged {
            try disk.acknowledge()
            #expect(try collector.run().deletedObjects > 0)
        }
        let copies = Set(try #require(disk.cleaning).ready.compactMap(\.to)).map { ObjectPlace.chunk($0).key }
        #expect(!copies.isEmpty && copies.allSatisfy(before.contains))
        #expect(copies.allSatisfy { world.store.keys.contains($0) == !isAcknowledged })
        try disk.step(records: 2, checkpoint: true)
        #expect(disk.cleaning?.ready == [])
        try world.expectWhole(world.store, "named")
        try disk.acknowledge()
        let report = try collector.run()
        #expect(isAcknowledged || report.sparedObjects == UInt64(copies.count), "\(report)")
        try disk.acknowledge()
        _ = try collector.run()
        try world.expectWhole(world.store, "collected")
        #expect(copies.allSatisfy { world.store.keys.contains($0) == !isAcknowledged })
    }

    /// After a failover the map names segments of the history before; they are cleaned by who writes the new one.
    @Test func segmentsOfAnEarlierLineageGo() throws {
        let world = try World(limits: World.smallLimits())
        try world.go(30)
        let disk = world.disk
        let (old, lineage) = (disk.lineage, VaultID.random())
        let heads = disk.vault.heads(group: disk.id)
        let branch = disk.points[disk.points.count - 3].sequence
        let head = try #require(try heads.newest()).document
        let next = try disk.writer.branch(try #require(head.state(of: disk.id)), to: lineage, at: branch, epoch: head.collectionEpoch)
        try heads.update(epoch: disk.epoch) { $0.set(next) }
        try disk.branched(at: branch, lineage: lineage)
        let count = world.segments(of: old).count
        try world.go(60)
        try world.expectWhole(world.store, "branched")
        print("segments of the lineage that was left: \(count), then \(world.segments(of: old).count)")
        #expect(count > 10 && world.segments(of: old).isEmpty)
    }

    @Test func aCopyOfTheVaultHasWhatMapsName() throws {
        let world = try World(limits: World.smallLimits())
        let (place, memory) = (MemoryStore(), HeadMemory(folder: nil))
        for round in 0..<4 {
            try world.go(25, collects: round % 2 == 1)
            _ = try VaultCopy(of: World.open(world.store), at: place, begins: true) { _ in memory }.run()
            try world.expectWhole(place, "round \(round)")
        }
        #expect(world.copiedBytes > 0)
    }

    /// What cannot be read stays where it is, and the rest is cleaned.
    @Test func damageIsNotCopied() throws {
        let world = try World(limits: nil)
        try world.go(24)
        let disk = world.disk
        func ready() throws -> [MovedBlocks] {
            disk.cleaning = Cleaning(vault: disk.vault, disk: disk.id, limits: World.smallLimits())
            disk.cleaning?.note(fullness: 1)
            try disk.clean()
            return disk.cleaning?.ready ?? []
        }
        let sound = try ready()
        let segments = sound.compactMap { if case .segment(let segment) = $0.from { segment } else { nil } }
        let segment = try #require(segments.first)
        let key = ObjectPlace.segment(disk: disk.id, lineage: segment.lineage, first: segment.first, last: segment.last).key
        var bytes = try world.store.get(key, range: nil)
        for at in stride(from: 100, to: bytes.count, by: 50) { bytes[at] ^= 1 }
        try world.store.put(key, bytes, ifAbsent: false)
        let rest = try ready()
        #expect(rest.count > 5 && rest.count < sound.count && !rest.contains { $0.from == .segment(segment) })
        try disk.step(records: 2, checkpoint: true)
        #expect(try VaultCheck(vault: World.open(world.store), readData: true, threads: 1).run().findings.map(\.object) == [key])
    }

    /// The map has several pages, of which few are read at a time; an idle disk costs nothing.
    @Test func aMapOfSeveralPagesIsReadABitAtATime() throws {
        var limits = World.smallLimits()
        limits.pagesPerManifest = 1
        let world = try World(sizeBytes: 200 << 20, limits: limits)
        try world.go(60)
        let vault = try World.open(world.store)
        let history = try #require(try DiskHistory.newest(vault, try vault.disk("disk")))
        let points = try history.points()
        for point in [try #require(points.first), try #require(points.last)] {
            #expect(try readState(vault, disk: world.disk.id, at: point.sequence) == world.disk.content(at: point.sequence), "#\(point.sequence)")
        }
        #expect(world.copiedBytes > 0 && world.segments().count < 40, "\(world.copiedBytes) bytes, \(world.segments().count) segments")
        world.store.resetRequests()
        let state = history.state
        let cleaning = try #require(world.disk.cleaning)
        while cleaning.isDue(state) { _ = try cleaning.step(state, epoch: 1) { chunk, _ in chunk } }
        let before = world.store.requests
        for _ in 0..<100 { #expect(try cleaning.step(state, epoch: 1) { chunk, _ in chunk } == nil) }
        #expect(world.store.requests == before && before.lists == 0)
    }
}
