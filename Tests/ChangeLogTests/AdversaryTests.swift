// Crashes between two steps, waits that let somebody in, and folders made to bring the program down.

import BlockIO
import ChangeLog
import Glibc
import Synchronization
import Testing

@Suite struct AdversaryTests {
    /// A write that sleeps for room must not get its place between a partial write's read and its append: the partial
    /// write would put back what it had read.
    @Test func aWriteThatWaitedForRoomStillWaitsForPartialWrites() throws {
        let test = try TestLog(segments: 3)
        defer { test.remove() }
        let (log, _, _) = try test.open()
        defer { log.abandon() }
        log.setDestageObstacle(nil)
        let appended = Atomic<Int>(0), isDone = Atomic<Bool>(false)
        let writer = try OwnThread(name: "writer") {
            while !isDone.load(ordering: .relaxed), (try? log.appendBlock(1, at: 7)) != nil { appended.add(1, ordering: .relaxed) }
        }
        waitUntilSteady(appended)
        log.holdPartialRange(7...7)
        let before = appended.load(ordering: .relaxed)
        try release(log)
        usleep(400_000)
        #expect(appended.load(ordering: .relaxed) == before)
        log.releasePartialRange(7...7)
        usleep(200_000)
        #expect(appended.load(ordering: .relaxed) > before)
        isDone.store(true, ordering: .relaxed)
        log.setDestageObstacle("the test is over")
        writer.join()
    }

    /// No new file can be had, but destage is about to free one: the guest waits instead of getting ENOSPC.
    @Test func aFullFilesystemIsWaitedOutWhileDestageFreesSegments() throws {
        let test = try TestLog(segments: 6)
        defer { test.remove() }
        let (log, _, _) = try test.open()
        defer { log.abandon() }
        while log.status.fileBytes < 2 * UInt64(TestLog.segmentBytes) { usleep(1000) }
        let obstacles = (2..<100).map { number in test.folder.path + "/segment-" + String(String(1_000_000 + number).dropFirst()) }
        for path in obstacles { mkdir(path, 0o700) }
        defer { for path in obstacles { rmdir(path) } }
        log.setDestageObstacle(nil)
        let failed = Mutex<String?>(nil)
        let appended = Atomic<Int>(0)
        let writer = try OwnThread(name: "writer") {
            for _ in 0..<60 {
                do { try log.appendBlock(1, at: 7) } catch { return failed.withLock { $0 = "\(error)" } }
                appended.add(1, ordering: .relaxed)
            }
        }
        waitUntilSteady(appended)
        for _ in 0..<2 where appended.load(ordering: .relaxed) < 60 {
            try release(log)
            waitUntilSteady(appended)
        }
        log.setDestageObstacle("the test is over")
        writer.join()
        #expect(failed.withLock { $0 } == nil)
        #expect(appended.load(ordering: .relaxed) == 60)
    }

