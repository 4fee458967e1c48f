// What this host remembers of a vault, and what an interrupted attempt left there, after the vault went on without it or
// was put back: nothing that a head names may rest on it.

import BlockIO
import ChangeLog
import Foundation
import ObjectStore
import Replication
import Site
import Synchronization
import Testing
import Vault
import VirtualDisk

@Suite struct StaleKnowledgeTests {
    private func diskWithHistory(_ random: inout SeededRandom) throws -> ReplicatedDisk {
        let disk = try ReplicatedDisk(content: sampleContent())
        #expect(try disk.upload() == nil)
        try disk.scribble(25, using: &random)
        #expect(try disk.upload() == nil)
        return disk
    }

    private func mark(_ disk: ReplicatedDisk) throws {
        try markResynchronisation(disk.entry(vault: disk.openVault()), LogFolder(disk.folder + "/log"), try Catalogue(site: disk.site), reason: "test", isNow: true)
    }

    private func expectWhole(_ disk: ReplicatedDisk) throws {
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
        #expect(try VaultCheck(vault: disk.openVault(), readData: true).run().findings == [])
    }

    /// Another epoch, as each collection and each disk that is forgotten makes it.
    private func raiseEpoch(_ vault: Vault) throws {
        _ = try vault.register(disk: .random(), name: "short-lived", sizeBytes: 4_096)
        _ = try vault.forget("short-lived")
    }

    @Test func aGroupThatWasOutOfTheCatalogKeepsNoOldEpoch() throws {
        let group = try ReplicatedGroup(["a", "c"])
        let vault = try group.openVault()
        try group.catalogue.addGroup(named: "g", machines: ["a"])
        #expect(try group.upload().isEmpty)
        try group.catalogue.take(machines: ["a"], outOfGroup: "g")
        #expect(try group.upload().isEmpty)
        // What only c had is sent, is known to be there, and goes, while no collection waits for the group g.
        try group.catalogue.remove(disk: "c")
        _ = try vault.forget("c")
        #expect(try group.upload().isEmpty)
        try raiseEpoch(vault)
        #expect(try group.upload().isEmpty)
        _ = try Collector(vault: vault).run()
        #expect(try group.upload().isEmpty)
        #expect(try Collector(vault: vault).run().waiting.isEmpty)
        // Killed in a resynchronisation; then a joins g again, and its image becomes what c's was.
        for block in 0..<256 { try group.write("a", 2, at: block * 4_096) }
        try group.disks["a"]!.mergeAll()
        var state = try group.catalogue.replication(ofDisk: "a")
        state.phase = .resynchronisation
        try group.catalogue.setReplication(state, ofDisk: "a")
        try group.catalogue.markResynchronisation(ofDisk: "a", reason: "test", isNow: true)
        try group.catalogue.put(machines: ["a"], inGroup: "g")
        #expect(try group.upload().map(\.failure.message) == [])
        #expect(try VaultCheck(vault: group.openVault(), readData: true).run().findings == [])
        let history = try #require(try group.history("a"))
        #expect(try vaultContent(history, at: history.newestSequence) == group.models["a"])
    }

    @Test func aTargetThatWasRolledBackIsAskedForEachChunk() throws {
        var random = SeededRandom(1)
        let disk = try diskWithHistory(&random)
        let (vault, kept) = (disk.folder + "/vault", disk.folder + "/vault-before")
        try FileManager.default.copyItem(atPath: vault, toPath: kept)
        try mark(disk)
        for chunk in [1, 4] { try disk.write((0..<70_000).map { _ in UInt8.random(in: 0...255, using: &random) }, at: (chunk << 20) + 1_000) }
        try disk.disk.mergeAll()
        #expect(try disk.upload() == nil)
        try expectWhole(disk)
        for name in try FileManager.default.contentsOfDirectory(atPath: vault) { try FileManager.default.removeItem(atPath: vault + "/" + name) }
        for name in try FileManager.default.contentsOfDirectory(atPath: kept) { try FileManager.default.moveItem(atPath: kept + "/" + name, toPath: vault + "/" + name) }
        let failure = try #require(try disk.upload())
        #expect(failure.isAlarm && failure.message.contains("rolled back"), "\(failure)")
        // The administrator says that it was restored on purpose.
        for name in try Directory.list(disk.site.headsFolder) { try FileManager.default.removeItem(atPath: disk.site.headsFolder + "/" + name) }
        try mark(disk)
        #expect(try disk.upload()?.message == nil)
        try expectWhole(disk)
    }

