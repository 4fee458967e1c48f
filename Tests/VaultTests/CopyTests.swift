// A vault kept at a second target: whole at every moment, gone on with after every kill, beside its source's retention and collection.

import ObjectStore
import Synchronization
import Testing
import Vault
import VaultFixtures

/// A vault in memory with a disk, and a place for its copy.
private final class Pair {
    let store = MemoryStore()
    let place = MemoryStore()
    let memory = HeadMemory(folder: nil)
    let vault: Vault
    let disk: ModelDisk

    init(seed: UInt64 = 1, steps: Int = 12, sizeBytes: Int = 3 << 20) throws {
        vault = try Vault.create(store: store, protection: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        disk = try ModelDisk(vault, sizeBytes: sizeBytes, seed: seed, limits: quickLimits())
        try disk.replicateInitially()
        try go(steps)
    }

    func go(_ steps: Int) throws {
        for number in 0..<steps {
            try disk.step(records: 3)
            if number % 5 == 4 { _ = try disk.thin(quickThinning) }
        }
    }

    func collect() throws {
        for _ in 0..<3 {
            _ = try Collector(vault: vault, keysPerList: 7).run()
            try disk.acknowledge()
        }
    }

    func copier(from: (any ObjectStore)? = nil, to: (any ObjectStore)? = nil, memory: HeadMemory? = nil) throws -> VaultCopy {
        let memory = memory ?? self.memory
        return try VaultCopy(of: Self.open(from ?? store), at: to ?? place, begins: true) { _ in memory }
    }

    static func open(_ store: any ObjectStore, memory: HeadMemory = HeadMemory(folder: nil)) throws -> Vault {
        try Vault.open(store: store, key: .keyFile(TestVault.keyBytes), memory: memory, settings: TestVault.settings)
    }

    func expectWhole(_ comment: String = "", isInterrupted: Bool = false) throws {
        let vault = try Self.open(place)
        try expectAllReadable(vault, disk, comment)
        // Where putting a chain's newest objects was interrupted, older ones are not there yet.
        let gaps = isInterrupted ? ["heads/", "catalog/"] : []
        let findings = try VaultCheck(vault: vault, readData: true, threads: 1).run().findings.filter { finding in !gaps.contains { finding.object.hasPrefix($0) } }
        #expect(findings == [], "\(comment)")
    }
}

/// Of the heads and of the catalogs.
private func newest(_ store: MemoryStore) -> [String] {
    ["heads/", "catalog/"].compactMap { prefix in store.keys.filter { $0.hasPrefix(prefix) }.max() }
}

private func isRefused(_ error: any Error, _ words: String) -> Bool { (error as? VaultError)?.description.contains(words) ?? false }

@Suite struct CopyTests {
    /// Promise Y1: A point is listed in a copy of a vault only when everything it needs was verified there, and it reads bit-exact.
    @Test func everyPointOfTheSourceReadsFromTheCopy() throws {
        let pair = try Pair()
        let copier = try pair.copier()
        let first = try copier.run()
        try pair.expectWhole()
        // Nothing but what points need, the chains and the mark.
        #expect(first.presentObjects == 0 && first.publishedChains == 2)
        #expect(pair.place.keys.allSatisfy { pair.store.keys.contains($0) || $0 == "copy.json" })
        // With what it remembers, and in a new process: neither looks for what is there.
        for memory in [pair.memory, HeadMemory(folder: nil)] {
            try pair.disk.step(records: 3)
            pair.store.resetRequests()
            pair.place.resetRequests()
            let report = try pair.copier(memory: memory).run()
            let lists = pair.place.requests.lists
            try pair.expectWhole()
            if memory === pair.memory {
                #expect(report.sentObjects < 8 && report.presentObjects < 3 && report.publishedChains == 1, "\(report)")
                #expect(lists == 0)
            } else {
                #expect(report.sentObjects < 8 && report.presentObjects > 10, "\(report)")
            }
        }
        try pair.go(7)
        _ = try copier.run()
        try pair.expectWhole("the first process again")
        pair.store.resetRequests()
        pair.place.resetRequests()
        #expect(try copier.run() == CopyReport())
        print("a round without news: \(pair.store.requests.all) requests to the source, \(pair.place.requests.all) to the copy")
        #expect(pair.store.requests.lists == 0 && pair.place.requests.lists == 0 && pair.store.requests.all + pair.place.requests.all < 36)
    }

