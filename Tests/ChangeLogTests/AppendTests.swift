import BlockIO
import ChangeLog
import Glibc
import Synchronization
import Testing

@Suite struct AppendTests {
    @Test func acknowledgedRecordsComeBackInOrder() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, lastStop, replayed) = try test.open()
        #expect(lastStop == .never && replayed.isEmpty)
        var sequences: [UInt64] = []
        for block in 0..<60 { sequences.append(try log.appendBlock(UInt8(block), at: UInt64(block))) }
        let zero = try log.reserve(.discard, diskOffset: 0, length: 32 << 20)
        try log.write(zero, .none)
        log.complete(zero)
        let stop = LogState.CleanStop(evidence: 1, imageBytes: 7, stamp: 8)
        try log.close(cleanStop: stop)

        let again = try test.open(boot: bootB)
        defer { again.log.abandon() }
        #expect(again.lastStop == .clean(stop))
        #expect(again.replayed.map(\.sequence) == sequences + [zero.sequence])
        #expect(again.replayed.last?.kind == .discard && again.replayed.last?.length == 32 << 20)
        #expect(try again.log.appendBlock(1, at: 1) > zero.sequence)
    }

    // Promise F1: When the log's budget is used up, writes wait while the target is catching up, else fail with ENOSPC;
    // reads go on, and nothing acknowledged is dropped.
    @Test func aFullBudgetIsNoSpaceAndReleasedSpaceIsUsed() throws {
        let test = try TestLog(targets: ["vault"], segments: 4)
        defer { test.remove() }
        let (log, _, _) = try test.open()
        defer { log.abandon() }
        var written = 0
        let full = #expect(throws: SystemError.self) { while true { try log.appendBlock(1, at: UInt64(written % 100)); written += 1 } }
        #expect(full?.errno == ENOSPC && written > 60)
        // A point still finds room.
        #expect(try ChangeLog.cutPoint([log], tag: "full") > 0)

        try log.sealAll()
        let sealed = log.sealedSegments(limit: 100)
        #expect(sealed.count == 4)
        let last = try #require(sealed.last)
        try log.noteDestaged(last)
        log.releaseDestaged(last)
        // In the image, but not at the target: nothing may go.
        usleep(1_200_000)
        #expect(throws: SystemError.self) { try log.append([UInt8](repeating: 1, count: 8 * blockBytes), at: 0) }
        #expect(try test.read().count == written + 1)  // and the point

        try test.folder.storeMark(ReplicatedMark(sequence: last.lastSequence, lineage: log.lineage), target: "vault")
        usleep(1_200_000)
        for block in 0..<40 { try log.appendBlock(2, at: UInt64(block)) }
        #expect(throws: LogError.self) { try test.read(after: 1) }
    }

    /// A publication over a slow uplink takes longer than writes wait; the objects of it that are verified count.
    @Test func objectsThatAreVerifiedMakeWritesWait() throws {
        let test = try TestLog(targets: ["vault"], segments: 4)
        defer { test.remove() }
        let waits = Atomic<Int>(0), ended = Atomic<Int>(0)
        let (log, _, _) = try test.open(catchingUpSeconds: 4, roomWait: {
            if $0 { waits.add(1, ordering: .sequentiallyConsistent) } else { ended.add(1, ordering: .sequentiallyConsistent) }
        })
        defer { log.abandon() }
        log.setDestageObstacle(nil)
        #expect(throws: SystemError.self) { while true { try log.appendBlock(1, at: 1) } }
        try log.sealAll()
        let last = try #require(log.sealedSegments(limit: 100).last)
        try log.noteDestaged(last)
        log.releaseDestaged(last)
        try test.folder.noteSending(ReplicatedMark(sequence: 1, lineage: log.lineage), target: "vault")
        usleep(1_200_000)
        let began = Clock.monotonicNanoseconds()
        let refused = Atomic<Int32>(0)
        let writer = try OwnThread(name: "writer") {
            do { while true { try log.appendBlock(2, at: 1) } } catch { refused.store((error as? SystemError)?.errno ?? -1, ordering: .sequentiallyConsistent) }
        }
        for step in 2...6 {
            usleep(700_000)
            #expect(refused.load(ordering: .sequentiallyConsistent) == 0)
            #expect(log.status.isAwaitingRoom && waits.load(ordering: .sequentiallyConsistent) == ended.load(ordering: .sequentiallyConsistent) + 1)
            try test.folder.noteSending(ReplicatedMark(sequence: UInt64(step), lineage: log.lineage), target: "vault")
        }
        // What was sent before is sent again: no progress.
        while refused.load(ordering: .sequentiallyConsistent) == 0, Clock.monotonicNanoseconds() - began < 60_000_000_000 {
            usleep(500_000)
            try test.folder.noteSending(ReplicatedMark(sequence: 3, lineage: log.lineage), target: "vault")
        }
        writer.join()
        #expect(waits.load(ordering: .sequentiallyConsistent) == ended.load(ordering: .sequentiallyConsistent))
        #expect(refused.load(ordering: .sequentiallyConsistent) == ENOSPC)
        #expect(Clock.monotonicNanoseconds() - began > 4_000_000_000)
    }

    /// A target that had nothing to do for longer than writes wait has not stood still.
    @Test(arguments: [true, false]) func aBurstAfterARestWaits(_ isTargetThere: Bool) throws {
        let test = try TestLog(targets: ["vault"], segments: 4)
        defer { test.remove() }
        let (log, _, _) = try test.open(catchingUpSeconds: 2)
        defer { log.abandon() }
        log.setDestageObstacle(nil)
        try log.appendBlock(1, at: 1)
        let first = try log.makeDurable()
        try test.folder.storeMark(ReplicatedMark(sequence: first, lineage: log.lineage), target: "vault")
        usleep(3_000_000)
        let refused = Atomic<Int32>(0)
        let began = Clock.monotonicNanoseconds()
        let writer = try OwnThread(name: "writer") {
            do { while true { try log.appendBlock(2, at: 1) } } catch { refused.store((error as? SystemError)?.errno ?? -1, ordering: .sequentiallyConsistent) }
        }
        while !log.status.isAwaitingRoom, refused.load(ordering: .sequentiallyConsistent) == 0 { usleep(10_000) }
        #expect(refused.load(ordering: .sequentiallyConsistent) == 0)
        if isTargetThere {
            let filled = log.status.lastSequence
            let sealed = try #require(log.sealedSegments(limit: 100).first)
            try log.noteDestaged(sealed)
            log.releaseDestaged(sealed)
            try test.folder.storeMark(ReplicatedMark(sequence: sealed.lastSequence, lineage: log.lineage), target: "vault")
            while log.status.lastSequence <= filled, refused.load(ordering: .sequentiallyConsistent) == 0 { usleep(10_000) }
            #expect(log.status.lastSequence > filled)
        }
        writer.join()
        #expect(refused.load(ordering: .sequentiallyConsistent) == ENOSPC)
        #expect(Clock.monotonicNanoseconds() - began > 1_000_000_000)
    }

    @Test func aTargetThatCatchesUpMakesWritesWaitAndOneThatStandsStillMakesThemFail() throws {
        let test = try TestLog(targets: ["vault"], segments: 4)
        defer { test.remove() }
        let (log, _, _) = try test.open(catchingUpSeconds: 4)
        defer { log.abandon() }
        log.setDestageObstacle(nil)
        #expect(throws: SystemError.self) { while true { try log.appendBlock(1, at: 1) } }
        try log.sealAll()
        let sealed = log.sealedSegments(limit: 100)
        let last = try #require(sealed.last)
        try log.noteDestaged(last)
        log.releaseDestaged(last)
        // The target moves by one segment: the next write may wait for more.
        try test.folder.storeMark(ReplicatedMark(sequence: sealed[0].lastSequence, lineage: log.lineage), target: "vault")
        usleep(1_200_000)
        let written = Atomic<Int>(0)
        let refused = Atomic<Int32>(0)
        let writer = try OwnThread(name: "writer") {
            do {
                while true {
                    try log.appendBlock(2, at: 1)
                    written.add(1, ordering: .sequentiallyConsistent)
                }
            } catch { refused.store((error as? SystemError)?.errno ?? -1, ordering: .sequentiallyConsistent) }
        }
        usleep(500_000)
        let early = written.load(ordering: .sequentiallyConsistent)
        #expect(early > 0 && early < 40 && refused.load(ordering: .sequentiallyConsistent) == 0)
        try test.folder.storeMark(ReplicatedMark(sequence: sealed[1].lastSequence, lineage: log.lineage), target: "vault")
        let began = Clock.monotonicNanoseconds()
        writer.join()
        // One more segment was filled, then nothing came for as long as a writer waits.
        #expect(written.load(ordering: .sequentiallyConsistent) > early)
        #expect(refused.load(ordering: .sequentiallyConsistent) == ENOSPC)
        #expect(Clock.monotonicNanoseconds() - began > 1_500_000_000)
    }

    // Promise F2: After fsync failed once, the disk refuses writes until it is opened again.
    @Test func aFailedSyncFailsTheLogUntilReopened() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        try log.appendBlock(1, at: 1)
        try log.flush()
        try log.appendBlock(2, at: 2)
        for path in try test.segmentFiles() { try replaceDescriptor(of: path, by: "/dev/null", flags: O_RDWR) }
        #expect(throws: SystemError.self) { try log.flush() }
        #expect(throws: SystemError.self) { try log.flush() }
        #expect(throws: SystemError.self) { try log.appendBlock(3, at: 3) }
        log.abandon()
        let again = try test.open()
        defer { again.log.abandon() }
        #expect(again.replayed.count == 2)
        try again.log.appendBlock(4, at: 4)
        try again.log.flush()
    }

    @Test func manyThreadsFlushAndAppend() throws {
        let test = try TestLog(segments: 64)
        defer { test.remove() }
        let (log, _, _) = try test.open()
        let threads = try (0..<4).map { thread in
            try OwnThread(name: "appender") {
                for count in 0..<200 {
                    do {
                        try log.appendBlock(UInt8(thread), at: UInt64(thread * 1000 + count))
                        if count % 20 == 0 { try log.flush() }
                    } catch { Issue.record("\(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        let durable = try log.makeDurable()
        let records = try test.read(through: durable)
        #expect(records.count == 800 && records.last?.header.sequence == durable)
        #expect(zip(records, records.dropFirst()).allSatisfy { $0.header.sequence < $1.header.sequence })
        for record in records {
            let thread = UInt8(record.header.diskOffset / UInt64(blockBytes) / 1000)
            #expect(record.payload == [UInt8](repeating: thread, count: blockBytes))
        }
        log.abandon()
    }
}
