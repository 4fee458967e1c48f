// `point list` reads the log of a running mount: segments are recycled under it all the time.

import BlockIO
import ChangeLog
import Glibc
import Synchronization
import Testing

@Suite struct ReadingWhileRecycledTests {
    // Linux's own numbers; the C library shows them to programs that ask for all of it.
    private let setLease: Int32 = 1024
    private let getLease: Int32 = 1025

    /// It is listed while a record of it is under way, so without a seal, and is recycled before it is opened: the reader wants
    /// none of its records. A lease on the last file holds up the list meanwhile.
    @Test(.timeLimit(.minutes(1))) func aSegmentRecycledAfterItWasListedIsPassedOver() throws {
        let test = try TestLog(targets: ["vault"])
        defer { test.remove() }
        let (log, _, _) = try test.open()
        defer { log.abandon() }
        let held = try log.reserve(.write, diskOffset: 0, length: UInt64(blockBytes))
        let (last, next) = try log.appendToNextSegment(than: held)
        let file = try test.liveFile()
        let lease = try Descriptor.open(test.folder.path + "/segment-999999", O_RDWR | O_CREAT)
        try lease.truncate(to: UInt64(TestLog.segmentBytes))
        signal(SIGIO, SIG_IGN)
        let isLeased = fcntl(lease.raw, setLease, F_WRLCK) == 0
        #expect(isLeased)
        guard isLeased else { return }
        let found = Mutex<Result<[UInt64], any Error>?>(nil)
        let folder = test.folder
        let reader = try OwnThread(name: "reader") {
            let result = Result {
                var seen: [UInt64] = []
                _ = try LogReader(folder).records(after: last, through: next) { header, _ in seen.append(header.sequence) }
                return seen
            }
            found.withLock { $0 = result }
        }
        while fcntl(lease.raw, getLease) == F_WRLCK { usleep(1_000) }
        let bytes = [UInt8](repeating: 7, count: blockBytes)
        try bytes.withUnsafeBytes { try log.write(held, RecordPayload($0)) }
        log.complete(held)
        while log.sealedSegments(limit: 1).isEmpty { usleep(1_000) }
        let segment = log.sealedSegments(limit: 1)[0]
        try test.folder.storeMark(ReplicatedMark(sequence: last, lineage: log.lineage), target: "vault")
        try log.noteDestaged(segment)
        log.releaseDestaged(segment)
        while try Descriptor.open(file, O_RDONLY).read(count: 8, at: 0) != [UInt8](repeating: 0, count: 8) { usleep(1_000) }
        #expect(fcntl(lease.raw, setLease, F_UNLCK) == 0)
        reader.join()
        #expect(try found.withLock { $0 }?.get() == [next])
    }

    @Test func pointsAndHeadersAreReadWhileSegmentsAreRecycled() throws {
        let test = try TestLog()
        defer { test.remove() }
        let log = try test.open().log
        defer { log.abandon() }
        let rounds = 250
        let failures = Mutex<[String]>([])
        let isOver = Atomic(false)
        let writer = try OwnThread(name: "writer") {
            do {
                for round in 0..<rounds {
                    for block in 0..<10 { try log.appendBlock(UInt8(truncatingIfNeeded: round), at: UInt64(block)) }
                    _ = try ChangeLog.cutPoint([log], tag: "round-\(round)")
                    try log.flush()
                    try log.sealAll()
                    for segment in log.sealedSegments(limit: 8) {
                        try log.noteDestaged(segment)
                        log.releaseDestaged(segment)
                    }
                    usleep(2_000)
                }
            } catch {
                failures.withLock { $0.append("\(error)") }
            }
            isOver.store(true, ordering: .sequentiallyConsistent)
        }
        var reads = 0
        var newest: UInt64 = 0
        repeat {
            let points = try LogReader(test.folder).points()
            #expect(zip(points, points.dropFirst()).allSatisfy { $0.sequence < $1.sequence })
            #expect(points.allSatisfy { $0.tag.hasPrefix("round-") })
            var last = UInt64.max
            try LogReader(test.folder).headersNewestFirst { record in
                #expect(record.sequence < last)
                last = record.sequence
                return true
            }
            // What is newest never goes away.
            #expect(points.last?.sequence ?? newest >= newest)
            newest = points.last?.sequence ?? newest
            reads += 1
        } while !isOver.load(ordering: .sequentiallyConsistent)
        writer.join()
        #expect(failures.withLock { $0 } == [])
        #expect(reads > 5)
    }
}
