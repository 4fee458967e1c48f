// Space pressure with the target away: the oldest segments become fewer. Whatever the log says can be had is what was written, also for
// a reader beside it, and for whoever opens a copy of the folder as it was at any of its syncs.

import BlockIO
import ChangeLog
import Glibc
import Synchronization
import Testing

/// The same numbers in each run.
private struct Numbers: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state ^ state >> 29
    }
}

@Suite struct MergingTests {
    static let segments: UInt64 = 16

    /// A small region written over and over, with points in between, and what it holds at each sequence.
    private final class Region {
        let test: TestLog
        let log: ChangeLog
        private var history: [(sequence: UInt64, block: UInt64, count: Int, fill: UInt8)] = []
        private(set) var points: [UInt64] = []
        private var random: Numbers

        init(seed: UInt64 = 1, didSync: (@Sendable (String) -> Void)? = nil) throws {
            test = try TestLog(targets: ["vault"], segments: MergingTests.segments)
            random = Numbers(state: seed)
            // A target that has nothing yet gets the image.
            try test.folder.storeMark(ReplicatedMark(sequence: 1, lineage: try test.folder.readState().lineage), target: "vault")
            let options = ChangeLog.Options(bootID: bootA, didSync: didSync, catchingUpSeconds: 1)
            log = try ChangeLog.open(test.folder, lock: try OwnerLock.acquire(test.folder), sequencer: test.sequencer, options: options) { _, _ in }.log
            log.setDestageObstacle(nil)
        }

        deinit {
            log.abandon()
            test.remove()
        }

        func write(_ count: Int) throws {
            for number in 0..<count {
                let fill = UInt8.random(in: 1...255, using: &random)
                let block = UInt64.random(in: 0..<12, using: &random)
                let blocks = Int.random(in: 1...4, using: &random)
                if fill < 12 {
                    let place = try log.reserve(.discard, diskOffset: block * 4096, length: UInt64(blocks * 4096))
                    try log.write(place, .none)
                    log.complete(place)
                    history.append((place.sequence, block, blocks, 0))
                } else {
                    history.append((try log.append([UInt8](repeating: fill, count: blocks * 4096), at: block * 4096), block, blocks, fill))
                }
                if number % 37 == 4 { points.append(try ChangeLog.cutPoint([log], tag: "p", isAppConsistent: { _ in false })) }
            }
        }

        func cutAppConsistent() throws -> UInt64 {
            let point = try ChangeLog.cutPoint([log], tag: "app", isAppConsistent: { _ in true })
            points.append(point)
            return point
        }

        func destage() throws { try Self.destage(log) }

        /// In one step, so that the first merge meets all of it.
        func destageAll() throws {
            try log.sealAll()
            guard let last = log.sealedSegments(limit: 100).last else { return }
            try log.noteDestaged(last)
            log.releaseDestaged(last)
        }

        /// As destage does it, but that there is no image.
        static func destage(_ log: ChangeLog) throws {
            try log.flush()
            for segment in log.sealedSegments(limit: 100) {
                try log.noteDestaged(segment)
                log.releaseDestaged(segment)
            }
        }

        func content(at sequence: UInt64) -> [UInt8] {
            var content = [UInt8](repeating: 0, count: 16)
            for one in history where one.sequence <= sequence {
                for block in Int(one.block)..<Int(one.block) + one.count { content[block] = one.fill }
            }
            return content
        }

        /// The same from the log's records; `last` is the sequence it is at.
        func read(_ folder: LogFolder, from start: (content: [UInt8], sequence: UInt64)? = nil, through: UInt64) throws -> (content: [UInt8], last: UInt64, merged: [MergedInterval]) {
            var content = start?.content ?? [UInt8](repeating: 0, count: 16)
            var merged: [MergedInterval] = []
            let last = try LogReader(folder).records(after: start?.sequence ?? 0, through: through, merged: { merged.join($0) }) { record, payload in
                guard record.changesDisk else { return }
                for block in 0..<Int(record.length) / 4096 {
                    content[Int(record.diskOffset) / 4096 + block] = record.kind == .write ? payload[block * 4096] : 0
                    if record.kind == .write { #expect(payload[block * 4096..<block * 4096 + 4096].allSatisfy { $0 == payload[block * 4096] }) }
                }
            }
            return (content, last, merged)
        }

        /// All that the folder says can be had.
        func check(_ folder: LogFolder, through: UInt64, _ comment: Comment? = nil) throws {
            let newest = try read(folder, through: through)
            #expect(newest.last >= through, comment)
            #expect(newest.content == content(at: newest.last), comment)
            let listed = try LogReader(folder).points().map(\.sequence)
            #expect(Set(listed).isSubset(of: points), comment)
            #expect(!listed.contains { newest.merged.hides($0) }, comment)
            for point in listed where point == listed.first || point == listed.last || point % 5 == 0 {
                let found = try read(folder, through: point)
                // The next merge may have come meanwhile.
                if found.last != point, try !LogReader(folder).points().contains(where: { $0.sequence == point }) { continue }
                #expect(found.last == point && found.content == content(at: point), comment)
            }
        }

        func waitUntilMerged() throws {
            let deadline = Clock.monotonicNanoseconds() + 20_000_000_000
            while log.status.merged.isEmpty || log.status.unreplicatedBytes > log.budgetBytes * 3 / 4 {
                guard Clock.monotonicNanoseconds() < deadline else { throw SystemError(errno: ETIMEDOUT, operation: "merge", path: test.folder.path) }
                usleep(5_000)
            }
        }
    }

