// What a thief with every right but to remove locked versions does to a vault, undone; and locks, which see to it that there is something to undo.

import ObjectStore
import Testing
import Vault
import VaultFixtures

/// A vault in a bucket with versions: thinned out, collected, with points, an audit record and two keys.
private final class Bucket {
    let store: VersionedStore
    let disk: ModelDisk
    /// Of a host that saw all of it.
    let memory = HeadMemory(folder: nil)
    /// What there was before anything was destroyed.
    let before: [String: [UInt8]]
    var thief: SeededNumbers

    init(seed: UInt64, isConditional: Bool = true, lockSeconds: Int? = 86_400) throws {
        store = VersionedStore(isConditional: isConditional, defaultLockSeconds: lockSeconds)
        thief = SeededNumbers(seed: seed)
        let vault = try Vault.create(store: store, protection: .keyFile(TestVault.keyBytes), memory: memory, settings: TestVault.settings).vault
        disk = try ModelDisk(vault, sizeBytes: 256 << 10, seed: seed, limits: quickLimits())
        try disk.replicateInitially()
        for number in 0..<14 {
            try disk.step(records: 3)
            if number == 9 { try disk.thin(quickThinning) }
        }
        for _ in 0..<3 {
            _ = try Collector(vault: vault).run()
            try disk.acknowledge()
        }
        try disk.step(records: 3)
        // Condemned, and not deleted yet.
        try disk.thin(quickThinning)
        _ = try Collector(vault: vault).run()
        try vault.audit(event: "drill", actor: "test", document: ["unit": "disk"])
        before = store.visible
    }

    /// Somebody deletes and writes over everything, and puts things where the next objects would be looked for.
    func destroy() throws {
        let keys = before.keys.sorted()
        for key in keys {
            let junk = switch Int.random(in: 0..<4, using: &thief) {
            case 0: thief.bytes(40)
            case 1: Array(before[key]!.dropLast())
            case 2: before[keys.randomElement(using: &thief)!]! + [0]
            default: [UInt8]()
            }
            switch Int.random(in: 0..<6, using: &thief) {
            case 0: break
            case 1: try store.put(key, junk, ifAbsent: false)
            case 2:
                try store.put(key, junk, ifAbsent: false)
                try store.delete([key])
            case 3:
                try store.delete([key])
                try store.put(key, junk, ifAbsent: false)
            default: try store.delete([key])
            }
        }
        for chain in ["catalog/", "heads/\(disk.id)/", "audit/"] {
            let newest = keys.filter { $0.hasPrefix(chain) }.compactMap { UInt64($0.dropFirst(chain.count)) }.max()!
            let numbers: [UInt64] = [newest + 1, newest + 7, 3 * 1_024]
            for number in numbers { try store.put(chain + String(String(100_000_000_000_000_000_000 as UInt128 + UInt128(number)).dropFirst()), thief.bytes(100), ifAbsent: false) }
        }
        try store.put("keys/3", thief.bytes(10), ifAbsent: false)
        try store.put("chunks/../x", thief.bytes(10), ifAbsent: false)
    }

    func sound(_ memory: HeadMemory? = nil, locking: Bool = false) throws -> SoundVault {
        try SoundVault(store: store, key: .keyFile(TestVault.keyBytes), memory: memory ?? self.memory, locking: locking)
    }

    func undo(_ memory: HeadMemory? = nil) throws -> UndoReport {
        let undo = VaultUndo(try sound(memory), threads: 3)
        let report = try undo.plan()
        try undo.apply(report)
        return report
    }

    func open() throws -> Vault { try Vault.open(store: store, key: .keyFile(TestVault.keyBytes), memory: memory, settings: TestVault.settings) }

    var isWhole: Bool {
        do {
            return try VaultCheck(vault: try open(), readData: true, threads: 1).run().isClean
        } catch {
            return false
        }
    }