    /// The map names it, and nothing was written there since.
    @Test func aChunkThatIsGoneIsSentAgain() throws {
        var random = SeededRandom(2)
        let disk = try ReplicatedDisk(content: sampleContent())
        #expect(try disk.upload() == nil)
        let chunk = try #require(disk.store.requests.chunkPuts.first)
        try FileManager.default.removeItem(atPath: disk.folder + "/vault/" + chunk)
        try disk.scribble(2, using: &random)
        // As `accept --discard-log` does it.
        try Catalogue(site: disk.site).doubtChunks(vault: try disk.openVault().id.description)
        try mark(disk)
        #expect(try disk.upload() == nil)
        #expect(disk.store.requests.chunkPuts.count { $0 == chunk } == 2)
        try expectWhole(disk)
    }

    @Test(arguments: [true, false]) func whatAnAttemptLeftAtTheSameSequenceIsNoObstacle(_ isInitial: Bool) throws {
        var random = SeededRandom(3)
        let disk = isInitial ? try ReplicatedDisk(content: sampleContent()) : try diskWithHistory(&random)
        if !isInitial {
            try mark(disk)
            try disk.write((0..<70_000).map { _ in UInt8.random(in: 0...255, using: &random) }, at: 3 << 20)
            try disk.disk.mergeAll()
        }
        let before = disk.store.requests.puts.count
        disk.store.failPuts { [store = disk.store] key, at in
            key.hasPrefix("heads/") && at == .before && store.requests.puts[before...].contains { $0.contains("/manifests/") } ? unreachable : nil
        }
        #expect(try disk.upload() != nil)
        disk.store.failPuts(nil)
        // Its map pages carry the epoch, which is another one now.
        let vault = try disk.openVault()
        try raiseEpoch(vault)
        try vault.release(writerOf: ReplicatedDisk.name, host: "operator")
        let failure = try #require(try disk.upload())
        #expect(failure.outcome == .mayPass && failure.message.contains("begins anew"), "\(failure)")
        #expect(try disk.upload()?.message == nil)
        try expectWhole(disk)
        let puts = disk.store.requests.chunkPuts
        #expect(Set(puts).count == puts.count)
    }

    @Test func aLogThatWasPutBackDoesNotGoOnWithAHistoryThatWasLeft() throws {
        var random = SeededRandom(4)
        let disk = try diskWithHistory(&random)
        let snapshot = try ReplicatedDisk(copyOf: disk)
        try disk.reopen(inAnotherBoot: true)
        try disk.scribble(2, using: &random)
        #expect(try disk.upload() == nil)
        let lineage = try #require(try disk.history()).state.current?.id
        // Its numbers go further than those in the vault.
        try snapshot.scribble(60, using: &random)
        try mark(snapshot)
        let failure = try #require(try snapshot.upload())
        #expect(failure.outcome == .forGood && failure.message.contains("older copy") && failure.remedy.contains("accept"), "\(failure)")
        #expect(try LogFolder(snapshot.folder + "/log").readFreeze() == nil)
        #expect(try disk.history()?.state.current?.id == lineage)
        try expectWhole(disk)
    }

    /// Promise F14: When a host is put back to an older state, or cloned while it ran, no sequence is given twice in the vault's history and
    /// nothing that was published is taken back: where that would be, the uploader stops and says so.
    ///
    /// A snapshot of the whole host, taken while the disk was in use, and put back: its next boot takes the log for one that lost power. With more
    /// starts in between, its site gives the numbers again that the vault has from the time after the snapshot; without its mark that tells.
    @Test(arguments: [0, 3], [0, 5]) func aHostThatWasPutBackWhileItWasInUseIsNotFollowed(_ starts: Int, _ written: Int) throws {
        var random = SeededRandom(6)
        let disk = try diskWithHistory(&random)
        let snapshot = try ReplicatedDisk(copyOf: disk)
        for _ in 0..<max(starts, 1) {
            if starts > 0 { try disk.reopen() }
            try disk.scribble(4, using: &random)
            #expect(try disk.upload() == nil)
        }
        let before = try #require(try disk.history()).state
        try snapshot.reopen(inAnotherBoot: true)
        for block in 0..<written { try snapshot.write([UInt8](repeating: 9, count: 4096), at: block * 4096) }
        if starts > 0 { try DurableFile.remove(LogFolder(snapshot.folder + "/log").markFile(target: disk.openVault().id.description)) }
        let failure = try #require(try snapshot.upload())
        #expect(failure.outcome == .forGood && failure.message.contains("put back") && failure.remedy.contains("accept"), "\(failure)")
        #expect(failure.message.contains("a second time") == (starts > 0))
        #expect(try disk.history()?.state == before)
        try expectWhole(disk)
    }

