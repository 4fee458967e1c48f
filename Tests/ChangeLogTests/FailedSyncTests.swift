// After a failed sync the page cache and the disk differ, and the kernel says nothing more about it.

import BlockIO
import ChangeLog
import Glibc
import Testing

@Suite struct FailedSyncTests {
    private func onlySegment(_ test: TestLog) throws -> String {
        for path in try test.segmentFiles() where try Descriptor.open(path, O_RDONLY).read(count: 8, at: 0) != [UInt8](repeating: 0, count: 8) { return path }
        throw SystemError(errno: ENOENT, operation: "find a segment in use", path: test.folder.path)
    }

    private func changeTime(_ path: String) throws -> Int64 { try Descriptor.open(path, O_RDONLY).status().changeTimeNanoseconds }

    /// Three records, the first of them flushed, and then a sync that fails.
    private func failedLog(_ test: TestLog) throws -> String {
        let (log, _, _) = try test.open()
        defer { log.abandon() }
        try log.appendBlock(1, at: 1)
        try log.flush()
        for number in 2...3 { try log.appendBlock(UInt8(number), at: UInt64(number)) }
        let path = try onlySegment(test)
        try replaceDescriptor(of: path, by: "/dev/null", flags: O_RDWR)
        #expect(throws: SystemError.self) { try log.flush() }
        return path
    }

    private func payloadOffset(_ slot: Int) -> UInt64 {
        let geometry = SegmentGeometry(segmentBytes: TestLog.segmentBytes)!
        return SegmentGeometry.pageOffset(geometry.firstPayloadPage + slot)
    }

    /// Pages are clean in the page cache and not on the disk, whether the failure was told or went to a process that died:
    /// what no sync covered is written once more before a sync may vouch for it.
    @Test(arguments: [true, false]) func whatAKilledOwnerLeftIsWrittenAgain(_ wasTold: Bool) throws {
        let test = try TestLog()
        defer { test.remove() }
        let path = try failedLog(test)
        if !wasTold { unlink(test.folder.failedSyncFile) }
        let failed = try changeTime(path)
        usleep(50_000)
        let (again, _, replayed) = try test.open()
        #expect(replayed.count == 3)
        try again.flush()
        let rewritten = try changeTime(path)
        #expect(rewritten > failed)
        try again.flush()
        try again.close(cleanStop: LogState.CleanStop(evidence: 1, imageBytes: 0, stamp: 0))
        usleep(50_000)
        let (third, _, _) = try test.open()
        defer { third.abandon() }
        try third.flush()
        #expect(try changeTime(path) == rewritten, "what was synced is not written again")
    }

    // Promise F9: After a failed sync nothing counts as durable before it was checked and written again, and a disk that
    // lost an acknowledged write is refused by name until the host is restarted, never served without it.
    @Test func aLostPayloadIsRefusedUntilTheHostIsRestarted() throws {
        let test = try TestLog()
        defer { test.remove() }
        let path = try failedLog(test)
        // The clean page was given up, and reads as what the disk has.
        try overwrite(path, at: payloadOffset(1), { $0 = [UInt8](repeating: 0, count: $0.count) }, count: blockBytes)
        for _ in 0..<2 {
            let error = #expect(throws: LogError.self) { try test.open() }
            guard case .damaged(path, 1, _, _, let reason) = error, reason.contains("restart this host") else { Issue.record("\(String(describing: error))"); return }
        }
        let (log, lastStop, replayed) = try test.open(boot: bootB)
        defer { log.abandon() }
        #expect(replayed.count == 1 && lastStop == .powerLost(lastSequence: replayed[0].sequence))
    }

    /// The page of the record table was given up: the records' headers are gone, and nothing in the log tells of them.
    @Test(arguments: [1...1, 2...2, 1...2]) func lostRecordsAreRefused(_ lost: ClosedRange<Int>) throws {
        let test = try TestLog()
        defer { test.remove() }
        let path = try failedLog(test)
        for slot in lost { try overwrite(path, at: SegmentGeometry.slotOffset(slot)) { $0 = [UInt8](repeating: 0, count: $0.count) } }
        let error = #expect(throws: LogError.self) { try test.open() }
        guard case .damaged = error else { Issue.record("\(String(describing: error))"); return }
        let (log, _, replayed) = try test.open(boot: bootB)
        defer { log.abandon() }
        #expect(replayed.count == lost.lowerBound)
    }

    /// Without its header the segment looks like a spare file.
    @Test func aLostHeaderIsRefused() throws {
        let test = try TestLog()
        defer { test.remove() }
        let path = try failedLog(test)
        try overwrite(path, at: 0, { $0 = [UInt8](repeating: 0, count: $0.count) }, count: 512)
        let error = #expect(throws: LogError.self) { try test.open() }
        guard case .damaged(test.folder.path, 1, _, _, _) = error else { Issue.record("\(String(describing: error))"); return }
    }

    /// A write that was under way when the sync failed was never acknowledged: it may be missing, others may not. A note that
    /// was cut short says nothing.
    @Test func onlyWritesThatWereUnderWayMayBeMissing() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        let sequences = try (1...3).map { try log.appendBlock(UInt8($0), at: UInt64($0)) }
        let path = try onlySegment(test)
        log.abandon()
        try overwrite(path, at: SegmentGeometry.slotOffset(1)) { $0 = [UInt8](repeating: 0, count: $0.count) }
        let start = "farshore failed sync 1\nsegment 1\nslots 3\n"
        for wrong in ["", "in-flight \(sequences[0])\n", "in-flight \(sequences[2])\n"] {
            try DurableFile.replace(test.folder.failedSyncFile, with: Array((start + wrong + "end \n").utf8))
            #expect(throws: LogError.self) { try test.open() }
        }
        try DurableFile.replace(test.folder.failedSyncFile, with: Array("farshore failed sync 1\nsegment 1\nslots 4\nin-flight \(sequences[1])\nend \n".utf8))
        #expect(throws: LogError.self) { try test.open() }
        for right in [start + "in-flight \(sequences[1])\nend \n", start + "in-fl"] {
            try DurableFile.replace(test.folder.failedSyncFile, with: Array(right.utf8))
            let (again, _, replayed) = try test.open()
            #expect(replayed.map(\.sequence) == [sequences[0], sequences[2]])
            again.abandon()
            try overwrite(path, at: SegmentGeometry.slotOffset(1)) { $0 = [UInt8](repeating: 0, count: $0.count) }
        }
    }

    /// What the last owner wrote is gone before the first flush: the flush fails, and the next opening refuses.
    @Test func aRecordLostBeforeTheFirstFlushFailsIt() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        try log.appendBlock(1, at: 1)
        let path = try onlySegment(test)
        log.abandon()
        let (again, _, _) = try test.open()
        try overwrite(path, at: payloadOffset(0), { $0 = [UInt8](repeating: 0, count: $0.count) }, count: blockBytes)
        #expect(throws: SystemError.self) { try again.flush() }
        #expect(throws: SystemError.self) { try again.appendBlock(2, at: 2) }
        again.abandon()
        #expect(throws: LogError.self) { try test.open() }
    }
}
