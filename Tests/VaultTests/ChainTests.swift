// Numbered chains: the newest is found over gaps, losers of a race are told, rollback and forks are refused.

import BlockIO
import Foundation
import ObjectStore
import Synchronization
import Testing
import Vault
import VaultFixtures

@Suite struct ChainTests {
    private let group = VaultID.random()

    private func bump(_ heads: HeadChain, _ epoch: UInt64, _ name: String) throws {
        try heads.update(epoch: epoch) { $0.pins = [Head.Pin(name: name, disk: group, sequence: 1, timeMicros: 1, reason: "", untilMicros: nil)] }
    }

    @Test func theNewestIsFoundBehindCollectedNumbers() throws {
        let test = try TestVault(encrypted: false)
        let heads = test.vault.heads(group: group)
        let epoch = try heads.claim(host: "a").document.writer.epoch
        for number in 0..<2_600 { try bump(heads, epoch, "\(number)") }
        // What collection may leave: anchors, and all from 1,024 below the newest anchor (2,048) on.
        for number in 1..<1_024 { try FileManager.default.removeItem(atPath: test.file(ObjectPlace.head(group: group, UInt64(number)).key)) }
        let fresh = try test.reopened().heads(group: group)
        #expect(try fresh.newest()?.document.number == 2_601)
        #expect(try heads.newest()?.document.number == 2_601)
    }

    /// A host that never saw the vault must not take a lost object for the end of the chain.
    @Test(arguments: [1, 2, 3, 11, 1_024]) func aLostObjectHidesNoLaterOne(lost: UInt64) throws {
        let test = try TestVault(encrypted: false)
        let heads = test.vault.heads(group: group)
        let epoch = try heads.claim(host: "a").document.writer.epoch
        for number in 0..<(lost < 1_000 ? 19 : 1_100) { try bump(heads, epoch, "\(number)") }
        let newest = try heads.newest()?.document.number
        try FileManager.default.removeItem(atPath: test.file(ObjectPlace.head(group: group, lost).key))
        #expect(try test.reopened().heads(group: group).newest()?.document.number == newest)
    }

    @Test func aKnownNumberCostsFewRequests() throws {
        var meddled: MeddledStore!
        let test = try TestVault(encrypted: true) { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        let heads = test.vault.heads(group: group)
        let epoch = try heads.claim(host: "a").document.writer.epoch
        for number in 0..<40 { try bump(heads, epoch, "\(number)") }
        meddled.resetCounts()
        _ = try heads.newest()
        let counts = meddled.counts
        #expect(counts.heads <= 4 && counts.gets == 1 && counts.lists == 0, "\(counts.heads) HEAD, \(counts.gets) GET")
    }

    @Test func aChainNeverSeenCostsFewRequests() throws {
        var meddled: MeddledStore!
        let test = try TestVault(encrypted: true) { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        let heads = test.vault.heads(group: group)
        let epoch = try heads.claim(host: "a").document.writer.epoch
        for number in 0..<700 { try bump(heads, epoch, "\(number)") }
        let fresh = try test.reopened().heads(group: group)
        meddled.resetCounts()
        #expect(try fresh.newest()?.document.number == 701)
        let counts = meddled.counts
        #expect(counts.heads <= 4 && counts.gets == 1 && counts.lists == 1, "\(counts.heads) HEAD, \(counts.gets) GET, \(counts.lists) LIST")
        // A LIST that names what is not there, or nothing: the numbers themselves are looked for.
        for page in [ListPage(objects: [], isTruncated: false), ListPage(objects: [ListedObject(key: ObjectPlace.head(group: group, 300).key, sizeBytes: 1)], isTruncated: false)] {
            meddled.meddle { $0.lists = { _, _ in page } }
            #expect(try test.reopened().heads(group: group).newest()?.document.number == 701)
        }
    }

    @Test(arguments: [true, false]) func theSecondUploaderFencesTheFirst(conditional: Bool) throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        meddled.meddle { $0.conditionalPut = conditional }
        let first = test.vault.heads(group: group)
        let epoch = try first.claim(host: "first").document.writer.epoch
        try bump(first, epoch, "a")
        let second = try test.reopened().heads(group: group)
        let newer = try second.claim(host: "second").document.writer.epoch
        #expect(newer == epoch + 1)
        #expect {
            try bump(first, epoch, "b")
        } throws: { error in
            if case VaultError.fenced(let text) = error { text.contains("second") } else { false }
        }
        try bump(second, newer, "c")
        #expect(try first.newest()?.document.pins?.first?.name == "c")
    }

