// Collection: what no point needs goes, and nothing else, interrupted anywhere, beside anybody, whatever LIST says.

import ObjectStore
import Synchronization
import Testing
import Vault
import VaultFixtures

/// A vault in memory with a disk whose points were thinned out, and with what crashes left behind.
private final class World {
    let store = MemoryStore()
    let disk: ModelDisk
    let heads: HeadChain
    /// Nothing leads to them, and they may be named yet: a lineage nobody knows, a sequence behind the newest.
    private(set) var unsettled: [String] = []

    init(seed: UInt64 = 1, steps: Int = 16, unthinned: Int = 0) throws {
        let vault = try Vault.create(store: store, protection: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        disk = try ModelDisk(vault, sizeBytes: 256 << 10, seed: seed, limits: quickLimits())
        heads = vault.heads(group: disk.id)
        try disk.replicateInitially()
        for number in 0..<steps {
            try disk.step(records: 3)
            if number % 6 == 5 { _ = try disk.thin(quickThinning) }
        }
        for _ in 0..<unthinned { try disk.step(records: 3) }
        // A chunk whose map was never published, and segments that an interrupted attempt left.
        let lost = [UInt8](repeating: 3, count: 4_096)
        try lost.withUnsafeBytes { bytes in _ = try vault.putChunk(bytes, as: vault.chunkRef(of: bytes, epoch: 1)) }
        for lineage in [disk.lineage, .random()] {
            let writer = SegmentWriter(vault: vault, disk: disk.id, lineage: lineage)
            let sequence = lineage == disk.lineage ? disk.sequence + 1 : 11
            let record = SegmentRecord(kind: .zero, sequence: sequence, diskOffset: 0, length: 4_096, wallNanoseconds: 0, flushedThrough: 0)
            try writer.append(record, payload: UnsafeRawBufferPointer(start: nil, count: 0))
            let entry = try writer.finish()
            unsettled.append(ObjectPlace.segment(disk: disk.id, lineage: lineage, first: entry.first, last: entry.last).key)
        }
    }

    static func open(_ store: any ObjectStore) throws -> Vault {
        try Vault.open(store: store, key: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings)
    }

    /// Collects until nothing is left to do, the uploader taking note in between. Returns how much was deleted.
    @discardableResult
    func collect(_ vault: Vault) throws -> UInt64 {
        var deleted: UInt64 = 0
        for _ in 0..<6 {
            let report = try Collector(vault: vault, keysPerList: 7).run()
            deleted += report.deletedObjects
            if report.waiting.isEmpty, report.condemnedObjects == 0 { return deleted }
            let epoch = try vault.catalog().document.collectionEpoch
            try vault.heads(group: disk.id).update(epoch: disk.epoch) { $0.collectionEpoch = epoch }
        }
        Issue.record("a collection does not end")
        return deleted
    }

    /// Every listed point restores, nothing is damaged, nothing superfluous is left, and what may yet be named is there.
    func expectWhole(_ store: any ObjectStore, _ comment: String, isClean: Bool = true, readsPoints: Bool = true) throws {
        let vault = try Self.open(store)
        if readsPoints { try expectAllReadable(vault, disk, comment) }
        let report = try VaultCheck(vault: vault, readData: true, threads: 1).run()
        #expect(report.findings == [], "\(comment)")
        if isClean { #expect(report.orphans?.objects == 0, "\(comment): \(report.orphans?.examples ?? [])") }
        for key in unsettled { #expect(try store.head(key) != nil, "\(comment): \(key)") }
    }
}

@Suite struct CollectTests {
    @Test func whatNoPointNeedsGoes() throws {
        let world = try World(steps: 30)
        let vault = try World.open(world.store)
        let orphans = try #require(try VaultCheck(vault: vault, readData: false).run().orphans)
        #expect(orphans.objects > 10 && orphans.examples.count == 10)
        let before = Set(world.store.keys)
        #expect(try world.collect(vault) == orphans.objects)
        // Heads and catalogs came, garbage went.
        #expect(world.store.objectCount < before.count - Int(orphans.objects) + 8)
        let gone = before.subtracting(world.store.keys)
        for kind in ["chunks/", "maps/", "/segments/", "/manifests/", "/kept/"] { #expect(gone.contains { $0.contains(kind) }, "\(kind)") }
        try world.expectWhole(world.store, "collected")
        let again = try Collector(vault: vault).run()
        #expect(again.condemnedObjects == 0 && again.deletedObjects == 0 && again.waiting.isEmpty)
    }

    /// Promise K3: A collection deletes nothing that a listed point needs, killed at any request, beside uploaders and
    /// other collectors, and whatever LIST says.
    @Test(arguments: [false, true]) func killedAtAnyRequestItGoesOn(answerIsLost: Bool) throws {
        let world = try World()
        var number = 0
        var isFinished = false
        while !isFinished {
            number += 1
            let store = MemoryStore(copyOf: world.store)
            let interrupted = InterruptedStore(store)
            let vault = try World.open(interrupted)
            interrupted.interrupt(at: number, answerIsLost ? .diesAfter : .dies)
            do {
                try world.collect(vault)
                isFinished = interrupted.calls < number
            } catch is VaultError {}
            if number % 8 == 0 { try world.expectWhole(store, "killed at \(number)", isClean: false) }
            try world.collect(try World.open(store))
            try world.expectWhole(store, "restarted after \(number)", readsPoints: number % 4 == 1)
        }
        #expect(number > 100, "\(number)")
    }

    /// The head is what counts: before it nothing went, and what was made for it is garbage that is found.
    @Test(arguments: [false, true]) func retentionKilledAtAnyRequestGoesOn(answerIsLost: Bool) throws {
        let world = try World(steps: 12, unthinned: 8)
        func thin(_ vault: Vault) throws {
            let head = try #require(try vault.heads(group: world.disk.id).newest()).document
            let pruning = try Retention(vault: vault, thinning: quickThinning, epoch: head.collectionEpoch).pruning(of: head, try vault.catalog().document)
            try vault.heads(group: world.disk.id).update(epoch: world.disk.epoch) { pruning?.apply(to: &$0) }
        }
        var number = 0
        var isFinished = false
        while !isFinished {
            number += 1
            let store = MemoryStore(copyOf: world.store)
            let interrupted = InterruptedStore(store)
            let vault = try World.open(interrupted)
            interrupted.interrupt(at: number, answerIsLost ? .diesAfter : .dies)
            do {
                try thin(vault)
                isFinished = interrupted.calls < number
            } catch is VaultError {}
            try world.expectWhole(store, "killed at \(number)", isClean: false, readsPoints: number % 4 == 1)
            try thin(try World.open(store))
            try world.collect(try World.open(store))
            try world.expectWhole(store, "restarted after \(number)", readsPoints: number % 4 == 1)
        }
        #expect(number > 20, "\(number)")
    }

    @Test func twoCollectorsAtOnceDoNoHarm() throws {
        let world = try World()
        let calls = InterruptedStore(MemoryStore(copyOf: world.store))
        let counting = try World.open(calls)
        calls.interrupt(at: .max, .dies)
        try world.collect(counting)
        // The second one runs as a whole within each request of the first.
        for number in stride(from: 1, through: calls.calls, by: 3) {
            let store = MemoryStore(copyOf: world.store)
            let interrupted = InterruptedStore(store)
            let vault = try World.open(interrupted)
            let second = try World.open(store)
            let failure = Mutex<String?>(nil)
            nonisolated(unsafe) let world = world
            interrupted.interrupt(at: number, .runs { do { try world.collect(second) } catch { failure.withLock { $0 = "\(error)" } } })
            try world.collect(vault)
            #expect(failure.withLock { $0 } == nil, "at \(number)")
            try world.expectWhole(store, "second collector at \(number)")
        }
    }

    /// An uploader that writes, lets points go and takes note of the epoch, each within one request of the collector.
    @Test func anUploaderBesideItLosesNothing() throws {
        for number in stride(from: 2, through: 160, by: 9) {
            let world = try World(seed: UInt64(number), steps: 16)
            let interrupted = InterruptedStore(world.store)
            let vault = try World.open(interrupted)
            let failure = Mutex<String?>(nil)
            nonisolated(unsafe) let disk = world.disk
            interrupted.interrupt(at: number, .runs {
                do {
                    for _ in 0..<3 { try disk.step(records: 3, checkpoint: true) }
                    try disk.acknowledge()
                    _ = try disk.thin(quickThinning)
                    try disk.step(records: 2)
                } catch { failure.withLock { $0 = "\(error)" } }
            })
            // The sequence behind the newest is the uploader's own by now.
            do throws(VaultError) { try collectOnce(vault) } catch { Issue.record("at \(number): \(error)") }
            try world.disk.acknowledge()
            _ = try Collector(vault: try World.open(world.store)).run()
            #expect(failure.withLock { $0 } == nil, "at \(number)")
            try expectAllReadable(try World.open(world.store), world.disk, "uploader at \(number)")
            #expect(try VaultCheck(vault: World.open(world.store), readData: true, threads: 1).run().findings == [], "uploader at \(number)")
        }
    }

    private func collectOnce(_ vault: Vault) throws(VaultError) {
        for _ in 0..<2 { _ = try Collector(vault: vault, keysPerList: 7).run() }
    }

    @Test(arguments: 1...12) func aListThatLiesCostsSpaceOnly(seed: UInt64) throws {
        let world = try World(seed: seed)
        let meddled = MeddledStore(world.store)
        let numbers = Mutex(SeededNumbers(seed: seed))
        let known = world.store.keys
        meddled.meddle {
            $0.lists = { prefix, page in
                numbers.withLock { numbers in
                    // Some are missing, some were deleted long ago, some were never ours.
                    var objects = page.objects.filter { _ in Int.random(in: 0..<4, using: &numbers) > 0 }
                    objects += known.filter { $0.hasPrefix(prefix) && Int.random(in: 0..<3, using: &numbers) == 0 }.map { ListedObject(key: $0, sizeBytes: 1) }
                    objects += ["x", "zz/\(numbers.next()).1", "00000000000000000000"].map { ListedObject(key: prefix + $0, sizeBytes: 1) }
                    return ListPage(objects: objects.sorted { $0.key < $1.key }, isTruncated: false)
                }
            }
        }
        let vault = try World.open(meddled)
        for _ in 0..<3 {
            _ = try Collector(vault: vault, keysPerList: 7).run()
            try world.disk.acknowledge()
        }
        try world.expectWhole(world.store, "seed \(seed)", isClean: false)
    }

    @Test func nothingGoesBeforeEveryUploaderTookNote() throws {
        let world = try World()
        let vault = try World.open(world.store)
        let second = try ModelDisk(vault, name: "other", sizeBytes: 256 << 10, seed: 8)
        try second.replicateInitially()
        let first = try Collector(vault: vault).run()
        #expect(first.condemnedObjects > 0 && first.deletedObjects == 0 && first.waiting.map(\.name).sorted() == ["disk", "other"])
        try world.disk.acknowledge()
        let next = try Collector(vault: vault).run()
        #expect(next.deletedObjects == 0 && next.waiting.map(\.name) == ["other"] && next.waiting.first?.host == "test")
        // Its host is gone for good. Should it come back, it is fenced.
        try vault.release(writerOf: "other", host: "operator")
        #expect(try Collector(vault: vault).run().deletedObjects == first.condemnedObjects)
        #expect { try second.step(records: 1) } throws: { if case .fenced? = $0 as? VaultError { true } else { false } }
        try world.expectWhole(world.store, "retired")
        // Nor does the next collection wait for it, nor one after the catalog took another name for its group.
        for _ in 0..<6 { try world.disk.step(records: 4) }
        _ = try world.disk.thin(Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 1)]))
        #expect(try Collector(vault: vault).run().waiting.map(\.disk) == ["disk"])
        try world.disk.acknowledge()
        #expect(try Collector(vault: vault).run().waiting.isEmpty)
        // It takes the disk back when it is started again, and is waited for as before.
        #expect(try vault.heads(group: second.id).claim(host: "test") { _ in true }.document.collectionEpoch == vault.catalog().document.collectionEpoch)
        #expect(try vault.heads(group: second.id).newest()?.document.writer.isReleased == nil)
    }

    /// Content that was condemned and named by a head that had not taken note yet stays.
    @Test func whatIsNamedInTimeIsSpared() throws {
        let world = try World()
        let vault = try World.open(world.store)
        let late = VaultID.random()
        _ = try vault.register(disk: late, name: "late", sizeBytes: 1 << 20)
        let heads = vault.heads(group: late)
        let writer = try heads.claim(host: "late").document
        let content = [UInt8](repeating: 9, count: 1 << 20)
        let chunk = try content.withUnsafeBytes { bytes in
            let chunk = vault.chunkRef(of: bytes, epoch: writer.collectionEpoch)
            try vault.putChunk(bytes, as: chunk)
            return chunk
        }
        let map = InitialMap(vault: vault, sizeBytes: 1 << 20, epoch: writer.collectionEpoch)
        try map.append(chunk: 0, chunk)
        let root = try map.finish()
        #expect(try Collector(vault: vault).run().condemnedObjects > 2)
        let point = RecoveryPoint(sequence: 1, timeMicros: 1, kind: .crash, tag: nil)
        let state = try HistoryWriter(vault: vault, disk: late).start(lineage: .random(), sequence: 1, sizeBytes: 1 << 20, root: root, point: point)
        let epoch = try vault.catalog().document.collectionEpoch
        try heads.update(epoch: writer.writer.epoch) { head in
            head.set(state)
            head.collectionEpoch = epoch
        }
        try world.disk.acknowledge()
        let report = try Collector(vault: vault).run()
        #expect(report.sparedObjects >= 2 && report.deletedObjects > 0)
        #expect(try readState(vault, disk: late, at: 1) == content)
        try world.expectWhole(world.store, "spared")
    }

    @Test func damageStopsItBeforeAnythingGoes() throws {
        let world = try World()
        let vault = try World.open(world.store)
        let history = try #require(try DiskHistory.newest(vault, try vault.disk("disk")))
        let manifest = try #require(history.state.current?.full)
        try world.store.delete([ObjectPlace.manifest(disk: world.disk.id, lineage: world.disk.lineage, sequence: manifest.sequence).key])
        let before = world.store.keys
        #expect { try Collector(vault: vault).run() } throws: { ($0 as? VaultError)?.isIntegrityDamage == true }
        #expect(world.store.keys == before)
    }

    @Test func oldNumbersOfChainsGo() throws {
        let world = try World(steps: 3)
        let vault = try World.open(world.store)
        for _ in 0..<3_200 { try world.heads.update(epoch: world.disk.epoch) { $0.verdicts = $0.verdicts == nil ? [] : nil } }
        let newest = try #require(try world.heads.newest()).document.number
        let report = try Collector(vault: vault).run()
        #expect(report.deletedChainObjects == 2_048 - 2)
        #expect(try World.open(world.store).heads(group: world.disk.id).newest()?.document.number == newest)
        #expect(try VaultCheck(vault: World.open(world.store), readData: true).run().findings == [])
    }

    /// The heads of a group are lost, and whoever collects has never seen one: all its content looks like garbage.
    @Test func aGroupWhoseHeadsAreLostIsNotCollected() throws {
        let world = try World()
        let kept = MemoryStore(copyOf: world.store)
        try world.store.delete(world.store.keys.filter { $0.hasPrefix("heads/") })
        let before = world.store.keys
        let vault = try World.open(world.store)
        _ = try vault.register(disk: .random(), name: "registered-only", sizeBytes: 4_096)
        for _ in 0..<2 {
            #expect { _ = try Collector(vault: vault).run() } throws: { if case .missing(let object)? = $0 as? VaultError { object.hasPrefix("heads/") } else { false } }
        }
        #expect(world.store.keys.filter { !$0.hasPrefix("catalog/") } == before.filter { !$0.hasPrefix("catalog/") })
        for key in kept.keys where key.hasPrefix("heads/") { try world.store.put(key, try kept.get(key), ifAbsent: true) }
        try world.expectWhole(world.store, "heads put back", isClean: false)
    }

    /// What a disk that was forgotten left, because LIST did not show it, goes with the next collection.
    @Test func whatAForgottenDiskLeftGoes() throws {
        let world = try World()
        let vault = try World.open(world.store)
        let second = try ModelDisk(vault, name: "other", sizeBytes: 256 << 10, seed: 8)
        try second.replicateInitially()
        for _ in 0..<4 { try second.step(records: 3) }
        let kept = MemoryStore(copyOf: world.store)
        _ = try vault.forget("other")
        for key in kept.keys where key.contains("disks/\(second.id)") { try world.store.put(key, try kept.get(key), ifAbsent: true) }
        try world.collect(vault)
        #expect(world.store.keys.allSatisfy { !$0.contains(second.id.description) })
        try world.expectWhole(world.store, "forgotten")
    }
}