    // Promise S5: While all targets of a disk stay away, a log near its budget merges the oldest changes that they lack, of which they then get
    // the end only: guests write on as long as what they overwrite makes room, and no resynchronisation is needed.
    @Test(.timeLimit(.minutes(1)), arguments: [1, 2]) func manyTimesTheBudgetIsOverwritten(seed: UInt64) throws {
        let region = try Region(seed: seed)
        let isOver = Atomic(false)
        let failures = Mutex<[String]>([])
        let destage = try OwnThread(name: "destage") { [log = region.log] in
            while !isOver.load(ordering: .sequentiallyConsistent) {
                do { try Region.destage(log) } catch { failures.withLock { $0.append("\(error)") } }
                usleep(2_000)
            }
        }
        defer {
            isOver.store(true, ordering: .sequentiallyConsistent)
            destage.join()
        }
        // A reader that goes on from where it was, as an uploader does, and so meets merges anywhere.
        var held: (content: [UInt8], sequence: UInt64)?
        for round in 0..<40 {
            try region.write(40)
            let status = region.log.status
            #expect(status.fileBytes <= status.budgetBytes && status.starvation == nil)
            guard round % 10 == 9 else { continue }
            let through = try region.log.makeDurable()
            let read = try region.read(region.test.folder, from: held, through: through)
            #expect(read.content == region.content(at: read.last))
            if round % 20 == 9 { held = (read.content, read.last) }
        }
        try region.check(region.test.folder, through: try region.log.makeDurable())
        let status = region.log.status
        #expect(status.refusedAppends == 0 && status.mergedPoints > 0 && status.mergeFailure == nil, "\(status)")
        #expect(!status.merged.isEmpty)
        #expect(failures.withLock { $0 } == [])
        // With the target back everything goes, lost points too.
        try region.test.folder.storeMark(ReplicatedMark(sequence: status.lastSequence, lineage: region.log.lineage), target: "vault")
        let deadline = Clock.monotonicNanoseconds() + 10_000_000_000
        while try !LogReader(region.test.folder).merged().isEmpty, Clock.monotonicNanoseconds() < deadline { usleep(20_000) }
        #expect(try LogReader(region.test.folder).merged().isEmpty && region.log.status.merged.isEmpty)
        try region.write(100)
    }

    /// Copies of the folder as it was when a file had been synced, by the number of the sync.
    private final class Snapshots: Sendable {
        let folder = Mutex<String?>(nil)
        let taken = Mutex<[String]>([])
        /// Until then a merge that began early waits at its first sync.
        let isReady = Atomic(false)

        /// The log's other threads change nothing that matters meanwhile, and their syncs would be seen in the middle of the merge's work.
        func take() {
            let isMerging = (try? Descriptor.open("/proc/thread-self/comm", O_RDONLY).read(count: 9, at: 0)) == Array("log-merge".utf8)
            guard isMerging else { return }
            while !isReady.load(ordering: .acquiring) { usleep(1_000) }
            // Held, so that nobody looks at a copy that is being made.
            folder.withLock { folder in
                guard let folder else { return }
                let copy = taken.withLock { taken in
                    taken.append("\(folder)-\(taken.count)")
                    return taken[taken.count - 1]
                }
                do {
                    try Directory.create(copy)
                    for name in try Directory.list(folder) where name != "owner.lock" {
                        let file = try Descriptor.open(folder + "/" + name, O_RDONLY)
                        let bytes = try file.read(count: Int(try file.status().sizeBytes), at: 0)
                        try Descriptor.open(copy + "/" + name, O_WRONLY | O_CREAT).write(bytes, at: 0)
                    }
                } catch { Issue.record("\(copy): \(error)") }
            }
        }
    }

