import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Synchronization
import Testing
import VirtualDisk

@Suite struct ProtectedDiskTests {
    private func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 / 4096 + 1) } }

    // Promise D7: An image file changed after a clean stop is refused until the administrator accepts it; after a kill
    // it is served, and that is told.
    @Test func anImageChangedBehindOurBackIsRefused() throws {
        let root = try TestDisk.makeFolder()
        let path = root + "/disk.raw"
        defer {
            unlink(path)
            rmdir(root)
        }
        try Descriptor.open(path, O_RDWR | O_CREAT).write([UInt8](repeating: 7, count: 1 << 20), at: 0)
        let test = try TestDisk(try openImage(path, access: .readWrite, format: .raw))
        defer { test.remove() }
        try test.disk.put(pattern(8192), at: 4096)
        try test.disk.close()
        try test.open()
        guard case .clean = test.disk.lastStop else { Issue.record("\(test.disk.lastStop)"); return }
        try test.disk.close()
        usleep(20_000)
        try Descriptor.open(path, O_RDWR).write([9], at: 100_000)
        let error = #expect(throws: DiskError.self) { try test.open() }
        guard case .imageChanged(path, 1_048_576, 1_048_576) = error else { Issue.record("\(String(describing: error))"); return }
        // Asked again, the answer is the same.
        #expect(throws: DiskError.self) { try test.open() }
    }

    /// A dynamic VHD whose end a crash left broken: refused, and not one byte of it changed; accepted, it opens again and again.
    @Test func aBrokenImageIsMendedOnlyOnceItIsAccepted() throws {
        let root = try TestDisk.makeFolder()
        let path = root + "/disk.vhd"
        defer {
            unlink(path)
            rmdir(root)
        }
        let output = try OutputImage.begin(path, format: .vhdDynamic, sizeBytes: 8 << 20, uniqueID: [UInt8](repeating: 1, count: 16), timeStamp: 0)
        try output.finish(replacing: false)
        let test = try TestDisk(try openImage(path, access: .readWrite, format: .vhdDynamic))
        defer { test.remove() }
        try test.disk.put(pattern(8192), at: 4096)
        try test.disk.close()
        usleep(20_000)
        let file = try Descriptor.open(path, O_RDWR)
        try file.truncate(to: file.status().sizeBytes - 512)
        let broken = try file.read(count: Int(file.status().sizeBytes), at: 0)
        test.image = try openImage(path, access: .readWrite, format: .vhdDynamic)
        #expect(throws: DiskError.self) { try test.open() }
        #expect(try file.status().sizeBytes == UInt64(broken.count) && file.read(count: broken.count, at: 0) == broken)
        try VirtualDisk.acceptImage(test.image, folder: test.folder, lock: OwnerLock.acquire(test.folder))
        for _ in 0..<3 {
            test.image = try openImage(path, access: .readWrite, format: .vhdDynamic)
            try test.open()
            #expect(try test.disk.bytes(at: 4096, count: 8192) == pattern(8192))
            try test.disk.close()
        }
        #expect(try inspectImage(path).dynamic?.isClean == true)
    }

    @Test func afterAKillAChangedImageIsServedAndTold() throws {
        let test = try TestDisk(MemoryImage(pattern(1 << 20)))
        defer { test.remove() }
        try test.kill()
        #expect(test.disk.lastStop == .killed)
        #expect(try test.contents() == pattern(1 << 20))
    }

    @Test func aFreezeSurvivesRestartsAndHoldsTheImage() throws {
        let image = MemoryImage(pattern(1 << 20))
        let test = try TestDisk(image)
        defer { test.remove() }
        try test.disk.put([UInt8](repeating: 0xEE, count: 10_000), at: 5000)
        let frozen = try test.disk.freeze()
        let still = image.bytes
        #expect(try test.contents() == still)
        try test.disk.put([UInt8](repeating: 0xDD, count: 300_000), at: 0)
        #expect(throws: DiskError.self) { try test.disk.mergeAll() }
        try test.kill()
        #expect(test.disk.frozenSequence == frozen)
        #expect(throws: DiskError.self) { try test.disk.mergeAll() }
        usleep(300_000)
        #expect(image.bytes == still)
        #expect(try test.disk.freeze() == frozen)
        try test.disk.unfreeze()
        try test.disk.mergeAll()
        #expect(image.bytes == (try test.contents()) && image.bytes != still)
    }

    @Test func unprotectLeavesACompleteImageAndNoLog() throws {
        let image = MemoryImage(pattern(1 << 20))
        let test = try TestDisk(image)
        defer { test.remove() }
        for block in 0..<200 { try test.disk.put([UInt8](repeating: UInt8(block), count: 5000), at: block * 5000) }
        _ = try test.disk.freeze()
        try test.disk.put([1, 2, 3], at: 77)
        let expected = try test.contents()
        try test.disk.mergeAndRemoveLog()
        #expect(image.bytes == expected && image.contents.withLock { $0.durable } == expected)
        #expect(access(test.folder.path, F_OK) != 0)
    }

    @Test func aFailingImageStopsDestageAndLosesNothing() throws {
        let image = MemoryImage(pattern(1 << 20))
        let test = try TestDisk(image, segments: 8)
        defer { test.remove() }
        image.fail(EIO)
        var written = 0
        let full = #expect(throws: SystemError.self) {
            while true {
                try test.disk.put([UInt8](repeating: 0xCC, count: 65536), at: written % 16 * 65536)
                written += 1
            }
        }
        #expect(full?.errno == ENOSPC && written >= 8)
        usleep(100_000)
        #expect(test.disk.status.health == .critical && test.disk.status.reason.contains("ENOSPC"))
        let expected = try test.contents()
        #expect(expected[0] == 0xCC)
        // A point still finds room.
        _ = try VirtualDisk.cutPoint([test.disk], tag: "full")
        image.fail(nil)
        // Space comes back by itself.
        var isBack = false
        for _ in 0..<100 where !isBack {
            usleep(100_000)
            isBack = (try? test.disk.put([UInt8](repeating: 5, count: 65536), at: 0)) != nil
        }
        #expect(isBack)
        #expect(test.disk.status.health == .normal, "\(test.disk.status)")
        try test.disk.mergeAll()
        #expect(image.bytes == (try test.contents()))
    }

    @Test func aDiscardedLogIsGoneAndTheImageIsAsItWas() throws {
        let image = MemoryImage(pattern(1 << 20))
        let test = try TestDisk(image)
        defer { test.remove() }
        _ = try test.disk.freeze()
        let before = image.bytes
        try test.disk.put([1, 2, 3], at: 77)
        let foreign = test.folder.path + "/notes.txt"
        try DurableFile.replace(foreign, with: [1])
        test.disk.abandon()
        try test.folder.discard(try OwnerLock.acquire(test.folder))
        #expect(try Directory.list(test.folder.path) == ["notes.txt"])
        #expect(image.bytes == before)
        unlink(foreign)
        try test.folder.discard(try OwnerLock.acquire(test.folder))
        #expect(access(test.folder.path, F_OK) != 0)
    }

    /// Nobody writes after the upload: status must not wait for a write to see that there is room again.
    @Test func healthRecoversWithoutAWriteOnceTheLogIsReplicated() throws {
        let test = try TestDisk(MemoryImage(pattern(1 << 20)), targets: ["vault"], segments: 4)
        defer { test.remove() }
        #expect(throws: SystemError.self) {
            while true { try test.disk.put([UInt8](repeating: 0xCC, count: 65536), at: 0) }
        }
        #expect(test.disk.status.health == .critical)
        let mark = ReplicatedMark(sequence: try test.disk.makeDurable(), lineage: test.disk.log.lineage)
        try test.folder.storeMark(mark, target: "vault")
        for _ in 0..<100 where test.disk.status.health != .normal { usleep(50_000) }
        #expect(test.disk.status.health == .normal, "\(test.disk.status)")
    }

    @Test func damagedPayloadDoesNotReachTheImage() throws {
        let image = MemoryImage(pattern(1 << 20))
        let test = try TestDisk(image)
        defer { test.remove() }
        _ = try test.disk.freeze()
        try test.disk.put([UInt8](repeating: 0xAB, count: 8192), at: 0)
        try test.disk.flush()
        for name in try Directory.list(test.folder.path) where name.hasPrefix("segment-") {
            let file = try Descriptor.open(test.folder.path + "/" + name, O_RDWR)
            // One that is being made is shorter.
            guard try file.status().sizeBytes == UInt64(TestDisk.segmentBytes) else { continue }
            let bytes = try file.read(count: TestDisk.segmentBytes, at: 0)
            let pages = stride(from: 0, to: bytes.count, by: 4096)
            if let place = pages.first(where: { bytes[$0..<$0 + 4096].allSatisfy { $0 == 0xAB } }) { try file.write([0xAC], at: UInt64(place + 100)) }
        }
        try test.disk.unfreeze()
        let error = #expect(throws: DiskError.self) { try test.disk.mergeAll() }
        guard case .log(.damaged(_, 1, _, _, _)) = error else { Issue.record("\(String(describing: error))"); return }
        usleep(1_500_000)
        #expect(test.disk.status.health == .critical)
        #expect(image.bytes == pattern(1 << 20))
        #expect(throws: (any Error).self) { try LogReader(test.folder).records(after: 0, through: .max - 1) { _, _ in } }
    }

    @Test func theRequestOfAKilledProcessIsFoundInTheLog() throws {
        let test = try TestDisk(MemoryImage(pattern(1 << 20)))
        defer { test.remove() }
        var slot: UInt64 = 0
        try [UInt8](repeating: 1, count: 4096).withUnsafeBytes { try test.disk.write($0, at: 0, sequenceSlot: &slot) }
        let written = slot
        try test.disk.zero(at: 100, length: 50_000, mayFree: true, sequenceSlot: &slot)
        let zeroed = slot
        let lost = try test.disk.log.reserve(.write, diskOffset: 0, length: 4096)
        try test.disk.put([UInt8](repeating: 3, count: 4096), at: 4096)
        try test.kill()
        // What happened to it is known also when its segment is merged and in use again.
        for round in 0..<10 {
            for block in 20..<40 { try test.disk.put([UInt8](repeating: UInt8(round), count: 4096), at: block * 4096) }
            try test.disk.mergeAll()
        }
        #expect(zeroed > written && test.disk.holdsRecord(sequence: written) && test.disk.holdsRecord(sequence: zeroed))
        #expect(!test.disk.holdsRecord(sequence: lost.sequence) && !test.disk.holdsRecord(sequence: 1 << 50))
    }

    @Test func twoDisksShareOnePoint() throws {
        let test = try TestDisk(MemoryImage(pattern(1 << 20)))
        let other = try TestDisk(MemoryImage(pattern(1 << 20)))
        defer { test.remove(); other.remove() }
        let folder = LogFolder(test.root + "/second.log")
        try ChangeLog.create(folder, diskID: .random(), diskBytes: 1 << 20, targets: [], segmentBytes: 128 << 10, budgetBytes: 1 << 20)
        let second = try VirtualDisk.open(
            name: "second", image: other.image, folder: folder, lock: try OwnerLock.acquire(folder), sequencer: test.sequencer,
            options: .init(bootID: "boot"), identity: { ImageIdentity(evidence: .changeTime, sizeBytes: 0, stamp: 0) })
        defer {
            second.abandon()
            for name in (try? Directory.list(folder.path)) ?? [] { unlink(folder.path + "/" + name) }
            rmdir(folder.path)
        }
        let point = try VirtualDisk.cutPoint([test.disk, second], tag: "both")
        #expect(try LogReader(folder).points() == LogReader(test.folder).points())
        #expect(try LogReader(folder).points().map(\.sequence) == [point])
    }

    /// 4 TiB, discarded whole and written at both ends: memory follows use, not size.
    @Test func aHugeIdleDiskIsCheap() throws {
        let size: UInt64 = 1 << 42
        let before = residentBytes()
        let test = try TestDisk(EmptyImage(sizeBytes: size))
        defer { test.remove() }
        usleep(300_000)
        let idle = residentBytes() - before
        try test.disk.put([1, 2, 3], at: 0)
        try test.disk.put([4, 5, 6], at: Int(size) - 4096)
        let start = Clock.monotonicNanoseconds()
        try test.disk.zero(at: 4096, length: size - 8192, mayFree: true, sequenceSlot: nil)
        print("idle 4 TiB disk: \(idle >> 10) KiB, discard of it: \((Clock.monotonicNanoseconds() - start) / 1_000_000) ms")
        #expect(try test.disk.bytes(at: 1 << 40, count: 8192) == [UInt8](repeating: 0, count: 8192))
        #expect(try test.disk.bytes(at: 0, count: 4) == [1, 2, 3, 0])
        #expect(try test.disk.nextData(from: 4096) == size - 4096)
        #expect(throws: SystemError.self) { try test.disk.put([1], at: Int(size)) }
    }

    private func residentBytes() -> Int {
        let text = (try? Descriptor.open("/proc/self/statm", O_RDONLY).read(count: 20, at: 0)) ?? []
        let words = String(decoding: text, as: UTF8.self).split(separator: " ")
        return words.count > 1 ? (Int(words[1]) ?? 0) * 4096 : 0
    }
}

/// Reads as zeros, swallows nothing: destage into it is only zeroing here.
private final class EmptyImage: ImageFile {
    let path = "/dev/null"
    let sizeBytes: UInt64
    init(sizeBytes: UInt64) { self.sizeBytes = sizeBytes }
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        buffer.initializeMemory(as: UInt8.self, repeating: 0)
    }
    func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        throw SystemError(errno: EROFS, operation: "write", path: path)
    }
    func zero(at offset: UInt64, length: UInt64) throws(SystemError) {}
    func flush() throws(SystemError) {}
    func nextData(from offset: UInt64) throws(SystemError) -> UInt64? { nil }
    func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 { offset }
}