    /// A host resumed from a snapshot of its memory, or cloned while it ran: the writer epoch in the head is still its own.
    @Test func anUploaderDoesNotTakeBackWhatWasPublishedUnderItsOwnEpoch() throws {
        var random = SeededRandom(7)
        let disk = try diskWithHistory(&random)
        let state = try #require(try disk.history()).state
        let point = RecoveryPoint(sequence: state.newestSequence + 1_000, timeMicros: 5, kind: .crash, tag: nil)
        let vault = try disk.openVault()
        let isDone = Mutex(false)
        // The other one of the two goes on, between this one's look at the head and the next that it publishes.
        disk.store.failPuts { key, moment in
            guard moment == .before, key.contains("/manifests/"), isDone.withLock({ let isDone = $0; $0 = true; return !isDone }) else { return nil }
            do {
                let heads = vault.heads(group: state.disk)
                let head = try #require(try heads.newest()).document
                let next = try HistoryWriter(vault: vault, disk: state.disk).extend(state, through: point.sequence, segments: [], points: [point], epoch: head.collectionEpoch)
                try heads.update(epoch: head.writer.epoch) { head in
                    var state = head.state(of: next.disk)!
                    state.follow(next)
                    head.set(state)
                }
            } catch { Issue.record(error) }
            return nil
        }
        try disk.scribble(3, using: &random)
        let failure = try #require(try disk.upload())
        #expect(failure.message.contains("was changed by someone else"), "\(failure)")
        #expect(try disk.history()?.newestSequence == point.sequence)
        let second = try #require(try disk.upload())
        #expect(second.outcome == .forGood && second.message.contains("older copy"), "\(second)")
        #expect(try disk.history()?.newestSequence == point.sequence)
    }

    @Test func aResynchronisationThatFailsForLongLetsGoOfTheImage() throws {
        var random = SeededRandom(5)
        let disk = try ReplicatedDisk(content: sampleContent(1) + sampleContent(2) + sampleContent(3))
        #expect(try disk.upload() == nil)
        let folder = LogFolder(disk.folder + "/log")
        try mark(disk)
        for chunk in 1...8 { try disk.write((0..<70_000).map { _ in UInt8.random(in: 0...255, using: &random) }, at: chunk << 20) }
        try disk.disk.mergeAll()
        let sent = disk.store.requests.chunkPuts.count
        // One chunk gets through, of as many as are sent at the same time.
        let begun = Mutex(0)
        disk.store.failPuts { key, at in
            guard key.hasPrefix("chunks/"), at == .before else { return nil }
            return begun.withLock { count in
                count += 1
                return count > 1 ? unreachable : nil
            }
        }
        #expect(try disk.upload() != nil)
        let held = try #require(try folder.readFreeze())
        // A quarter of an hour later.
        try folder.storeFreeze(sequence: held, wallNanoseconds: Clock.wallNanoseconds() - 901_000_000_000)
        #expect(try disk.upload() != nil)
        #expect(try folder.readFreeze() == nil)
        #expect(try Catalogue(site: disk.site).events(limit: 5).contains { $0.text.contains("let go of the image") })
        // The log makes room meanwhile, and what was sent counts.
        try disk.write([1, 2, 3], at: 12 << 20)
        try disk.disk.mergeAll()
        disk.store.failPuts(nil)
        #expect(try disk.upload() == nil)
        let puts = disk.store.requests.chunkPuts[sent...]
        #expect(puts.count == 9 && Set(puts).count == 9, "\(puts)")
        try expectWhole(disk)
    }

    @Test func theFirstPointHasTheTimeOfTheStateItShows() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        disk.store.failPuts { key, _ in key.hasPrefix("chunks/") ? unreachable : nil }
        #expect(try disk.upload() != nil)
        let frozen = try #require(try LogFolder(disk.folder + "/log").freezeTime())
        disk.store.failPuts(nil)
        usleep(20_000)
        #expect(try disk.upload() == nil)
        #expect(try disk.history()?.points().first?.timeMicros == frozen / 1_000)
    }
}
