// What a flush has to sync beside the newest records: older segments, and the voids of killed writers.

import BlockIO
import ChangeLog
import Glibc
import Synchronization
import Testing

@Suite struct FlushOrderTests {
    private final class Syncs: Sendable {
        let paths = Mutex<[String]>([])
        /// The first sync after this is set waits until it is let go.
        let isArmed = Atomic<Bool>(false)
        let isHeld = Atomic<Bool>(false)
        let isLetGo = Atomic<Bool>(false)

        func note(_ path: String) {
            paths.withLock { $0.append(path) }
            guard isArmed.exchange(false, ordering: .sequentiallyConsistent) else { return }
            isHeld.store(true, ordering: .sequentiallyConsistent)
            while !isLetGo.load(ordering: .sequentiallyConsistent) { usleep(1000) }
        }
    }

    /// The housekeeper is busy with the oldest segment; one that is full, and one in use, wait for it. A flush syncs them itself.
    @Test func aFlushSyncsEverySegmentThatNoSyncCovered() throws {
        let test = try TestLog()
        defer { test.remove() }
        let syncs = Syncs()
        let (log, _) = try ChangeLog.open(
            test.folder, lock: OwnerLock.acquire(test.folder), sequencer: test.sequencer, options: .init(bootID: bootA, didSync: { syncs.note($0) })
        ) { _, _ in }
        defer { log.abandon() }
        while log.status.fileBytes < 2 * UInt64(TestLog.segmentBytes) { usleep(1000) }
        syncs.isArmed.store(true, ordering: .sequentiallyConsistent)
        // Of three segments: sealing the first one is where the housekeeper stands.
        while log.liveFiles.count < 3 { try log.appendBlock(1, at: 1) }
        while !syncs.isHeld.load(ordering: .sequentiallyConsistent) { usleep(1000) }
        defer { syncs.isLetGo.store(true, ordering: .sequentiallyConsistent) }
        let files = log.liveFiles
        syncs.paths.withLock { $0 = [] }
        try log.flush()
        #expect(Set(syncs.paths.withLock { $0 }).isSuperset(of: files.dropFirst()))
        #expect(log.status.durableSequence == log.status.lastSequence)
    }

    /// A killed writer's place became a void; a power loss after the next flush finds it, not a hole below flushed records.
    @Test func theVoidOfAKilledWriterIsFlushedWithTheRecordsBehindIt() throws {
        let test = try TestLog()
        defer { test.remove() }
        let (log, _, _) = try test.open()
        let first = try log.appendBlock(1, at: 1)
        _ = try log.reserve(.write, diskOffset: 8192, length: UInt64(blockBytes))
        let third = try log.appendBlock(3, at: 3)
        log.abandon()
        let (again, _, _) = try test.open()
        let fourth = try again.appendBlock(4, at: 4)
        try again.flush()
        try again.appendBlock(5, at: 5)
        again.abandon()
        let (last, _, replayed) = try test.open(boot: bootB)
        defer { last.abandon() }
        #expect(replayed.map(\.sequence).prefix(3) == [first, third, fourth])
    }
}