    /// All points restore, nothing is damaged, what is there is what was there, and the vault goes on.
    func expectBack(_ comment: String) throws {
        let vault = try open()
        try expectAllReadable(vault, disk, comment)
        #expect(try VaultCheck(vault: vault, readData: true, threads: 1).run().findings == [], "\(comment)")
        #expect(try vault.checkAudit().damage == [], "\(comment)")
        let now = store.visible
        for (key, bytes) in now where before[key] != nil && !["chunks/", "maps/", "disks/"].contains(where: key.hasPrefix) { #expect(bytes == before[key], "\(comment): \(key)") }
        #expect(try VaultUndo(try sound()).plan().steps == [], "\(comment)")
        try disk.step(records: 3)
        for _ in 0..<5 {
            _ = try Collector(vault: vault).run()
            try disk.acknowledge()
        }
        try expectAllReadable(try open(), disk, comment + ", collected")
        #expect(try VaultCheck(vault: vault, readData: false, threads: 1).run().orphans?.objects == 0, "\(comment)")
    }
}

@Suite struct UndoTests {
    /// Promise K7: As long as their sound versions are there, `vault undo` makes all points of the newest head read bit-exact again, whatever
    /// was deleted or written over, killed at any request; what a collection removed stays away.
    @Test(arguments: 1...8) func whatWasDestroyedComesBack(seed: UInt64) throws {
        // Also where the target lets everybody write over everything, and on a host that never saw the vault.
        let bucket = try Bucket(seed: seed, isConditional: seed % 2 == 0)
        try bucket.destroy()
        #expect(!bucket.isWhole)
        let report = try bucket.undo(seed % 3 == 0 ? HeadMemory(folder: nil) : nil)
        #expect(report.lost == [] && report.steps.count > 20)
        #expect(Set(report.steps.map(\.kind)) == [.undelete, .copy, .delete])
        try bucket.expectBack("seed \(seed)")
    }

    @Test func nothingIsDoneWhereNothingWas() throws {
        let bucket = try Bucket(seed: 3)
        let report = try bucket.undo()
        #expect(report.steps == [] && report.lost == [])
        #expect(bucket.store.visible == bucket.before)
    }

    @Test(arguments: [UInt64(1), 2]) func interruptedAnywhereTheNextRunGoesOn(seed: UInt64) throws {
        let bucket = try Bucket(seed: seed, isConditional: false)
        try bucket.destroy()
        var failures = 0
        for requests in stride(from: 0, to: 900, by: 60) {
            bucket.store.fail(after: requests + Int.random(in: 0..<60, using: &bucket.thief))
            do { _ = try bucket.undo() } catch { failures += 1 }
        }
        #expect(failures > 0)
        bucket.store.fail(after: .max)
        _ = try bucket.undo()
        try bucket.expectBack("seed \(seed)")
    }

    @Test func chunksAtASecondPlaceComeBackToo() throws {
        let (main, chunks) = (VersionedStore(isConditional: true), VersionedStore(isConditional: true))
        let store = SplitStore(main: main, chunks: chunks)
        let memory = HeadMemory(folder: nil)
        let vault = try Vault.create(store: store, protection: .keyFile(TestVault.keyBytes), memory: memory, settings: TestVault.settings).vault
        let disk = try ModelDisk(vault, sizeBytes: 3 << 20, seed: 1, limits: quickLimits())
        try disk.replicateInitially()
        try disk.step(records: 3)
        func sound() throws -> SoundVault { try SoundVault(store: store, key: .keyFile(TestVault.keyBytes), memory: memory, locking: true) }
        #expect(try VaultLock(try sound(), spanSeconds: 86_400 * 3, extends: true).run().extendedObjects == UInt64(main.visible.count + chunks.visible.count))
        for place in [main, chunks] { try place.delete(place.visible.keys.sorted()) }
        let undo = VaultUndo(try sound())
        try undo.apply(try undo.plan())
        try expectAllReadable(vault, disk)
        #expect(chunks.visible.count > 2 && chunks.visible.keys.contains("chunks/farshore.json"))
    }

    @Test func whatACollectionOrAPersonRemovedStaysAway() throws {
        let bucket = try Bucket(seed: 5)
        let vault = try bucket.open()
        let added = try vault.addKey(.keyFile([UInt8](repeating: 9, count: 32)), label: "second")
        try bucket.store.delete(["keys/\(added)"])
        let collected = bucket.store.deletedKeys.filter { !$0.hasPrefix("keys/") }
        #expect(collected.count > 5)
        try bucket.destroy()
        _ = try bucket.undo()
        #expect(bucket.store.visible["keys/\(added)"] == nil && bucket.store.visible["keys/1"] != nil)
        #expect(collected.isDisjoint(with: bucket.store.visible.keys))
    }

