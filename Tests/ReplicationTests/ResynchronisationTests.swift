// A disk whose vault is brought up to date by comparing: what is sent is counted, kills fall between all requests, and what every
// point holds must be what the model says.

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

@Suite struct ResynchronisationTests {
    // Promise S4: Points from before a resynchronisation read bit-exact after it, and a sequence between them and its first point is refused.
    private func expectAllPoints(_ disk: ReplicatedDisk, except lost: ClosedRange<UInt64>? = nil) throws {
        let history = try #require(try disk.history())
        for (sequence, content) in disk.points where sequence >= history.state.oldestSequence {
            if lost?.contains(sequence) == true {
                #expect(throws: VaultError.self, "point #\(sequence)") { try history.plan(at: sequence) }
            } else {
                #expect(try vaultContent(history, at: sequence) == content, "point #\(sequence)")
            }
        }
        #expect(try VaultCheck(vault: disk.openVault(), readData: true).run().isClean)
    }

    private func mark(_ disk: ReplicatedDisk, isNow: Bool = true, releasing: Bool = false) throws {
        let catalogue = try Catalogue(site: disk.site)
        if releasing {
            try markResynchronisation(disk.entry(vault: disk.openVault()), LogFolder(disk.folder + "/log"), catalogue, reason: "test", isNow: isNow)
        } else {
            try catalogue.markResynchronisation(ofDisk: ReplicatedDisk.name, reason: "test", isNow: isNow)
        }
    }

    /// A disk with a history of deltas, so that most of its map names ranges of segments.
    private func diskWithHistory(_ random: inout SeededRandom) throws -> ReplicatedDisk {
        let disk = try ReplicatedDisk(content: sampleContent())
        #expect(try disk.upload() == nil)
        for _ in 0..<3 {
            try disk.scribble(25, using: &random)
            #expect(try disk.upload() == nil)
        }
        return disk
    }

    private func isMarked(_ disk: ReplicatedDisk) throws -> Bool { try Catalogue(site: disk.site).resynchronisation(ofDisk: ReplicatedDisk.name) != nil }

    // Promise S1: A resynchronisation sends only chunks whose content differs from what the vault has.
    @Test func onlyChunksThatDifferAreSent() throws {
        var random = SeededRandom(1)
        let disk = try diskWithHistory(&random)
        let before = disk.store.requests.puts.count
        try mark(disk)
        #expect(try disk.upload() == nil)
        let idle = disk.store.requests.puts[before...]
        #expect(!idle.contains { $0.hasPrefix("chunks/") || $0.contains("/segments/") }, "nothing differs: \(idle)")
        #expect(try !isMarked(disk))
        try expectAllPoints(disk)

        // Three chunks get other content, one of them zeros; the log drops what it had of that.
        try mark(disk, isNow: false, releasing: true)
        let first = try #require(try disk.proven.provenSequence) + 1
        try disk.write([UInt8](repeating: 0xAA, count: 5_000), at: 100)
        try disk.write([UInt8](repeating: 0xBB, count: 5_000), at: (4 << 20) + 7)
        try disk.zero(at: 3 << 20, length: 1 << 20)
        let lost = try disk.cut()
        try disk.write([1], at: 200)
        try disk.disk.mergeAll()
        try mark(disk)
        let count = disk.store.requests.chunkPuts.count
        #expect(try disk.upload() == nil)
        #expect(disk.store.requests.chunkPuts.count - count == 2)
        try expectAllPoints(disk, except: first...lost)
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
        #expect(history.state.lineages.count == 1)
        let job = try #require(try Catalogue(site: disk.site).jobs().first { $0.kind == .resynchronisation })
        #expect(job.state == .succeeded && job.steps.contains { $0.detail?.contains("3 of 7 chunks differ, 2 sent") == true }, "\(job.steps)")
        // Deltas go on by themselves.
        try disk.scribble(20, using: &random)
        #expect(try disk.upload() == nil)
        try expectAllPoints(disk, except: first...lost)
        #expect(try disk.proven.provenSequence == disk.points.keys.max())
    }