    /// Nothing was flushed: the loss of the very first header loses what came after, and no more.
    @Test func aPowerLossBeforeTheFirstHeaderWasDurableIsACut() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        while log.status.liveSegments < 2 { try log.appendBlock(1, at: 7) }
        log.abandon()
        try overwrite(try segment(test, index: 1), at: 0, { $0 = [UInt8](repeating: 0, count: 4096) }, count: 4096)
        let (again, lastStop, replayed) = try test.open(boot: bootB)
        defer { again.abandon() }
        #expect(lastStop == .powerLost(lastSequence: 0) && replayed.isEmpty)
        try again.appendBlock(2, at: 1)
        try again.flush()
    }

    /// Were the seal zeroed too, a power loss could take the seal and leave the header: a live segment without its seal.
    @Test func recyclingChangesOneSector() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        defer { log.abandon() }
        try log.appendBlock(1, at: 7)
        try log.sealAll()
        let path = try segment(test, index: 1)
        let before = try Descriptor.open(path, O_RDONLY).read(count: TestLog.segmentBytes, at: 0)
        try release(log)
        while try indexes(test)[path] != 0 { usleep(1000) }
        let after = try Descriptor.open(path, O_RDONLY).read(count: TestLog.segmentBytes, at: 0)
        #expect(before[512...] == after[512...] && after[..<512].allSatisfy { $0 == 0 })
    }

    /// A killed owner may have wiped a spare without syncing it; used again, its old header could come back after a power loss.
    @Test func sparesAreDurableBeforeTheyAreUsedAgain() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        while log.status.fileBytes < 2 * UInt64(TestLog.segmentBytes) { usleep(1000) }
        log.abandon()
        let spares = try test.segmentFiles()
        let synced = Mutex<Set<String>>([])
        let options = ChangeLog.Options(bootID: bootA) { path in synced.withLock { _ = $0.insert(path) } }
        let (again, _) = try ChangeLog.open(
            test.folder, lock: try OwnerLock.acquire(test.folder), sequencer: test.sequencer, options: options) { _, _ in }
        defer { again.abandon() }
        try again.appendBlock(1, at: 0)
        let used = try #require(again.liveFiles.last)
        #expect(spares.contains(used) && synced.withLock { $0.contains(used) })
    }

    // MARK: - folders made to bring the program down

    @Test func aSealThatCountsTooManyRecordsIsDamage() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        // A full table: the reader finds no empty slot to stop at.
        for _ in 0..<64 { _ = try ChangeLog.cutPoint([log], tag: "") }
        try log.sealAll()
        log.abandon()
        try overwrite(try segment(test, index: 1), at: 512, { sector in
            sector[32] = 0xFF
            sector[33] = 0xFF
            putChecksum(crc32c(Array(sector[..<508])), &sector, at: 508)
        }, count: 512)
        #expect(throws: LogError.self) { try test.read() }
        #expect(throws: LogError.self) { try test.open() }
    }

    @Test func aHoleAfterTheLastPossibleSequenceIsDamage() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        for block in 0..<3 { try log.appendBlock(1, at: UInt64(block)) }
        log.abandon()
        let path = try segment(test, index: 1)
        let page = try Descriptor.open(path, O_RDONLY).read(count: 512, at: 0)
        let seed = crc32c(Array(page[56..<64]) + Array(page[48..<56]))
        try overwrite(path, at: 4096) { slot in
            for place in 8..<16 { slot[place] = 0xFF }
            slot.replaceSubrange(0..<4, with: [0, 0, 0, 0])
            let checksum = slot.withUnsafeBytes { crc32c($0, seed: seed) }
            putChecksum(checksum, &slot, at: 0)
        }
        try overwrite(path, at: 4096 + 64) { $0 = [UInt8](repeating: 0, count: 64) }
        #expect(throws: LogError.self) { try test.open() }
    }

    @Test func absurdNumbersInStateAndNamesAreRefusedOrLeftAlone() throws {
        let test = try TestLog()
        defer { test.remove() }
        let file = try Descriptor.open(test.folder.path + "/segment-9223372036854775807", O_RDWR | O_CREAT)
        try file.truncate(to: UInt64(TestLog.segmentBytes))
        let (log, _, _) = try test.open()
        try log.appendBlock(1, at: 1)
        log.abandon()
        var state = try test.folder.readState()
        state.budgetBytes = .max
        try DurableFile.replace(test.folder.stateFile, with: Array(state.encoded().utf8))
        let (again, _, _) = try test.open()
        again.abandon()
        state.destagedSegment = .max
        try DurableFile.replace(test.folder.stateFile, with: Array(state.encoded().utf8))
        #expect(throws: LogError.self) { try test.open() }
    }

    // MARK: - means

    private func waitUntilSteady(_ count: borrowing Atomic<Int>) {
        var last = -1
        while last != count.load(ordering: .relaxed) || last == 0 {
            last = count.load(ordering: .relaxed)
            usleep(300_000)
        }
    }

    /// The sync of a wipe failed, the wipes after it reached the disk, then power was lost: the old header is back without its
    /// followers. Were it believed, the next segment would get an index that the image is said to hold already. (Simulation, seed 399.)
    @Test func aWipedSegmentThatComesBackIsSpare() throws {
        let test = try TestLog(segments: 6)
        defer { test.remove() }
        let (log, _, _) = try test.open()
        while log.status.liveSegments < 4 { try log.appendBlock(1, at: 7) }
        try log.sealAll()
        let old = try segment(test, index: 1)
        let page = try Descriptor.open(old, O_RDONLY).read(count: 4096, at: 0)
        while !log.sealedSegments(limit: 1).isEmpty { try release(log) }
        for _ in 0..<100 where try indexes(test).values.contains(where: { $0 > 0 }) { usleep(100_000) }
        log.abandon()
        #expect(try indexes(test).values.allSatisfy { $0 == 0 })
        try overwrite(old, at: 0, { $0 = page }, count: 4096)
        let (again, _, replayed) = try test.open(boot: bootB)
        #expect(replayed.isEmpty)
        let sequence = try again.appendBlock(2, at: 8)
        try again.flush()
        again.abandon()
        let (last, _, found) = try test.open(boot: bootB)
        defer { last.abandon() }
        #expect(found.map(\.sequence) == [sequence])
    }

    /// An opening after a power loss may be killed between a seal and its sync. The next one finds the seal in the page cache;
    /// were the one after it durable first, the next power loss would cut what had been flushed. (Simulation, seed 1414.)
    @Test func theNewestSealIsSyncedBeforeTheLogIsCut() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        try log.appendBlock(1, at: 1)
        try log.sealAll()
        log.abandon()
        let sealed = try segment(test, index: 1)
        let synced = Mutex<Set<String>>([])
        let options = ChangeLog.Options(bootID: bootB) { path in synced.withLock { _ = $0.insert(path) } }
        let (again, _) = try ChangeLog.open(
            test.folder, lock: try OwnerLock.acquire(test.folder), sequencer: test.sequencer, options: options) { _, _ in }
        again.abandon()
        #expect(synced.withLock { $0.contains(sealed) })
    }

    /// What destage does with the oldest sealed segment, without an image.
    private func release(_ log: ChangeLog) throws {
        let oldest = try #require(log.sealedSegments(limit: 1).first)
        try log.noteDestaged(oldest)
        log.releaseDestaged(oldest)
    }

    /// The index of each segment file, 0 when spare.
    private func indexes(_ test: TestLog) throws -> [String: UInt64] {
        var found: [String: UInt64] = [:]
        for path in try test.segmentFiles() {
            let bytes = try Descriptor.open(path, O_RDONLY).read(count: 8, at: 48)
            found[path] = bytes.withUnsafeBytes { $0.getLE(UInt64.self, at: 0) }
        }
        return found
    }

    private func segment(_ test: TestLog, index: UInt64) throws -> String {
        try #require(try indexes(test).first { $0.value == index }).key
    }

    private func putChecksum(_ checksum: UInt32, _ bytes: inout [UInt8], at offset: Int) {
        bytes.withUnsafeMutableBytes { $0.putLE(checksum, at: offset) }
    }
}