    /// Between reading the newest head and publishing the next, another client publishes one.
    @Test(arguments: [true, false]) func aLostRaceIsRepeatedOnTheWinner(conditional: Bool) throws {
        var meddled: MeddledStore!
        let test = try TestVault(encrypted: false) { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        let vault = test.vault
        let rival = try Vault.open(store: DirectoryStore(root: test.directory, create: false), key: .none, memory: HeadMemory(folder: nil))
        meddled.meddle { $0.conditionalPut = conditional }
        nonisolated(unsafe) var races = 2
        meddled.meddle { meddling in
            meddling.beforePut = { key in
                guard key.hasPrefix("catalog/"), races > 0 else { return }
                races -= 1
                _ = try? rival.register(disk: .random(), name: "rival\(races)", sizeBytes: 512)
            }
        }
        _ = try? vault.register(disk: .random(), name: "mine", sizeBytes: 512)
        if conditional {
            #expect(Set(try rival.catalog().document.disks.map(\.name)) == ["rival1", "rival0", "mine"])
        } else {
            // Without conditional PUT the rival's object, put between our HEAD and our PUT, is lost: it is told so.
            #expect(throws: VaultError.self) { try rival.catalog() }
            #expect(try test.reopened().catalog().document.disks.map(\.name) == ["mine"])
        }
        #expect(try VaultCheck(vault: test.reopened(), readData: true).run().isClean)
    }

    /// As many test failovers pin their points.
    @Test func twentyHostsChangeOneChainAtOnce() throws {
        let store = MemoryStore()
        let vault = try Vault.create(store: store, protection: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        _ = try vault.heads(group: group).claim(host: "a")
        store.setLatency(microseconds: 2_000)
        let failures = Mutex<[String]>([])
        forEachInParallel(Array(0..<20), threads: 20) { [group] number in
            do {
                let own = try Vault.open(store: store, key: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings)
                try own.heads(group: group).edit { head in
                    head.pins = (head.pins ?? []) + [Head.Pin(name: "\(number)", disk: group, sequence: 1, timeMicros: 1, reason: "", untilMicros: nil)]
                }
            } catch { failures.withLock { $0.append("\(error)") } }
        }
        #expect(failures.withLock { $0 } == [])
        #expect(Set(try vault.heads(group: group).newest()?.document.pins?.map(\.name) ?? []) == Set((0..<20).map { "\($0)" }))
    }

    /// A program that is slow must not put what it saw in place of what another has seen since.
    @Test func whatSeveralProgramsRememberNeverGoesBack() throws {
        let folder = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let memories = (0..<4).map { _ in HeadMemory(folder: folder) }
        for round in 0..<40 {
            let first = UInt64(round * memories.count) + 1
            forEachInParallel(Array(memories.indices), threads: memories.count) { place in
                let number = first + UInt64(place)
                let hash = Hash256(bytes: Digest.sha256(Array("\(number)".utf8)))!
                let previous = Hash256(bytes: Digest.sha256(Array("\(number - 1)".utf8)))!
                // Who comes late is told so.
                try? memories[place].accept("chain", number: number, hash: hash, previous: previous)
            }
            #expect(try HeadMemory(folder: folder).newest("chain")?.number == first + UInt64(memories.count) - 1)
        }
    }

    /// Another program of this host goes on from what this one has put, before this one could note that.
    @Test func aSuccessorThatCameAtOnceIsNoRollback() throws {
        let host = try MeddledHost(group)
        let own = try host.program()
        let rival = try host.program(DirectoryStore(root: host.test.directory, create: false))
        let epoch = try own.claim(host: "a").document.writer.epoch
        let isOver = Mutex(false)
        host.meddled.meddle { meddling in
            meddling.fails = { key in
                guard key.hasPrefix("heads/"), !isOver.withLock({ $0 }), (try? rival.newest())??.document.pins?.first?.name == "own" else { return nil }
                isOver.withLock { $0 = true }
                try? bump(rival, epoch, "rival")
                return nil
            }
        }
        try bump(own, epoch, "own")
        #expect(isOver.withLock { $0 })
        #expect(try own.newest()?.document.pins?.first?.name == "rival")
    }

    /// Its writer never saw it: it may name objects that would be put again.
    @Test(arguments: [false, true]) func aHeadThatReadsWrongIsSettledFirst(_ isStillWrong: Bool) throws {
        let host = try MeddledHost(group)
        let own = try host.program()
        let epoch = try own.claim(host: "a").document.writer.epoch
        try bump(own, epoch, "seen")
        let unseen = ObjectPlace.head(group: group, 3).key
        host.meddled.meddle { $0.reads = { key, bytes in key == unseen ? bytes.dropLast() + [bytes.last! ^ 1] : bytes } }
        #expect(throws: VaultError.self) { try bump(own, epoch, "unseen") }
        #expect(try own.isUnsettled(after: 2) && host.program().isUnsettled(after: 2))
        // A change of nothing takes no number.
        #expect(try own.update(epoch: epoch) { _ in }.document.number == 2)
        #expect(try own.isUnsettled(after: 2))
        if isStillWrong { #expect(throws: VaultError.self) { try own.settled(epoch: epoch) } }
        host.meddled.meddle { $0.reads = { $1 } }
        let settled = try #require(try own.settled(epoch: epoch))
        #expect(settled.document.number == 3 && settled.document.pins?.first?.name == (isStillWrong ? "seen" : "unseen"))
        #expect(try host.test.reopened().heads(group: group).newest()?.hash == settled.hash)
        #expect(try !own.isUnsettled(after: 3))
    }

    /// Of two programs of one host the one that is ahead must not be forgotten by the other.
    @Test func whatAnotherProgramBeganIsKnown() throws {
        let host = try MeddledHost(group)
        let (first, second) = (try host.program(), try host.program())
        let epoch = try first.claim(host: "a").document.writer.epoch
        let ahead = ObjectPlace.head(group: group, 2).key
        host.meddled.meddle { $0.stores = { key, bytes in key == ahead ? bytes.dropLast() + [bytes.last! ^ 1] : bytes } }
        #expect(throws: VaultError.self) { try bump(second, epoch, "not kept") }
        host.meddled.meddle { $0.stores = { $1 } }
        #expect(try first.isUnsettled(after: 1))
        try bump(first, epoch, "in its place")
        #expect(try host.program().newest()?.document.pins?.first?.name == "in its place")
    }

    @Test func rollbackAndForksAreRefused() throws {
        let test = try TestVault()
        let folder = test.directory + "-memory"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        func client() throws -> HeadChain {
            try Vault.open(store: test.store, key: test.key, memory: HeadMemory(folder: folder), settings: TestVault.settings).heads(group: group)
        }
        let epoch = try client().claim(host: "a").document.writer.epoch
        for name in ["a", "b", "c"] { try bump(client(), epoch, name) }
        let newest = test.file(ObjectPlace.head(group: group, 4).key)
        let kept = try Data(contentsOf: URL(filePath: newest))
        try FileManager.default.removeItem(atPath: newest)
        func isRefused() -> Bool {
            do {
                _ = try client().newest()
                return false
            } catch let error as VaultError {
                if case .rolledBack = error { return true }
                return false
            } catch {
                return false
            }
        }
        #expect(isRefused())
        // Someone with the key, who has not seen number 4, publishes another one.
        try bump(test.reopened().heads(group: group), epoch, "forked")
        #expect(isRefused())
        try kept.write(to: URL(filePath: newest))
        #expect(try client().newest()?.document.number == 4)
        try FileManager.default.removeItem(atPath: test.file("heads/\(group)"))
        #expect(isRefused())
    }

    @Test func aTargetThatDropsWhatItAcknowledgedIsCaught() throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        let disk = try ModelDisk(test.vault, sizeBytes: 4 << 20, seed: 5)
        try disk.replicateInitially()
        for part in ["segments/", "manifests/", "heads/", "chunks/", "maps/"] {
            meddled.meddle { $0.drops = { $0.contains(part) } }
            #expect(throws: VaultError.self, "\(part) dropped") {
                try disk.step(records: 5, checkpoint: true)
                let bytes = [UInt8](repeating: 3, count: 100)
                _ = try bytes.withUnsafeBytes { try test.vault.putChunk($0, as: test.vault.chunkRef(of: $0, epoch: 1)) }
            }
            meddled.meddle { $0.drops = { _ in false } }
        }
        // And one that stores other bytes, with a checksum of its own that is believed or not.
        meddled.meddle { $0.stores = { key, bytes in key.contains("chunks/") ? bytes.dropLast() + [bytes.last! ^ 1] : bytes } }
        #expect(throws: VaultError.self) {
            let bytes = [UInt8](repeating: 4, count: 100)
            _ = try bytes.withUnsafeBytes { try test.vault.putChunk($0, as: test.vault.chunkRef(of: $0, epoch: 1)) }
        }
    }
}

/// A vault whose target can be meddled with, and the programs of one host that use it.
private final class MeddledHost {
    let test: TestVault
    let meddled: MeddledStore
    private let group: VaultID
    private let memoryFolder: String

    init(_ group: VaultID) throws {
        var meddled: MeddledStore!
        test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        (self.meddled, self.group, memoryFolder) = (meddled, group, try temporaryDirectory())
    }

    deinit { try? FileManager.default.removeItem(atPath: memoryFolder) }

    func program(_ store: (any ObjectStore)? = nil) throws -> HeadChain {
        try Vault.open(store: store ?? meddled, key: test.key, memory: HeadMemory(folder: memoryFolder), settings: TestVault.settings).heads(group: group)
    }
}