    /// Promise Y2: A copy that is killed at any request is gone on from, beside retention and collection of its source, and no
    /// object is sent again that was answered.
    @Test(arguments: [false, true]) func killedAtAnyRequest(remembers: Bool) throws {
        let pair = try Pair(steps: 6, sizeBytes: 2 << 20)
        let counted = MeddledStore(pair.place)
        let memory = HeadMemory(folder: nil)
        var kills = 0
        for at in stride(from: 1, to: 2_000, by: 2) {
            let dying = InterruptedStore(counted)
            dying.interrupt(at: at, at % 2 == 0 ? .dies : .diesAfter)
            do {
                _ = try pair.copier(to: dying, memory: remembers ? memory : HeadMemory(folder: nil)).run()
                break
            } catch VaultError.store(let error) {
                #expect(error.code == .unreachable)
                kills += 1
            }
            // What can be seen of it is whole.
            if pair.place.keys.contains(where: { $0.hasPrefix("catalog/") }) { try pair.expectWhole("killed at request \(at)", isInterrupted: true) }
        }
        _ = try pair.copier(to: counted, memory: remembers ? memory : HeadMemory(folder: nil)).run()
        try pair.expectWhole()
        print("killed \(kills) times")
        #expect(kills > 20)
        let data = counted.counts.puts.filter { $0.hasPrefix("chunks/") || $0.hasPrefix("maps/") || $0.hasPrefix("disks/") }
        #expect(Set(data).count == data.count, "sent twice: \(data.count) PUTs of \(Set(data).count) objects")
    }

    @Test func theSourceGoesOnMeanwhile() throws {
        for at in stride(from: 3, to: 66, by: 7) {
            // Used by one thread at a time: this one waits for the copier, which waits for the interruption.
            nonisolated(unsafe) let pair = try Pair(seed: UInt64(at), steps: 8, sizeBytes: 1 << 20)
            _ = try pair.copier().run()
            try pair.go(6)
            let source = InterruptedStore(pair.store)
            let copier = try pair.copier(from: source)
            let failed = Mutex(false)
            source.interrupt(at: at, .runs {
                do {
                    try pair.go(10)
                    try pair.collect()
                } catch { failed.withLock { $0 = true } }
            })
            for _ in 0..<3 { _ = try copier.run() }
            #expect(!failed.withLock { $0 } && source.calls > at)
            try pair.expectWhole("at request \(at)")
        }
    }

    @Test func whatTheSourceCollectedGoes() throws {
        let pair = try Pair(steps: 10)
        _ = try pair.copier().run()
        for _ in 0..<4 {
            try pair.go(5)
            _ = try pair.copier().run()
        }
        try pair.collect()
        // What an interrupted run left, and what the source may still name.
        _ = try pair.copier().run()
        let before = pair.place.objectCount
        let report = try pair.copier().runAndPrune()
        #expect(report.removedObjects > 10 && pair.place.objectCount == before - Int(report.removedObjects))
        try pair.expectWhole()
        #expect(try VaultCheck(vault: Pair.open(pair.place), readData: false).run().orphans?.objects ?? 0 == 0)
        #expect(try pair.copier().runAndPrune().removedObjects == 0)
        try pair.go(4)
        _ = try pair.copier().run()
        try pair.expectWhole("after it")
    }

    /// Promise Y3: Nothing but `vault copy` writes to a copy until it is adopted, and from then on copying into it is refused.
    @Test func aCopyHasOneWriter() throws {
        let pair = try Pair()
        let copier = try pair.copier()
        #expect { try Pair.open(pair.place).adopt() } throws: { isRefused($0, "not complete") }
        _ = try copier.run()
        let copy = try Pair.open(pair.place)
        let only = "only `farshore vault copy` writes"
        #expect { _ = try copy.heads(group: pair.disk.id).claim(host: "other") } throws: { isRefused($0, only) }
        #expect { _ = try Collector(vault: copy).run() } throws: { isRefused($0, only) }
        #expect { _ = try copy.forget("disk") } throws: { isRefused($0, only) }
        #expect { _ = try copy.pin(try copy.disk("disk"), sequence: pair.disk.sequence, name: "p", reason: "", spanMicros: nil) } throws: { isRefused($0, only) }
        try copy.adopt()
        // What the source's host has seen of the vault holds for the copy: there it goes on.
        let epoch = try copy.heads(group: pair.disk.id).claim(host: "other").document.writer.epoch
        #expect(epoch == pair.disk.epoch + 1)
        try pair.disk.step(records: 2)
        #expect { _ = try copier.run() } throws: { if case .fenced? = $0 as? VaultError { true } else { false } }
        #expect { _ = try pair.copier() } throws: { if case .fenced? = $0 as? VaultError { true } else { false } }
    }

