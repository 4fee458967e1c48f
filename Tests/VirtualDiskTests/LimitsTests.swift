// What happens when nobody writes, when writes outrun destage, and when room comes back.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Synchronization
import Testing
import VirtualDisk

@Suite struct LimitsTests {
    // Promise L1: A disk that got no write for 30 s, and whose older log is in the vault, is merged into its image as a whole.
    @Test func anIdleDiskIsMergedAsAWhole() throws {
        let image = MemoryImage([UInt8](repeating: 1, count: 1 << 20))
        let test = try TestDisk(image, idleSealNanoseconds: 300_000_000)
        defer { test.remove() }
        for round in 0..<3 {
            try test.disk.put([UInt8](repeating: UInt8(10 + round), count: 10_000), at: round * 50_000)
            #expect(test.disk.status.log.undestagedBytes > 0)
            for _ in 0..<150 where test.disk.status.log.undestagedBytes > 0 { usleep(50_000) }
            #expect(test.disk.status.log.undestagedBytes == 0)
            #expect(image.contents.withLock { $0.durable } == (try test.contents()))
        }
        try test.kill()
        #expect(image.bytes == (try test.contents()))
    }

    /// Sealed once, an idle log that waits for its target keeps the next segment open: writes now and then use up no budget.
    @Test func writesNowAndThenDoNotUseUpTheBudgetWhileTheTargetIsAway() throws {
        let test = try TestDisk(MemoryImage([UInt8](repeating: 1, count: 1 << 20)), targets: ["vault"], segments: 6, idleSealNanoseconds: 100_000_000)
        defer { test.remove() }
        for round in 0..<8 {
            try test.disk.put([UInt8](repeating: UInt8(10 + round), count: 4096), at: round * 4096)
            usleep(1_200_000)
        }
        #expect(test.disk.status.log.liveSegments <= 2, "\(test.disk.status.log)")
        #expect(test.disk.status.health == .normal, "\(test.disk.status)")
    }

    // Promise L2: A freeze of the image ends although the guest writes faster than destage merges.
    @Test func aFreezeEndsUnderWritesThatOutrunDestage() throws {
        let image = SlowImage(bytes: 8 << 20, delayMicroseconds: 1_000)
        let test = try TestDisk(image, segments: 32)
        defer { test.remove() }
        let guest = try Guest(test.disk)
        defer { guest.stop() }
        while test.disk.log.sealedSegments(limit: 20).count < 12 { usleep(10_000) }
        let started = Clock.monotonicNanoseconds()
        _ = try test.disk.freeze()
        let seconds = Double(Clock.monotonicNanoseconds() - started) / 1e9
        // Some 30 segments of 27 records, a millisecond each, and what came meanwhile.
        #expect(seconds < 20, "\(seconds) s")
        try test.disk.unfreeze()
    }

    /// The file may be there though its sync failed: then the image stands still as the file says, until it can be removed.
    @Test func aFreezeThatCannotBeNotedIsNoFreezeOrHolds() throws {
        let image = MemoryImage([UInt8](repeating: 1, count: 1 << 20))
        let test = try TestDisk(image)
        defer { test.remove() }
        try test.disk.put([7], at: 0)
        mkdir(test.folder.path + "/freeze", 0o700)
        #expect(throws: DiskError.self) { _ = try test.disk.freeze() }
        #expect(test.disk.frozenSequence != nil)
        rmdir(test.folder.path + "/freeze")
        try test.disk.unfreeze()
        try test.disk.mergeAll()
        #expect(image.bytes == (try test.contents()))
    }

    /// A guest that retries gets through as soon as the target has the oldest segment.
    @Test func writesWorkAgainAsSoonAsThereIsRoom() throws {
        let test = try TestDisk(MemoryImage([UInt8](repeating: 1, count: 1 << 20)), targets: ["vault"], segments: 4)
        defer { test.remove() }
        let data = [UInt8](repeating: 0xCC, count: 65536)
        #expect(throws: SystemError.self) { while true { try test.disk.put(data, at: 0) } }
        for _ in 0..<100 where test.disk.status.log.undestagedBytes > 200_000 { usleep(20_000) }
        let refused = test.disk.status.log.refusedAppends
        #expect(refused >= 1 && test.disk.status.trouble == .writesRefused && !test.disk.status.remedy.isEmpty)
        let mark = ReplicatedMark(sequence: try test.disk.makeDurable(), lineage: test.disk.log.lineage)
        try test.folder.storeMark(mark, target: "vault")
        let started = Clock.monotonicNanoseconds()
        while (try? test.disk.put(data, at: 0)) == nil { usleep(5_000) }
        #expect(Clock.monotonicNanoseconds() - started < 3_000_000_000)
        #expect(test.disk.status.trouble == nil)
    }
}

/// Writes every other block, over and over: each is a write of its own for destage. Refused writes are tried again.
private final class Guest: Sendable {
    private let isStopping = Atomic<Bool>(false)
    private let thread = Mutex<OwnThread?>(nil)

    init(_ disk: VirtualDisk) throws {
        let made = try OwnThread(name: "guest") { [self] in
            let data = [UInt8](repeating: 0x33, count: 4096)
            var place = 0
            while !isStopping.load(ordering: .relaxed) {
                if (try? disk.put(data, at: place % 1024 * 8192)) == nil { usleep(1_000) }
                place += 1
            }
        }
        thread.withLock { $0 = made }
    }

    func stop() {
        isStopping.store(true, ordering: .relaxed)
        thread.withLock { $0.take() }?.join()
    }
}

/// Takes its time for each write and remembers nothing.
private final class SlowImage: ImageFile {
    let path = "slow image"
    let sizeBytes: UInt64
    private let delayMicroseconds: UInt32

    init(bytes: UInt64, delayMicroseconds: UInt32) {
        sizeBytes = bytes
        self.delayMicroseconds = delayMicroseconds
    }

    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        buffer.initializeMemory(as: UInt8.self, repeating: 0)
    }

    func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) { usleep(delayMicroseconds) }
    func zero(at offset: UInt64, length: UInt64) throws(SystemError) { usleep(delayMicroseconds) }
    func flush() throws(SystemError) {}
    func nextData(from offset: UInt64) throws(SystemError) -> UInt64? { offset < sizeBytes ? offset : nil }
    func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 { sizeBytes }
}
