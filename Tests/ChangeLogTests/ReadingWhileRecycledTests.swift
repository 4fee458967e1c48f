// `point list` reads the log of a running mount: segments are recycled under it all the time.

import BlockIO
import ChangeLog
import Glibc
import Synchronization
import Testing

@Suite struct ReadingWhileRecycledTests {
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