    /// A copy whose newest state lacks an object is none to go on with: it stays a copy, and what is missing is named, with the points it takes. What
    /// only older points lack is told, and must not keep anybody from going on where the vault is lost.
    @Test func aCopyThatLacksAnObjectIsNotAdopted() throws {
        let pair = try Pair(steps: 6, sizeBytes: 2 << 20)
        _ = try pair.copier().run()
        let copy = try Pair.open(pair.place)
        let mark = try pair.place.get("copy.json")
        let history = try #require(try DiskHistory.newest(copy, try copy.disk("disk")))
        let newest = try #require(try history.points().last)
        var (refused, told) = (0, 0)
        for object in pair.place.keys where object.contains("chunks/") || object.contains("/segments/") || object.hasPrefix("maps/") || object.contains("/manifests/") {
            let bytes = try pair.place.get(object)
            try pair.place.delete([object])
            do {
                let older = try copy.adopt()
                #expect(older.allSatisfy { !$0.points.contains(newest) }, "\(object): \(older)")
                told += older.isEmpty ? 0 : 1
                try pair.place.put("copy.json", mark, ifAbsent: false)
            } catch {
                let text = (error as? VaultError)?.description ?? ""
                #expect(text.contains("stays a copy: 1 object damaged or missing (\(object): it is missing), needed by disk (") && text.contains("point"), "\(text)")
                #expect(pair.place.keys.contains("copy.json"))
                refused += 1
            }
            try pair.place.put(object, bytes, ifAbsent: false)
        }
        #expect(refused > 3 && told > 0, "\(refused) refused, \(told) told")
        #expect(try copy.adopt().isEmpty && !pair.place.keys.contains("copy.json"))
    }

    private struct Note: Codable { let text: String }

    /// The audit chain comes along as a whole, killed at any request; who has seen the vault's checks the copy's, and it goes on when the copy is adopted.
    @Test func theAuditChainComesAlong() throws {
        let pair = try Pair(steps: 2, sizeBytes: 1 << 20)
        func record(_ numbers: ClosedRange<Int>) throws { for number in numbers { try pair.vault.audit(event: "verification", actor: "a", document: Note(text: "\(number)")) } }
        try record(1...5)
        var kills = 0
        for at in 1...400 {
            let dying = InterruptedStore(pair.place)
            dying.interrupt(at: at, at % 2 == 0 ? .dies : .diesAfter)
            guard (try? pair.copier(to: dying).run()) == nil else { break }
            kills += 1
            guard pair.place.keys.contains(where: { $0.hasPrefix("catalog/") }) else { continue }
            // An earlier state of the chain, without gaps.
            #expect(try Pair.open(pair.place).checkAudit().damage.isEmpty, "killed at request \(at)")
        }
        #expect(kills > 5)
        let seen = HeadMemory(folder: nil)
        let records = try Pair.open(pair.store, memory: seen).auditRecords()
        for seen in [seen, HeadMemory(folder: nil)] {
            let copy = try Pair.open(pair.place, memory: seen)
            #expect(try copy.checkAudit() == AuditCheck(records: 5, damage: []) && copy.auditRecords() == records)
            #expect { try copy.audit(event: "verification", actor: "a", document: Note(text: "")) } throws: { isRefused($0, "only `farshore vault copy` writes") }
        }
        try record(6...7)
        let report = try pair.copier().run()
        #expect(report.publishedChains == 1 && report.sentObjects == 0)
        try pair.collect()
        _ = try pair.copier(memory: HeadMemory(folder: nil)).runAndPrune()
        let copy = try Pair.open(pair.place)
        #expect(try copy.checkAudit() == AuditCheck(records: 7, damage: []))
        // A record that is damaged in the source is named, and the points come all the same.
        let third = ObjectPlace.audit(8).key
        try record(8...8)
        var bytes = try pair.store.get(third)
        bytes[bytes.count / 2] ^= 1
        try pair.store.delete([third])
        try pair.store.put(third, bytes, ifAbsent: false)
        try pair.go(1)
        #expect { _ = try pair.copier().run() } throws: { isRefused($0, third) }
        try pair.expectWhole()
        try copy.adopt()
        #expect(try copy.audit(event: "verification", actor: "b", document: Note(text: "")).number == 8)
        #expect(try copy.checkAudit() == AuditCheck(records: 8, damage: []))
    }

