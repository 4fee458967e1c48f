// A successor serves before anything is synced: what that leaves undone is made good before it is needed.

import BlockIO
import ChangeLog
import Glibc
import Synchronization
import Testing

@Suite struct ReopeningTests {
    private final class Syncs: Sendable {
        private let paths = Mutex<[String]>([])
        func note(_ path: String) { paths.withLock { $0.append(path) } }
        // Looked up under the lock: the thread sanitizer does not see how the runtime orders a handed out array's release.
        func place(of path: String) -> Int? { paths.withLock { $0.firstIndex(of: path) } }
    }

    private func reopen(_ test: TestLog, _ syncs: Syncs) throws -> ChangeLog {
        try ChangeLog.open(
            test.folder, lock: try OwnerLock.acquire(test.folder), sequencer: test.sequencer,
            options: .init(bootID: bootA, didSync: { syncs.note($0) })) { _, _ in }.log
    }

    @Test func whatAKilledOwnerLeftIsNotTakenForFlushed() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        try log.appendBlock(1, at: 0)
        let flushed = try log.makeDurable()
        let later = try log.appendBlock(2, at: 1)
        let last = try log.appendBlock(3, at: 2)
        log.abandon()

        let syncs = Syncs()
        let again = try reopen(test, syncs)
        defer { again.abandon() }
        // The second record says that the first was flushed; nothing says it of the others.
        #expect(again.status.durableSequence == flushed && again.status.lastSequence == last && later < last)
        let file = try #require(again.liveFiles.last)
        #expect(try again.makeDurable() == last)
        #expect(syncs.place(of: file) != nil)
    }

    @Test func onlyALogThatNobodyOpenedIsMadeAnew() throws {
        let test = try TestLog(targets: ["near"])
        defer { test.remove() }
        let found = try test.folder.readState()
        func makeAnew(_ unopened: LogState?) throws {
            try ChangeLog.create(
                test.folder, diskID: found.diskID, diskBytes: 2 * found.diskBytes, targets: ["far"], segmentBytes: TestLog.segmentBytes,
                budgetBytes: found.budgetBytes, replacing: unopened)
        }
        var other = found
        other.diskBytes += 4096
        for unopened in [nil, other] { #expect(throws: LogError.self) { try makeAnew(unopened) } }
        #expect(try test.folder.readState() == found)
        try makeAnew(found)
        let made = try test.folder.readState()
        #expect(made.targets == ["far"] && made.diskBytes == 2 * found.diskBytes && made.diskID == found.diskID && made.lineages != found.lineages)
        #expect(throws: LogError.self) { try makeAnew(found) }
        try test.open().log.abandon()
        let opened = try test.folder.readState()
        for unopened in [made, opened] { #expect(throws: LogError.self) { try makeAnew(unopened) } }
        #expect(try test.folder.readState() == opened)
    }

    @Test func theNewestSealIsSyncedBeforeTheNextOneIsWritten() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        for block in 0..<10 { try log.appendBlock(1, at: UInt64(block)) }
        try log.sealAll()
        for block in 0..<10 { try log.appendBlock(2, at: UInt64(block)) }
        log.abandon()

        let syncs = Syncs()
        let again = try reopen(test, syncs)
        defer { again.abandon() }
        try again.sealAll()
        let files = again.liveFiles
        try #require(files.count == 2)
        let first = try #require(syncs.place(of: files[0])), second = try #require(syncs.place(of: files[1]))
        #expect(first < second)
        #expect(again.sealedSegments(limit: 10).count == 2)
    }

    @Test func aSegmentThatWasClosedAndNotSealedIsSealedLater() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        // A place that is never filled keeps its segment, and so all after it, from being sealed.
        _ = try log.reserve(.write, diskOffset: 0, length: 4096)
        for block in 0..<70 { try log.appendBlock(1, at: UInt64(block)) }
        log.abandon()

        let again = try test.open()
        #expect(again.replayed.count == 70)
        try again.log.sealAll()
        #expect(again.log.sealedSegments(limit: 10).count == 3)
        again.log.abandon()
        // And a power loss after that finds all of it.
        let third = try test.open(boot: bootB)
        defer { third.log.abandon() }
        #expect(third.replayed == again.replayed)
    }

    @Test func aSuccessorTakesTheBlockThatWasLeftForIt() throws {
        let test = try TestLog()
        defer { test.remove() }
        let path = test.root + "/sequences"
        let first = try Sequencer(path: path, handingOnIn: bootA)
        let before = try first.next()
        try first.reserveAhead()
        let reserved = try DurableFile.read(path)
        let second = try Sequencer(path: path, handingOnIn: bootA)
        #expect(try DurableFile.read(path) == reserved, "it waited for a reservation of its own")
        let after = try second.next()
        #expect(after > before)
        // The first, were it alive, would not use the same numbers: they are its successor's.
        let third = try Sequencer(path: path, handingOnIn: bootA)
        #expect(try third.next() > after)
        #expect(try DurableFile.read(path) != reserved)
    }

    @Test func aBlockOfAnotherBootOrUnreservedIsNotTaken() throws {
        let test = try TestLog()
        defer { test.remove() }
        let path = test.root + "/sequences"
        let first = try Sequencer(path: path, handingOnIn: bootA)
        try first.reserveAhead()
        let left = try #require(try DurableFile.read(path + ".next"))
        let reserved = try DurableFile.read(path)
        _ = try Sequencer(path: path, handingOnIn: bootB)
        #expect(try DurableFile.read(path) != reserved)
        for text in ["", "farshore sequence block 2\n", String(decoding: left, as: UTF8.self).replacing("end ", with: "end 9")] {
            try DurableFile.replace(path + ".next", with: Array(text.utf8))
            let before = try DurableFile.read(path)
            _ = try Sequencer(path: path, handingOnIn: bootA)
            #expect(try DurableFile.read(path) != before, "'\(text)' was taken")
        }
    }
}
