import BlockIO
import ChangeLog
import Glibc
import Testing

@Suite struct RecoveryTests {
    // Promise F6: A failed write to the log is not acknowledged and leaves no trace that later hides another record.
    @Test(arguments: [1, 25, 70]) func aHoleIsFilledAndWhatFollowsIsKept(before: Int) throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        for block in 0..<before { try log.appendBlock(1, at: UInt64(block)) }
        let hole = try log.reserve(.write, diskOffset: 0, length: 4096)
        let second = try log.reserve(.write, diskOffset: 4096, length: 8192)
        for block in 0..<40 { try log.appendBlock(2, at: UInt64(block)) }
        log.abandon()

        let again = try test.open()
        defer { again.log.abandon() }
        #expect(again.lastStop == .killed)
        #expect(again.replayed.count == before + 40)
        #expect(!again.replayed.contains { $0.sequence == hole.sequence || $0.sequence == second.sequence })
        let newest = try again.log.appendBlock(3, at: 0)
        let records = try test.read(through: try again.log.makeDurable())
        #expect(records.filter { $0.header.kind == .void }.count == 2)
        #expect(records.last?.header.sequence == newest && records.count == before + 43)
    }

    // Promise D4: After a power loss the disk holds a prefix of its writes in sequence order, and at least every
    // durable one.
    @Test func powerLossCutsAtTheFirstHole() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        let lineage = log.lineage
        for block in 0..<30 { try log.appendBlock(1, at: UInt64(block)) }
        _ = try log.reserve(.write, diskOffset: 0, length: 4096)
        for block in 0..<40 { try log.appendBlock(2, at: UInt64(block)) }
        log.abandon()

        let again = try test.open(boot: bootB)
        #expect(again.replayed.count == 30)
        #expect(again.lastStop == .powerLost(lastSequence: again.replayed[29].sequence))
        let state = again.log.currentState
        #expect(state.lineages.count == 2 && state.lineages[0].id == lineage && again.log.lineage != lineage)
        #expect(state.lineages[1].branchSequence == again.replayed[29].sequence)
        let next = try again.log.appendBlock(3, at: 0)
        again.log.abandon()
        let third = try test.open(boot: bootB)
        defer { third.log.abandon() }
        #expect(third.replayed.count == 31 && third.replayed.last?.sequence == next)
    }

    @Test func powerLossCutsAtATornPayload() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        for block in 0..<10 { try log.appendBlock(UInt8(block + 1), at: UInt64(block)) }
        log.abandon()
        let records = try test.read()
        let page = UInt64(records[6].header.payloadPage)
        try overwrite(test.liveFile(), at: page * 4096 + 1024) { $0[5] ^= 1 }

        let again = try test.open(boot: bootB)
        again.log.abandon()
        #expect(again.replayed.count == 6)
    }

    @Test func whatWasFlushedAndIsGoneIsDamage() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        for block in 0..<10 { try log.appendBlock(1, at: UInt64(block)) }
        try log.flush()
        try log.appendBlock(2, at: 11)
        log.abandon()
        try overwrite(test.liveFile(), at: 4096 + 4 * 64) { $0[20] ^= 1 }
        let error = #expect(throws: LogError.self) { _ = try test.open(boot: bootB) }
        guard case .damaged(_, 1, _, _, _) = error else { Issue.record("\(String(describing: error))"); return }
    }

    @Test func damageInASealedSegmentIsNamed() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        for block in 0..<100 { try log.appendBlock(1, at: UInt64(block)) }
        try log.close(cleanStop: LogState.CleanStop(evidence: 1, imageBytes: 0, stamp: 0))
        let path = try test.liveFile()
        try overwrite(path, at: 4096 + 4 * 64) { $0[20] ^= 1 }
        let error = #expect(throws: LogError.self) { _ = try test.open() }
        guard case .damaged(path, 1, UInt64(4096 + 4 * 64), 4, _) = error else { Issue.record("\(String(describing: error))"); return }
    }

    /// A guest that could read the log writes it back as data: headers in payload are never looked at.
    // Promise D5: A record is accepted only where the log itself placed it, so guest data that imitates one is never
    // taken for one.
    @Test func forgedHeadersInGuestDataAreIgnored() throws {
        let test = try TestLog(segments: 3)
        defer { test.remove() }
        var (log, _, _) = try test.open()
        for round in 0..<12 {
            try log.appendBlock(0xEE, at: 100)
            // The live segment's own pages, header, seal and table with the live nonce, at every payload page in turn.
            let path = try test.liveFile()
            let file = try Descriptor.open(path, O_RDONLY)
            let forged = try file.read(count: 8192, at: 0)
            var appended: [UInt64] = []
            for block in 0..<5 { appended.append(try log.append(forged, at: UInt64(block * 8192))) }
            _ = try log.reserve(.write, diskOffset: 0, length: 16384)
            appended.append(try log.append(forged, at: 0))
            log.abandon()
            let again = try test.open(boot: round % 3 == 2 ? bootB + String(round) : again(boot: log))
            let expected = round % 3 == 2 ? Array(appended.dropLast()) : appended
            #expect(again.replayed.map(\.sequence).suffix(expected.count) == expected[...])
            #expect(again.replayed.allSatisfy { $0.length == 8192 || $0.diskOffset == 409_600 })
            log = again.log
            // Into the image and out of the log, so that the next rounds use recycled files.
            try log.sealAll()
            if let last = log.sealedSegments(limit: 100).last {
                try log.noteDestaged(last)
                log.releaseDestaged(last)
            }
        }
        log.abandon()
        #expect(try test.segmentFiles().count <= 3)
    }

    /// A killed writer's place, and whole records behind it. Returns their sequences and the file.
    private func logWithHole(_ test: TestLog, _ change: (inout FilesystemPlace) -> Void) throws -> (sequences: [UInt64], file: String) {
        let (log, _, _) = try test.open()
        let first = try log.appendBlock(1, at: 1)
        _ = try log.reserve(.write, diskOffset: 0, length: UInt64(blockBytes))
        let sequences = [first, try log.appendBlock(2, at: 2), try log.appendBlock(3, at: 3)]
        log.abandon()
        var state = try test.folder.readState()
        var place = try #require(state.place)
        change(&place)
        state.place = place
        try DurableFile.replace(test.folder.stateFile, with: Array(state.encoded().utf8))
        return (sequences, try test.liveFile())
    }

    /// Another mount may be one of the same filesystem, with the page cache as it was: what is whole stays, also behind a hole.
    @Test func anotherMountLosesNothingThatIsWhole() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (sequences, _) = try logWithHole(test) { $0.mount += 1 }
        let (log, lastStop, replayed) = try test.open()
        defer { log.abandon() }
        #expect(lastStop == .killed && replayed.map(\.sequence) == sequences)
        #expect(try log.currentState.place == FilesystemPlace.of(folder: test.folder.path))
    }

    /// It was another page cache after all.
    @Test func whatIsNotWholeAfterAnotherMountIsCut() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (sequences, file) = try logWithHole(test) { $0.mount += 1 }
        let geometry = SegmentGeometry(segmentBytes: TestLog.segmentBytes)!
        try overwrite(file, at: SegmentGeometry.pageOffset(geometry.firstPayloadPage + 3), { $0[0] ^= 1 })
        let (log, lastStop, replayed) = try test.open()
        defer { log.abandon() }
        #expect(lastStop == .powerLost(lastSequence: sequences[0]) && replayed.map(\.sequence) == [sequences[0]])
    }

    /// Its device went and came back: nothing in memory survived that, so a hole may be a write that was acknowledged.
    @Test func aDeviceThatCameAnewIsAPowerLoss() throws {
        let then = FilesystemPlace(device: 0x801, inode: 7, diskSequence: 3, mount: 9)
        var now = then
        #expect(now.relation(to: then) == .same)
        now.mount = 10
        #expect(now.relation(to: then) == .unsure)
        now.diskSequence = 0
        #expect(now.relation(to: then) == .unsure, "a count that cannot be read is none that changed")
        now.diskSequence = 4
        #expect(now.relation(to: then) == .another)
        now.mount = then.mount
        #expect(now.relation(to: then) == .unsure, "the mount stayed")
        // A copy, or a filesystem without a device of its own.
        now.inode = 8
        #expect(now.relation(to: then) == .unsure)
        now = FilesystemPlace(device: 0x2a, inode: 7, diskSequence: 0, mount: 10)
        #expect(now.relation(to: then) == .unsure)
        let test = try TestLog()
        defer { test.remove() }
        let place = try FilesystemPlace.of(folder: test.root)
        guard place.device >> 8 & 0xfff != 0, place.diskSequence != 0 else { return }
        let (sequences, _) = try logWithHole(test) {
            $0.diskSequence += 1
            $0.mount += 1
        }
        let (log, lastStop, replayed) = try test.open()
        defer { log.abandon() }
        #expect(lastStop == .powerLost(lastSequence: sequences[0]) && replayed.map(\.sequence) == [sequences[0]])
    }

    /// The image is said to hold it, but was never given it.
    @Test(arguments: [bootA, bootB]) func aDestagedSegmentWithoutSealIsRefused(boot: String) throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        try log.appendBlock(1, at: 1)
        try log.flush()
        log.abandon()
        var state = try test.folder.readState()
        state.destagedSegment = 1
        try DurableFile.replace(test.folder.stateFile, with: Array(state.encoded().utf8))
        let error = #expect(throws: LogError.self) { try test.open(boot: boot) }
        guard case .damaged(_, 1, _, _, let reason) = error, reason.contains("not sealed") else { Issue.record("\(String(describing: error))"); return }
    }

    /// Were it taken for a spare one, an append could fail for want of room.
    @Test func aSpareFileWithoutBlocksIsRemoved() throws {
        let test = try TestLog()
        defer { test.remove() }
        try test.open().log.abandon()
        let path = test.folder.path + "/segment-000777"
        try Descriptor.open(path, O_RDWR | O_CREAT).truncate(to: UInt64(TestLog.segmentBytes))
        let (log, _, _) = try test.open()
        defer { log.abandon() }
        #expect(access(path, F_OK) != 0)
    }

    private func again(boot log: ChangeLog) -> String { log.currentState.bootID }

    @Test func aSecondOwnerIsRefused() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        #expect(throws: LogError.inUse(folder: test.folder.path)) { _ = try test.open() }
        log.abandon()
    }
}

extension TestLog {
    /// The file of the oldest segment that holds records.
    func liveFile() throws -> String { try #require(try liveFiles().first) }
}