    // Promise S7: A merge that is stopped at any step, by kill -9 or a power loss, loses no change and leaves a log that opens.
    /// Nothing but the merge writes meanwhile. Both ways of opening: as after a kill, and as after a power loss.
    @Test func aStopAfterEachSyncIsGoneOnFrom() throws {
        let snapshots = Snapshots()
        let region = try Region { _ in snapshots.take() }
        defer {
            for copy in snapshots.taken.withLock({ $0 }) {
                for name in (try? Directory.list(copy)) ?? [] { unlink(copy + "/" + name) }
                rmdir(copy)
            }
        }
        defer { snapshots.isReady.store(true, ordering: .releasing) }
        var (seen, mergedCount) = (0, 0)
        // What a merge does beyond what was waited for is not seen: so many rounds as it takes.
        for _ in 0..<30 where seen < 9 || mergedCount < 3 {
            snapshots.isReady.store(false, ordering: .releasing)
            while region.log.status.liveSegments < 14 { try region.write(5) }
            let through = try region.log.makeDurable()
            let whole = try LogReader(region.test.folder).points().count
            try region.destageAll()
            snapshots.folder.withLock { $0 = region.test.folder.path }
            snapshots.isReady.store(true, ordering: .releasing)
            try region.waitUntilMerged()
            snapshots.folder.withLock { $0 = nil }
            let taken = snapshots.taken.withLock { $0 }
            for number in seen..<taken.count {
                if try goesOn(from: taken[number], region, through, isSameBoot: number % 2 == 0, number) < whole { mergedCount += 1 }
            }
            seen = taken.count
            try region.check(region.test.folder, through: through)
        }
        #expect(seen >= 9 && mergedCount >= 3)
    }

    /// The points that are left in a copy of the folder.
    private func goesOn(from copy: String, _ region: Region, _ through: UInt64, isSameBoot: Bool, _ number: Int) throws -> Int {
        let folder = LogFolder(copy)
        try region.check(folder, through: through, "copy \(number)")
        let options = ChangeLog.Options(bootID: isSameBoot ? bootA : bootB, catchingUpSeconds: 1)
        let log = try ChangeLog.open(folder, lock: try OwnerLock.acquire(folder), sequencer: try Sequencer(path: copy + "/sequences"), options: options) { _, _ in }.log
        try region.check(folder, through: through, "copy \(number), opened")
        let points = try LogReader(folder).points().count
        // It goes on, and what it merges then is right too.
        try log.sealAll()
        log.abandon()
        try region.check(folder, through: through, "copy \(number), closed")
        return points
    }

    @Test func appConsistentPointsStayAsLongAsTheRestMakesRoom() throws {
        let region = try Region()
        while region.log.status.liveSegments < 5 { try region.write(5) }
        let kept = try region.cutAppConsistent()
        // The image holds all but the newest when space gets short: with less to choose from, merging goes over such points sooner.
        while region.log.status.unreplicatedBytes < region.log.budgetBytes * 3 / 4 {
            try region.write(5)
            try region.destage()
        }
        try region.destageAll()
        try region.waitUntilMerged()
        let listed = try LogReader(region.test.folder).points().map(\.sequence)
        #expect(listed.contains(kept) && listed.count < region.points.count)
        try region.check(region.test.folder, through: try region.log.makeDurable())
    }

    /// The last record of a merged interval is there for who asks for it, whatever it is, and one that was left out counts as there.
    @Test func aRecordThatWasLeftOutWasThere() throws {
        let region = try Region()
        while region.log.status.liveSegments < 3 { try region.write(5) }
        let first = try region.log.appendBlock(9, at: 3)
        while region.log.status.unreplicatedBytes < region.log.budgetBytes * 3 / 4 { try region.write(5) }
        region.log.abandon()
        let (log, _, _) = try region.test.open(catchingUpSeconds: 1)
        defer { log.abandon() }
        try log.sealAll()
        try Region.destage(log)
        let deadline = Clock.monotonicNanoseconds() + 20_000_000_000
        while log.status.merged.isEmpty, Clock.monotonicNanoseconds() < deadline { usleep(5_000) }
        #expect(!log.status.merged.isEmpty)
        #expect(try log.holdsRecord(sequence: first))
        var sequences: [UInt64] = []
        _ = try LogReader(region.test.folder).records(after: 0, through: log.makeDurable()) { record, _ in sequences.append(record.sequence) }
        #expect(!sequences.contains(first) && sequences == sequences.sorted())
    }

    @Test func aMergedSegmentThatCannotBeIsRefused() throws {
        let region = try Region()
        while region.log.status.unreplicatedBytes < region.log.budgetBytes * 3 / 4 { try region.write(5) }
        try region.destageAll()
        try region.waitUntilMerged()
        region.log.abandon()
        let segment = try #require(try region.test.segmentFiles().first { try Descriptor.open($0, O_RDONLY).read(count: 12, at: 0)[8] == 2 })
        let good = try Descriptor.open(segment, O_RDONLY).read(count: 1024, at: 0)
        func opening() throws { try region.test.open().log.abandon() }
        // Without its seal; standing for itself from a later index on.
        try overwrite(segment, at: 512, { $0[0] ^= 1 })
        #expect(throws: LogError.self) { try opening() }
        try overwrite(segment, at: 0, { $0 = good }, count: 1024)
        try overwrite(segment, at: 0, { bytes in
            bytes[88] = 0xFF
            bytes[89] = 0xFF
            bytes.withUnsafeMutableBytes { $0.putLE(crc32c(UnsafeRawBufferPointer(rebasing: $0[..<508])), at: 508) }
        }, count: 512)
        #expect(throws: LogError.self) { try opening() }
        try overwrite(segment, at: 0, { $0 = good }, count: 1024)
        try opening()
    }
}
