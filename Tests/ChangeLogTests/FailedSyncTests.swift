// After a failed sync the page cache and the disk differ, and the kernel says nothing more about it.

import BlockIO
import ChangeLog
import Glibc
import Synchronization
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

    private func open(_ test: TestLog, boot: String = bootA, didSync: @escaping @Sendable (String) -> Void) throws -> ChangeLog {
        try ChangeLog.open(
            test.folder, lock: try OwnerLock.acquire(test.folder), sequencer: test.sequencer, options: .init(bootID: boot, didSync: didSync)
        ) { _, _ in }.log
    }

    private func isThere(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// The next kill may come before the first flush.
    @Test func theNoteStaysUntilAllOfTheLogWasSyncedAgain() throws {
        let test = try TestLog()
        defer { test.remove() }
        let path = try failedLog(test)
        let note = test.folder.failedSyncFile
        let synced = Mutex<[String]>([])
        let log = try open(test) { file in
            if access(note, F_OK) == 0 { synced.withLock { $0.append(file) } }
        }
        defer { log.abandon() }
        #expect(synced.withLock { $0 } == [path])
        #expect(!isThere(note))
        try log.appendBlock(4, at: 4)
        try log.flush()
    }

    /// Two segments are not sealed; what the second one holds is lost while the first is synced again.
    @Test func whileSyncsFailTheLogCanBeReadOnly() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        let held = try log.reserve(.write, diskOffset: 0, length: UInt64(blockBytes))
        try log.appendToNextSegment(than: held)
        log.abandon()
        try DurableFile.replace(test.folder.failedSyncFile, with: [])
        let files = try test.liveFiles()
        let lost = payloadOffset(0)
        let isFirst = Atomic(true)
        let again = try open(test) { _ in
            guard isFirst.exchange(false, ordering: .sequentiallyConsistent) else { return }
            do { try overwrite(files[1], at: lost, { $0 = [UInt8](repeating: 0, count: $0.count) }, count: blockBytes) } catch { Issue.record(error) }
        }
        #expect(files.count == 2 && again.status.failure != nil && isThere(test.folder.failedSyncFile))
        #expect(throws: SystemError.self) { try again.appendBlock(9, at: 9) }
        #expect(throws: SystemError.self) { try again.flush() }
        again.abandon()
        #expect(throws: LogError.self) { try test.open() }
    }

    /// It is acknowledged after the failure, so the opening that misses it must not take it for a write that never ended.
    @Test func aWriteAcknowledgedAfterTheFailureMayNotBeMissing() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        let bytes = [UInt8](repeating: 1, count: blockBytes)
        let first = try log.reserve(.write, diskOffset: 0, length: UInt64(blockBytes))
        try bytes.withUnsafeBytes { try log.write(first, RecordPayload($0)) }
        let flusher = try OwnThread(name: "flusher") { #expect(throws: SystemError.self) { try log.flush() } }
        usleep(200_000)
        let second = try log.reserve(.write, diskOffset: 8192, length: UInt64(blockBytes))
        // From here on nothing reaches the file: as pages that are lost.
        try replaceDescriptor(of: try onlySegment(test), by: "/dev/null", flags: O_RDWR)
        log.complete(first)
        for _ in 0..<500 where !isThere(test.folder.failedSyncFile) { usleep(10_000) }
        #expect(isThere(test.folder.failedSyncFile))
        try bytes.withUnsafeBytes { try log.write(second, RecordPayload($0)) }
        log.complete(second)
        #expect(throws: SystemError.self) { try log.flush() }
        flusher.join()
        log.abandon()
        let error = #expect(throws: LogError.self) { try test.open() }
        guard case .damaged = error else { Issue.record("\(String(describing: error))"); return }
    }

    /// Of a file that holds nothing nothing is lost: it goes, and the log goes on.
    @Test(.timeLimit(.minutes(1))) func aSpareThatCannotBeSyncedIsReplaced() throws {
        let test = try TestLog(segments: 4)
        defer { test.remove() }
        let (log, _, _) = try test.open()
        defer { log.abandon() }
        for round in 0..<8 {
            for block in 0..<20 { try log.appendBlock(UInt8(round), at: UInt64(block)) }
            try log.sealAll()
            let segment = try #require(log.sealedSegments(limit: 1).first)
            let path = try test.liveFile()
            try replaceDescriptor(of: path, by: "/dev/null", flags: O_RDWR)
            try log.noteDestaged(segment)
            log.releaseDestaged(segment)
            for _ in 0..<500 where isThere(path) { usleep(10_000) }
            #expect(!isThere(path), "round \(round)")
        }
        try log.flush()
        #expect(!isThere(test.folder.failedSyncFile) && log.status.failure == nil && log.status.refusedAppends == 0)
    }

    /// An opening before this one wiped what the power loss cut off, and its sync failed.
    @Test func whatACutWipedIsWipedAgain() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        try log.appendToNextSegment(than: try log.reserve(.write, diskOffset: 0, length: UInt64(blockBytes)))
        log.abandon()
        let wiped = try test.liveFiles()[1]
        try overwrite(wiped, at: 0, { $0 = [UInt8](repeating: 0, count: $0.count) }, count: 512)
        let folder = test.folder
        let synced = Mutex<[String]>([])
        let again = try open(test, boot: bootB) { file in
            guard let state = try? folder.readState(), state.bootID == bootA else { return }
            synced.withLock { $0.append(file) }
        }
        defer { again.abandon() }
        #expect(synced.withLock { $0 }.contains(wiped))
    }

    /// The owner of the newest seal was killed before it had synced it, or its sync failed.
    @Test func theNewestSealIsWrittenAgainByACut() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        for _ in 0..<2 {
            try log.appendBlock(1, at: 1)
            try log.sealAll()
        }
        log.abandon()
        let newest = try test.liveFiles()[1]
        let before = try changeTime(newest)
        usleep(50_000)
        let folder = test.folder
        let synced = Mutex<[String]>([])
        let again = try open(test, boot: bootB) { file in
            guard let state = try? folder.readState(), state.bootID == bootA else { return }
            synced.withLock { $0.append(file) }
        }
        defer { again.abandon() }
        #expect(synced.withLock { $0 }.contains(newest))
        #expect(try changeTime(newest) > before)
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