    /// The answer to the last head before an outage was lost, and in the outage the log was let go of.
    @Test func aHeadWhoseAnswerWasLostIsOwnAfterTheLogWasLetGo() throws {
        var random = SeededRandom(9)
        let disk = try diskWithHistory(&random)
        let folder = LogFolder(disk.folder + "/log")
        let before = try disk.proven.provenSequence
        try disk.scribble(5, using: &random)
        let isNamed = Mutex(false)
        disk.store.failPuts { key, moment in
            guard moment == .after else { return nil }
            if key.contains("/manifests/") { isNamed.withLock { $0 = true } }
            return key.hasPrefix("heads/") && isNamed.withLock { $0 } ? unreachable : nil
        }
        #expect(try disk.upload() != nil)
        let newest = try #require(try disk.history()).newestSequence
        #expect(try disk.proven.provenSequence == before && before ?? 0 < newest)
        disk.store.failPuts { _, _ in unreachable }
        try mark(disk, releasing: true)
        try disk.scribble(20, using: &random)
        let lost = try #require(disk.points.keys.max())
        try disk.write([1], at: 200)
        try disk.disk.mergeAll()
        let deadline = Date(timeIntervalSinceNow: 20)
        while try LogReader(folder).beginning()?.afterSequence ?? .max <= newest, Date() < deadline { usleep(50_000) }
        disk.store.failPuts(nil)
        #expect(try disk.upload()?.message == nil)
        #expect(try !isMarked(disk))
        try expectAllPoints(disk, except: newest + 1...lost)
    }

    /// Another target's first state was on its way to hold the image, at a state that this vault has already.
    @Test func anImageThatAnotherLaneHasJustHeldIsNoOtherHistory() throws {
        struct Held: DiskOwner {
            let owner: TestOwner
            func makeDurable() throws -> UInt64 {
                _ = try owner.freeze()
                return try owner.makeDurable()
            }
            func cut() throws { try owner.cut() }
            func freeze() throws -> UInt64 { try owner.freeze() }
            func unfreeze() throws { try owner.unfreeze() }
        }
        var random = SeededRandom(8)
        let disk = try diskWithHistory(&random)
        try mark(disk)
        #expect(try disk.upload(owner: Held(owner: TestOwner { disk.disk }))?.message == nil)
        #expect(try !isMarked(disk))
        try expectAllPoints(disk)
    }

    // Promise S2: A resynchronisation that is killed anywhere is gone on from, and sends nothing again that was answered.
    @Test(arguments: [WatchedStore.Moment.before, .after]) func aKillAtEveryRequestIsGoneOnFrom(_ moment: WatchedStore.Moment) throws {
        var random = SeededRandom(2)
        let disk = try diskWithHistory(&random)
        try mark(disk, releasing: true)
        for chunk in [0, 3, 5] { try disk.write((0..<70_000).map { _ in UInt8.random(in: 0...255, using: &random) }, at: (chunk << 20) + 1_000) }
        let lost = try disk.cut()
        try disk.disk.mergeAll()
        let start = disk.store.requests.puts.count
        // Each run ends one request later than the one before; guests write on meanwhile.
        for allowed in 1..<60 {
            let begun = disk.store.requests.puts.count
            disk.store.failPuts { [store = disk.store] _, at in at == moment && store.requests.puts.count - begun >= allowed ? unreachable : nil }
            if allowed % 3 == 0 { try disk.reopen() }
            try disk.write([UInt8(allowed)], at: 2 << 20)
            if try disk.upload() == nil { break }
        }
        disk.store.failPuts(nil)
        let chunks = disk.store.requests.puts[start...].filter { $0.hasPrefix("chunks/") }
        #expect(Set(chunks).count == chunks.count && chunks.count <= 4, "\(chunks)")
        #expect(try !isMarked(disk))
        #expect(try LogFolder(disk.folder + "/log").readFreeze() == nil)
        try disk.cut()
        #expect(try disk.upload() == nil)
        try expectAllPoints(disk, except: lost...lost)
    }

    @Test func itWaitsForItsHours() throws {
        var random = SeededRandom(3)
        let disk = try diskWithHistory(&random)
        let catalogue = try Catalogue(site: disk.site)
        _ = try catalogue.changePolicy(named: Policy.defaultName, PolicyChange(resyncWindow: try WeeklyWindow("never")))
        // With a log that has everything deltas go on until then.
        try mark(disk, isNow: false)
        let kept = try disk.cut()
        #expect(try disk.upload() == nil)
        #expect(try disk.proven.provenSequence == kept)
        #expect(try isMarked(disk))
        try mark(disk, isNow: false, releasing: true)
        try disk.scribble(5, using: &random)
        let failure = try #require(try disk.upload())
        #expect(failure.outcome == .mayPass && failure.message.contains("resynchronisation required"))
        #expect(try disk.proven.provenSequence == kept)
        _ = try catalogue.changePolicy(named: Policy.defaultName, PolicyChange(resyncWindow: try WeeklyWindow("always")))
        #expect(try disk.upload() == nil)
        #expect(try !isMarked(disk))
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
    }