    /// Adopted and gone on with by another host while a copier is in the middle of its round: nothing of that is overwritten or followed by more.
    @Test func aCopyThatIsAdoptedDuringARoundIsNotWrittenTo() throws {
        var rounds = 0
        for at in stride(from: 9, to: 90, by: 4) {
            nonisolated(unsafe) let pair = try Pair(seed: UInt64(at), steps: 4, sizeBytes: 1 << 20)
            _ = try pair.copier().run()
            try pair.go(3)
            let source = InterruptedStore(pair.store)
            let copier = try pair.copier(from: source)
            let after = Mutex<[String]>([])
            source.interrupt(at: at, .runs {
                do {
                    let copy = try Pair.open(pair.place)
                    try copy.adopt()
                    _ = try copy.heads(group: pair.disk.id).claim(host: "other")
                    let newest = newest(pair.place)
                    after.withLock { $0 = newest }
                } catch { Issue.record(error) }
            })
            let result = Result { try copier.run() }
            guard source.calls >= at else { break }
            #expect(newest(pair.place) == after.withLock { $0 }, "at request \(at)")
            // Adopted after the last put, the round was a whole one.
            if case .failure(let error) = result, case .fenced? = error as? VaultError { rounds += 1 }
        }
        #expect(rounds > 2)
    }

    /// Adopted while a copier looks for what is superfluous: what the new writer put, no head that was looked at leads to.
    @Test func aCopyThatIsAdoptedDuringAPruneLosesNothing() throws {
        nonisolated(unsafe) let pair = try Pair()
        _ = try pair.copier().run()
        try pair.go(12)
        try pair.collect()
        let place = MeddledStore(pair.place)
        let after = Mutex<[String]>([])
        place.meddle { meddling in
            meddling.beforeList = { prefix in
                guard prefix == "chunks/", after.withLock({ $0.isEmpty }) else { return }
                do {
                    let copy = try Pair.open(pair.place)
                    try copy.adopt()
                    let written = [UInt8](repeating: 77, count: 4_096)
                    try written.withUnsafeBytes { bytes in _ = try copy.putChunk(bytes, as: copy.chunkRef(of: bytes, epoch: 1)) }
                    after.withLock { $0 = pair.place.keys }
                } catch { Issue.record(error) }
            }
        }
        #expect { _ = try pair.copier(to: place).runAndPrune() } throws: { if case .fenced? = $0 as? VaultError { true } else { false } }
        #expect(pair.place.keys == after.withLock { $0 })
        try expectAllReadable(Pair.open(pair.place), pair.disk, "adopted")
    }