    @Test func aHeadThatIsGoneForGoodIsTold() throws {
        let bucket = try Bucket(seed: 6)
        let newest = try #require(bucket.before.keys.filter { $0.hasPrefix("heads/") }.max())
        bucket.store.destroyNewest(newest)
        #expect { _ = try bucket.undo() } throws: { "\($0)".contains("this host has seen") }
        // Data that is gone is named; the rest comes back all the same.
        let other = try Bucket(seed: 7)
        try other.destroy()
        for (key, bytes) in other.before where key.hasPrefix("chunks/") {
            try other.store.put(key, [1], ifAbsent: false)
            other.store.destroy(key, bytes)
        }
        let lost = try other.undo().lost
        let damaged = try VaultCheck(vault: try other.open(), readData: true, threads: 1).run().findings.map(\.object)
        #expect(damaged.count > 0 && Set(lost.map(\.description)) == Set(damaged.map { VaultError.missing(object: $0).description }))
    }
}

@Suite struct LockTests {
    private func nowSeconds() -> Int { Int(Vault.nowMicros() / 1_000_000) }

    private func lock(_ bucket: Bucket, days: Int, extends: Bool = true) throws -> LockReport {
        try VaultLock(try bucket.sound(locking: true), spanSeconds: days * 86_400, extends: extends, threads: 3).run()
    }

    /// Promise K6: In a bucket with object lock, everything that points need is locked for the time given when `vault lock` ends, also
    /// what was deleted or written over, and no lock of anything else was extended.
    @Test func whatPointsNeedStaysLockedAndNothingElse() throws {
        let bucket = try Bucket(seed: 1)
        let orphan = "maps/" + String(repeating: "ab", count: 32)
        try bucket.store.put(orphan, [1], ifAbsent: false)
        let report = try lock(bucket, days: 15)
        #expect(report.isWhole && report.extendedObjects == report.objects && report.objects > 40)
        let short = bucket.store.visible.keys.filter { bucket.store.lockEnd(of: $0)! < nowSeconds() + 15 * 86_400 }
        // What is condemned, and left over: no point needs it.
        let orphans = try #require(try VaultCheck(vault: try bucket.open(), readData: false, threads: 1).run().orphans)
        #expect(UInt64(short.count) == orphans.objects && short.contains(orphan) && short.count > 5)
        #expect(UInt64(bucket.store.visible.count - short.count) == report.objects)
        // Once more, nothing is left to do; and none is touched again until a quarter of the time is over.
        #expect(try lock(bucket, days: 15).extendedObjects == 0)
        #expect(try lock(bucket, days: 18).extendedObjects == 0)
        #expect(try lock(bucket, days: 19, extends: false).shortObjects == report.objects)
        #expect(try lock(bucket, days: 19).extendedObjects == report.objects)
    }

    @Test(arguments: [UInt64(2), 3, 4]) func soundVersionsAreLockedWhateverLiesOnThem(seed: UInt64) throws {
        let bucket = try Bucket(seed: seed, isConditional: false)
        let whole = try lock(bucket, days: 15)
        try bucket.destroy()
        let report = try lock(bucket, days: 30)
        #expect(report.hiddenObjects > 20 && report.missingObjects == 0 && report.damage == [])
        #expect(report.objects == whole.objects)
        _ = try bucket.undo()
        try bucket.expectBack("seed \(seed)")
    }

    @Test func aBucketThatLocksNothingIsRefused() throws {
        let bucket = try Bucket(seed: 1, lockSeconds: nil)
        #expect { _ = try lock(bucket, days: 1) } throws: { "\($0)".contains("made with object lock") }
        let plain = try TestVault()
        #expect { _ = try SoundVault(store: plain.store, key: plain.key, memory: HeadMemory(folder: nil), locking: false) } throws: { "\($0)".contains("keeps no versions") }
    }

    @Test func lookingChangesNothing() throws {
        let bucket = try Bucket(seed: 1)
        let looked = try lock(bucket, days: 2, extends: false)
        #expect(looked.shortObjects == looked.objects && looked.unlockedObjects == 0 && looked.extendedObjects == 0 && bucket.store.lockRequests == 0)
    }
}