    /// The log has dropped what the vault lacks, and nobody has marked the disk.
    @Test func aLogThatLostRecordsMarksTheDisk() throws {
        var random = SeededRandom(4)
        let disk = try diskWithHistory(&random)
        let folder = LogFolder(disk.folder + "/log")
        let target = try disk.openVault().id.description
        _ = try Catalogue(site: disk.site).changePolicy(named: Policy.defaultName, PolicyChange(resyncWindow: try WeeklyWindow("never")))
        try folder.release(target: target)
        // More than the log keeps as spare segments, so that old ones are used again.
        let deadline = Date.now.addingTimeInterval(30)
        let proven = try #require(try disk.proven.provenSequence)
        while case .success = Result(catching: { try LogReader(folder).headers(after: proven) { _ in } }), Date.now < deadline {
            for _ in 0..<40 { try disk.write((0..<50_000).map { _ in UInt8.random(in: 0...255, using: &random) }, at: Int.random(in: 0..<6_000_000, using: &random)) }
            try disk.disk.mergeAll()
            Thread.sleep(forTimeInterval: 0.2)
        }
        try folder.endRelease(target: target)
        let failure = try #require(try disk.upload())
        #expect(failure.message.contains("resynchronisation required"), "\(failure)")
        #expect(try isMarked(disk) && folder.isReleased(target: target))
        #expect(try Catalogue(site: disk.site).events(limit: 20).contains { $0.text.hasPrefix("resynchronisation required: the log") })
        try mark(disk)
        #expect(try disk.upload()?.message == nil)
        try disk.cut()
        #expect(try disk.upload() == nil)
        try expectAllPoints(disk)
    }

    /// Two hosts' histories are never mixed, not even where somebody asks for it.
    @Test func aHistoryOfAnotherHostIsNotOverwritten() throws {
        var random = SeededRandom(5)
        let disk = try diskWithHistory(&random)
        let copy = try ReplicatedDisk(copyOf: disk)
        try copy.scribble(10, using: &random)
        #expect(try copy.upload() == nil)
        try mark(disk)
        let failure = try #require(try disk.upload())
        #expect(failure.outcome == .forGood && failure.remedy.contains("accept"), "\(failure)")
        #expect(try LogFolder(disk.folder + "/log").readFreeze() == nil)
        try expectAllPoints(copy)
    }

    /// While it is marked the log is bounded by what is not merged; afterwards it keeps again what the vault lacks.
    // Promise S3: A disk that waits for its resynchronisation keeps all that was acknowledged, and its log makes room for writes.
    @Test func theLogKeepsAgainAfterwards() throws {
        var random = SeededRandom(6)
        let disk = try diskWithHistory(&random)
        try mark(disk, releasing: true)
        for _ in 0..<3 {
            try disk.scribble(40, using: &random)
            try disk.disk.mergeAll()
        }
        #expect(try disk.upload() == nil)
        #expect(disk.disk.status.log.unreplicatedBytes <= 2 << 20)
        // The housekeeper has looked several times since; with the target away nothing may be dropped.
        disk.store.failPuts { _, _ in unreachable }
        for _ in 0..<4 {
            try disk.scribble(20, using: &random)
            try disk.disk.mergeAll()
            Thread.sleep(forTimeInterval: 0.5)
        }
        #expect(try disk.upload() != nil)
        #expect(try !isMarked(disk))
        disk.store.failPuts(nil)
        let from = try #require(try disk.proven.provenSequence)
        #expect(try disk.upload() == nil)
        let history = try #require(try disk.history())
        for (sequence, content) in disk.points where sequence > from { #expect(try vaultContent(history, at: sequence) == content) }
    }
}

@Suite struct WeeklyWindowTests {
    @Test func aWindowIsReadAndWritten() throws {
        let window = try WeeklyWindow("18:00-06:00, sat-sun")
        #expect(window.text == "18:00-06:00, sat-sun")
        for (day, hour, isIn) in [(0, 18, true), (1, 5, true), (1, 6, false), (4, 12, false), (5, 12, true), (6, 23, true)] {
            #expect(window.includes(WeeklySpan.Moment(weekday: day, minute: hour * 60)) == isIn, "day \(day), hour \(hour)")
        }
        #expect(try WeeklyWindow("always").includes(WeeklySpan.Moment(weekday: 3, minute: 700)) && WeeklyWindow("always").text == "always")
        #expect(try !WeeklyWindow("never").includes(WeeklySpan.Moment(weekday: 3, minute: 0)) && WeeklyWindow("never").text == "never")
        #expect(Policy.standard.resyncWindow.text == "18:00-06:00")
        for text in ["", "18:00", "mon 20MiB", "18:00-06:00,", "6:00-7:00"] { #expect(throws: SiteError.self, "\(text)") { try WeeklyWindow(text) } }
    }
}