    @Test func whoWritesToACopyInSpiteOfThatIsNotOverwritten() throws {
        let pair = try Pair()
        _ = try pair.copier().run()
        let mark = try pair.place.get("copy.json")
        try pair.place.delete(["copy.json"])
        _ = try Pair.open(pair.place).heads(group: pair.disk.id).claim(host: "other")
        try pair.place.put("copy.json", mark, ifAbsent: false)
        let fenced = { (error: any Error) in if case .fenced? = error as? VaultError { true } else { false } }
        #expect { _ = try pair.copier().run() } throws: { fenced($0) }
        // The source has a head of that number too, and later ones.
        try pair.go(3)
        let before = pair.place.keys
        for memory in [pair.memory, HeadMemory(folder: nil)] { #expect { _ = try pair.copier(memory: memory).run() } throws: { fenced($0) } }
        #expect(pair.place.keys.filter { $0.hasPrefix("heads/") || $0.hasPrefix("catalog/") } == before.filter { $0.hasPrefix("heads/") || $0.hasPrefix("catalog/") })
    }

    @Test func otherPlacesAndHalfVaultsAreRefusedByName() throws {
        let pair = try Pair(steps: 3)
        let other = try Pair(seed: 2, steps: 1)
        #expect { _ = try pair.copier(to: other.store) } throws: { isRefused($0, other.vault.id.description) }
        // An empty place is a copy's only when that is said.
        let empty = MemoryStore()
        #expect { _ = try VaultCopy(of: pair.vault, at: empty, begins: false) { _ in HeadMemory(folder: nil) } } throws: { isRefused($0, "there is no copy") }
        #expect(empty.keys.isEmpty)
        let full = MemoryStore()
        try full.put("photo.jpg", [1], ifAbsent: false)
        #expect { _ = try pair.copier(to: full) } throws: { isRefused($0, "photo.jpg") }
        // A directory that came only in part: each kind of object that lacks or is damaged stops it by name, and no head appears.
        for prefix in ["chunks/", "maps/", "disks/", "heads/", "catalog/"] {
            for isDamaged in [false, true] {
                let half = MemoryStore(copyOf: pair.store)
                let key = try #require(half.keys.last { $0.hasPrefix(prefix) })
                var bytes = try half.get(key)
                bytes[bytes.count / 2] ^= 1
                try half.delete([key])
                if isDamaged { try half.put(key, bytes, ifAbsent: false) }
                let place = MemoryStore()
                do {
                    _ = try pair.copier(from: half, to: place, memory: HeadMemory(folder: nil)).run()
                    // A chain that ends earlier is an earlier state, and whole.
                    #expect(!isDamaged && (prefix == "heads/" || prefix == "catalog/"), "\(key)")
                } catch let error as VaultError {
                    #expect(error.isIntegrityDamage && error.description.contains(key), "\(key): \(error)")
                    #expect(!place.keys.contains { $0.hasPrefix("catalog/") })
                }
            }
        }
        // A key object that was lost would leave a copy that nobody opens.
        #expect(pair.store.keys.contains("keys/1"))
    }

    @Test func aLongChainIsFoundInTheCopyAsInTheSource() throws {
        let pair = try Pair(steps: 2, sizeBytes: 1 << 20)
        let heads = pair.vault.heads(group: pair.disk.id)
        for number in 0..<2_300 { try heads.update(epoch: pair.disk.epoch) { $0.verdicts = number % 2 == 0 ? [] : nil } }
        let newest = try #require(try heads.newest()).document.number
        #expect(newest > 2_300)
        // Killed in the middle of the chain, old and new are each found by who remembers nothing.
        let dying = InterruptedStore(pair.place)
        dying.interrupt(at: 1_500, .dies)
        #expect { _ = try pair.copier(to: dying).run() } throws: { if case .store? = $0 as? VaultError { true } else { false } }
        _ = try pair.copier().run()
        let copy = try Pair.open(pair.place)
        #expect(try copy.heads(group: pair.disk.id).newest()?.document.number == newest)
        #expect(pair.place.keys.count { $0.hasPrefix("heads/") } == Int(newest) - 1_023)
        try pair.expectWhole()
        #expect(try pair.copier().run() == CopyReport())
    }

    @Test func aNewKeyComesAlong() throws {
        let pair = try Pair(steps: 4)
        _ = try pair.copier().run()
        let next = [UInt8](repeating: 9, count: 32)
        _ = try pair.vault.rotateKeys(to: .keyFile(next), label: "next")
        try pair.go(3)
        _ = try VaultCopy(of: Vault.open(store: pair.store, key: .keyFile(next), memory: HeadMemory(folder: nil), settings: TestVault.settings), at: pair.place, begins: false) { _ in pair.memory }.run()
        try expectAllReadable(Vault.open(store: pair.place, key: .keyFile(next), memory: HeadMemory(folder: nil), settings: TestVault.settings), pair.disk)
    }

    /// The target strikes while it is copied to: afterwards everything is there, as from any uploader.
    @Test(arguments: [UInt64](1...2)) func aLyingTarget(seed: UInt64) throws {
        let pair = try Pair(seed: seed, steps: 4, sizeBytes: 1 << 20)
        let faulty = FaultyTarget(pair.place, seed: seed, features: StoreFeatures(conditionalPut: true, checksumTrusted: true))
        for fault in TargetFault.allCases where fault != .hang {
            try pair.disk.step(records: 2)
            faulty.set([fault])
            for _ in 0..<3 { do { _ = try pair.copier(to: faulty).run() } catch is VaultError {} }
            faulty.set([])
            _ = try pair.copier(to: faulty).run()
            try pair.expectWhole("\(fault)")
        }
    }
}
