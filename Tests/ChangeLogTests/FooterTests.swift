import BlockIO
import ChangeLog
import Glibc
import Testing

/// A sealed segment's footer saves a successor time and is never needed. `TestLog.open` compares what is replayed with the tables.
@Suite struct FooterTests {
    @Test func allKindsOfRecordsAreReplayedFromFooters() throws {
        let test = try TestLog()
        defer { test.remove() }
        let log = try filled(test)
        log.abandon()
        let paths = try test.liveFiles()
        #expect(paths.count == 3)
        for path in paths { #expect(try footerEntries(path) > 0) }
        // The tables are not read: what is not there is not missed.
        for path in paths { try overwrite(path, at: 4096) { $0[20] ^= 1 } }
        let replayed = try replay(test)
        #expect(replayed.count == 64)
        #expect(replayed.filter { !$0.isWrite }.map(\.count) == [3, 16384 - 40])
        for path in paths { try overwrite(path, at: 4096) { $0[20] ^= 1 } }
        try test.open().log.abandon()
    }

    @Test(arguments: [0, 8, 13]) func aDamagedFooterIsPassedOver(byte: Int) throws {
        let test = try TestLog()
        defer { test.remove() }
        let log = try filled(test)
        log.abandon()
        for path in try test.liveFiles() { try overwrite(path, at: footerOffset) { $0[byte] ^= 0x40 } }
        let again = try test.open()
        again.log.abandon()
        #expect(again.lastStop == .killed && again.replayed.count == 64)
    }

    /// A log of a release without footers: its seals have zeros where they are named now.
    @Test func aSealWithoutFooterIsRead() throws {
        let test = try TestLog()
        defer { test.remove() }
        let log = try filled(test)
        log.abandon()
        for path in try test.liveFiles() {
            try overwrite(path, at: 512, { seal in
                for byte in 36..<44 { seal[byte] = 0 }
                seal.withUnsafeMutableBytes { $0.putLE(crc32c(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer($0)[..<508])), at: 508) }
            }, count: 512)
        }
        let again = try test.open()
        again.log.abandon()
        #expect(again.replayed.count == 64)
    }

    /// A release without footers filled segments to the last page: such a payload is not written over when they are sealed.
    @Test func payloadInTheFootersPlaceStays() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        for block in 0..<8 { try log.appendBlock(UInt8(block + 1), at: UInt64(block)) }
        log.abandon()
        let path = try test.liveFile()
        let file = try Descriptor.open(path, O_RDWR)
        let header = try file.read(count: 64, at: 0)
        try file.write(try file.read(count: 4096, at: 9 * 4096), at: footerOffset)
        try overwrite(path, at: 4096 + 7 * 64) { slot in
            slot.withUnsafeMutableBytes { bytes in
                bytes.putLE(UInt32(TestLog.segmentBytes / 4096 - 1), at: 32)
                bytes.putLE(UInt32(7), at: 0)
                bytes.putLE(crc32c(UnsafeRawBufferPointer(bytes), seed: crc32c(Array(header[56..<64] + header[48..<56]))), at: 0)
            }
        }
        let second = try test.open()
        #expect(second.replayed.count == 8)
        try second.log.sealAll()
        second.log.abandon()
        #expect(try footerEntries(path) == 0)
        let third = try test.open()
        defer { third.log.abandon() }
        let records = try test.read(through: try third.log.makeDurable())
        #expect(records.count == 8 && records.last?.payload == [UInt8](repeating: 8, count: 4096))
    }

    /// Whatever was stopped in order, or lost power, is checked record by record.
    @Test(arguments: [true, false]) func onlyAfterAKillAreFootersTrusted(clean: Bool) throws {
        let test = try TestLog()
        defer { test.remove() }
        let log = try filled(test)
        if clean { try log.close(cleanStop: LogState.CleanStop(evidence: 1, imageBytes: 0, stamp: 0)) } else { log.abandon() }
        try overwrite(test.liveFile(), at: 4096 + 4 * 64) { $0[20] ^= 1 }
        #expect(throws: LogError.self) { _ = try test.open(boot: clean ? bootA : bootB) }
    }

    // MARK: -

    /// One page, the last: a segment of the tests holds 64 slots.
    /// The table says the same.
    @Test func aFooterThatCannotBeWrittenIsDoneWithout() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        for block in 0..<10 { try log.appendBlock(1, at: UInt64(block)) }
        signal(SIGXFSZ, SIG_IGN)
        var old = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &old)
        // Only the last page lies above.
        var short = rlimit(rlim_cur: rlim_t(footerOffset), rlim_max: old.rlim_max)
        setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &short)
        defer { setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &old) }
        try log.sealAll()
        setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &old)
        // A spare segment may have met the limit too: then room is looked for again after a moment.
        let deadline = Clock.monotonicNanoseconds() + 10_000_000_000
        while true {
            do {
                try log.appendBlock(2, at: 1)
                break
            } catch where Clock.monotonicNanoseconds() < deadline {
                usleep(50_000)
            }
        }
        try log.flush()
        log.abandon()
        #expect(try footerEntries(test.liveFile()) == 0)
        let (again, _, replayed) = try test.open()
        defer { again.abandon() }
        #expect(replayed.count == 11)
    }

    private var footerOffset: UInt64 { UInt64(TestLog.segmentBytes - 4096) }

    /// Three sealed segments, with a zeroed range, a discard, a point and a void among 62 writes.
    private func filled(_ test: TestLog) throws -> ChangeLog {
        let (log, _, _) = try test.open()
        for block in 0..<31 { try log.appendBlock(1, at: UInt64(block)) }
        let zero = try log.reserve(.zero, diskOffset: 8 * 4096, length: 3 * 4096)
        try log.write(zero, .none)
        log.complete(zero)
        log.abort(try log.reserve(.write, diskOffset: 0, length: 8192))
        let discard = try log.reserve(.discard, diskOffset: 40 * 4096, length: (16384 - 40) * 4096)
        try log.write(discard, .none)
        log.complete(discard)
        _ = try ChangeLog.cutPoint([log], tag: "a point")
        for block in 0..<31 { try log.appendBlock(2, at: UInt64(block)) }
        try log.sealAll()
        return log
    }

    private func footerEntries(_ path: String) throws -> UInt32 {
        let seal = try Descriptor.open(path, O_RDONLY).read(count: 512, at: 512)
        return seal.withUnsafeBytes { $0.getLE(UInt32.self, at: 36) }
    }

    /// Without the comparison that `TestLog.open` makes.
    private func replay(_ test: TestLog) throws -> [RecordBlocks] {
        let replay = TestLog.Replay()
        let (log, _) = try ChangeLog.open(
            test.folder, lock: try OwnerLock.acquire(test.folder), sequencer: test.sequencer, options: .init(bootID: bootA)
        ) { blocks, _ in replay.blocks.append(blocks) }
        log.abandon()
        return replay.blocks
    }
}

extension TestLog {
    /// The files of the segments that hold records, oldest first.
    func liveFiles() throws -> [String] {
        var found: [(index: UInt64, path: String)] = []
        for path in try segmentFiles() {
            let file = try Descriptor.open(path, O_RDONLY)
            // One that is being made is empty for a moment.
            guard try file.status().sizeBytes >= 512 else { continue }
            let header = try file.read(count: 512, at: 0)
            let index = header.withUnsafeBytes { $0.getLE(UInt64.self, at: 48) }
            if index > 0 { found.append((index, path)) }
        }
        return found.sorted { $0.index < $1.index }.map(\.path)
    }
}
