// A disk grows, and may be killed at each step of it.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Testing
import VirtualDisk

@Suite struct GrowthTests {
    private static let oldBytes = 1 << 20
    private static let newBytes = 3 << 20

    private func makeDisk(_ body: (TestDisk) throws -> Void) throws {
        let root = try TestDisk.makeFolder()
        let path = root + "/image.raw"
        try Descriptor.open(path, O_RDWR | O_CREAT).truncate(to: UInt64(Self.oldBytes))
        let disk = try TestDisk(try openImage(path, access: .readWrite, format: .raw))
        defer {
            disk.remove()
            unlink(path)
            rmdir(root)
        }
        try disk.disk.put([UInt8](repeating: 3, count: 5000), at: 70_000)
        try body(disk)
        try expectGrown(disk)
        try disk.kill()
        try expectGrown(disk)
    }

    private func expectGrown(_ disk: TestDisk) throws {
        #expect(disk.disk.sizeBytes == UInt64(Self.newBytes))
        var content = [UInt8](repeating: 0, count: Self.newBytes)
        content.replaceSubrange(70_000..<75_000, with: [UInt8](repeating: 3, count: 5000))
        #expect(try disk.contents() == content)
        let state = try disk.folder.readState()
        #expect(state.growingBytes == nil && state.growths.count == 1)
        let through = try #require(state.growths.first?.through)
        #expect(state.diskBytes(at: through) == UInt64(Self.oldBytes))
        #expect(state.diskBytes(at: through + 1) == UInt64(Self.newBytes))
        #expect(try LogReader(disk.folder).points().map(\.tag) == ["grown"])
    }

    /// As whoever opens a disk does it.
    private func openAgain(_ disk: TestDisk) throws {
        try completeGrowth(disk)
        disk.image = try openImage(disk.image.path, access: .readWrite, format: .raw)
        try disk.open()
    }

    @discardableResult private func completeGrowth(_ disk: TestDisk, format: ImageFormat = .raw) throws -> GrowthFailure? {
        try VirtualDisk.completeGrowth(
            of: ImageLock.take(disk.image.path, for: .exclusive), format: format, folder: disk.folder, lock: try OwnerLock.acquire(disk.folder))
    }

    @Test func aKilledWorkersSuccessorServesTheNewSize() throws {
        try makeDisk { disk in
            try disk.disk.beginGrowth(to: UInt64(Self.newBytes), format: .raw)
            #expect(disk.disk.sizeBytes == UInt64(Self.oldBytes))
            disk.disk.abandon()
            try openAgain(disk)
        }
    }

    @Test func aCleanStopBetweenIsNoChangeByOthers() throws {
        try makeDisk { disk in
            try disk.disk.beginGrowth(to: UInt64(Self.newBytes), format: .raw)
            try disk.disk.close()
            try openAgain(disk)
        }
    }

    @Test(arguments: [true, false]) func aKillBeforeTheImageGrew(_ isClean: Bool) throws {
        try makeDisk { disk in
            try disk.disk.log.noteGrowing(to: UInt64(Self.newBytes))
            if isClean { try disk.disk.close() } else { disk.disk.abandon() }
            // And another one after the image grew, before the log knew.
            try completeGrowth(disk)
            try openAgain(disk)
        }
    }

    @Test func anImageThatOthersChangedDoesNotGrow() throws {
        let root = try TestDisk.makeFolder()
        let path = root + "/image.raw"
        try Descriptor.open(path, O_RDWR | O_CREAT).truncate(to: UInt64(Self.oldBytes))
        let disk = try TestDisk(try openImage(path, access: .readWrite, format: .raw))
        defer {
            disk.remove()
            unlink(path)
            rmdir(root)
        }
        try disk.disk.log.noteGrowing(to: UInt64(Self.newBytes))
        try disk.disk.close()
        try Descriptor.open(path, O_RDWR).write([1], at: 0)
        #expect(throws: DiskError.self) { try completeGrowth(disk) }
        #expect(try bytes(of: path) == UInt64(Self.oldBytes))
    }

    private func bytes(of path: String) throws -> UInt64 { try Descriptor.open(path, O_RDONLY).status().sizeBytes }

    /// Promise D7: An image file changed after a clean stop is refused until the
    /// administrator accepts it; after a kill it is served, and that is told.
    @Test func anImageThatOthersChangedAfterItGrewIsRefusedUntilItIsAccepted() throws {
        try makeDisk { disk in
            try disk.disk.mergeAll()
            try disk.disk.beginGrowth(to: UInt64(Self.newBytes), format: .raw)
            try disk.disk.close()
            let path = disk.image.path
            #expect(try bytes(of: path) == UInt64(Self.newBytes))
            // What is written is what is there: only the time of change tells.
            try Descriptor.open(path, O_RDWR).write([0], at: 0)
            for _ in 0..<2 {
                #expect {
                    try completeGrowth(disk)
                } throws: {
                    guard case DiskError.imageChanged = $0 else { return false }
                    return true
                }
            }
            try VirtualDisk.acceptImage(try openImage(path, access: .readOnly, format: .raw), folder: disk.folder, lock: OwnerLock.acquire(disk.folder))
            try openAgain(disk)
        }
    }

    @Test(arguments: [true, false]) func anImageThatWasCutIsRefusedAndNotFilledUp(_ isClean: Bool) throws {
        try makeDisk { disk in
            try disk.disk.beginGrowth(to: UInt64(Self.newBytes), format: .raw)
            if isClean { try disk.disk.close() } else { disk.disk.abandon() }
            let path = disk.image.path
            let whole = try Descriptor.open(path, O_RDONLY).read(count: Self.newBytes, at: 0)
            try Descriptor.open(path, O_RDWR).truncate(to: UInt64(Self.oldBytes) - 4096)
            #expect(throws: DiskError.self) { try completeGrowth(disk) }
            #expect(try bytes(of: path) == UInt64(Self.oldBytes) - 4096)
            try Descriptor.open(path, O_RDWR).write(whole, at: 0)
            if isClean { try VirtualDisk.acceptImage(try openImage(path, access: .readOnly, format: .raw), folder: disk.folder, lock: OwnerLock.acquire(disk.folder)) }
            try openAgain(disk)
        }
    }

    /// A kill after the clean stop's record was taken away, before the image had its size or after it.
    @Test(arguments: [true, false]) func aKillWhileItIsCompleted(_ hasGrown: Bool) throws {
        try makeDisk { disk in
            try disk.disk.log.noteGrowing(to: UInt64(Self.newBytes))
            try disk.disk.close()
            try disk.folder.noteGrowth(UInt64(Self.newBytes), cleanStop: nil, holding: OwnerLock.acquire(disk.folder))
            if hasGrown { try Descriptor.open(disk.image.path, O_RDWR).truncate(to: UInt64(Self.newBytes)) }
            try openAgain(disk)
            #expect(disk.disk.lastStop == .killed)
        }
    }

    @Test func aCompletedGrowthLeavesTheCleanStop() throws {
        try makeDisk { disk in
            try disk.disk.log.noteGrowing(to: UInt64(Self.newBytes))
            try disk.disk.close()
            try openAgain(disk)
            guard case .clean = disk.disk.lastStop else { return #expect(Bool(false), "\(disk.disk.lastStop)") }
        }
    }

    /// Neither begun with a file that took the image's name, nor ended with it.
    @Test func whatTookTheNameDoesNotGrow() throws {
        let root = try TestDisk.makeFolder()
        let path = root + "/image.raw"
        let other = path + ".other"
        for path in [path, other] { try Descriptor.open(path, O_RDWR | O_CREAT).truncate(to: UInt64(Self.oldBytes)) }
        let disk = try TestDisk(try openImage(path, access: .readWrite, format: .raw))
        defer {
            disk.remove()
            for path in [path, other, path + ".real"] { unlink(path) }
            rmdir(root)
        }
        #expect(rename(path, path + ".real") == 0 && rename(other, path) == 0)
        #expect(throws: DiskError.imageReplaced(image: path)) { try disk.disk.beginGrowth(to: UInt64(Self.newBytes), format: .raw) }
        #expect(try disk.folder.readState().growingBytes == nil)
        #expect(rename(path, other) == 0 && rename(path + ".real", path) == 0)
        try disk.disk.beginGrowth(to: UInt64(Self.newBytes), format: .raw)
        #expect(rename(path, path + ".real") == 0 && rename(other, path) == 0)
        #expect(throws: DiskError.imageReplaced(image: path)) { try disk.disk.close() }
        for _ in 0..<2 { #expect(throws: DiskError.imageReplaced(image: path)) { try completeGrowth(disk) } }
        #expect(try bytes(of: path) == UInt64(Self.oldBytes))
    }

    /// Storage is full when the successor wants to grow it: the disk goes on at its old size, and the file is no longer than it was.
    @Test(.enabled(if: FullFilesystemTests.canMount, "mounts a small filesystem, which needs root"), arguments: [true, false])
    func aDynamicVHDWithoutRoomStaysAsItIs(_ isClean: Bool) throws {
        let root = try TestDisk.makeFolder()
        try #require(mount("tmpfs", root, "tmpfs", 0, "size=8m") == 0, "errno \(errno)")
        defer {
            umount2(root, Int32(MNT_DETACH))
            rmdir(root)
        }
        let (path, filler, large) = (root + "/image.vhd", root + "/filler", UInt64(256) << 30)
        try OutputImage.begin(path, format: .vhdDynamic, sizeBytes: 4 << 20, uniqueID: [UInt8](repeating: 1, count: 16), timeStamp: 0).finish(replacing: false)
        let disk = try TestDisk(try openImage(path, access: .readWrite, format: .vhdDynamic))
        defer { disk.remove() }
        try disk.disk.put([UInt8](repeating: 3, count: 5000), at: 70_000)
        try disk.disk.mergeAll()
        var status = statvfs()
        try #require(statvfs(root, &status) == 0)
        // Less than the table of 512 KiB.
        try Descriptor.open(filler, O_RDWR | O_CREAT).allocate(at: 0, length: UInt64(status.f_bavail) * UInt64(status.f_frsize) - (256 << 10))
        #expect {
            try disk.disk.beginGrowth(to: large, format: .vhdDynamic)
        } throws: {
            guard case ImageError.system(let error) = $0 else { return false }
            return error.errno == ENOSPC
        }
        #expect(try disk.folder.readState().growingBytes == nil)
        let fileBytes = try bytes(of: path)
        try disk.disk.log.noteGrowing(to: large)
        if isClean { try disk.disk.close() } else { disk.disk.abandon() }
        let failure = try #require(try completeGrowth(disk, format: .vhdDynamic))
        #expect("\(failure)".contains("No space") && "\(failure)".hasSuffix("it stays at 4194304 bytes"), "\(failure)")
        #expect(try bytes(of: path) == fileBytes)
        let state = try disk.folder.readState()
        #expect(state.growingBytes == nil && state.growths.isEmpty && (state.cleanStop != nil) == isClean)
        disk.image = try openImage(path, access: .readWrite, format: .vhdDynamic)
        try disk.open()
        try disk.disk.put([UInt8](repeating: 4, count: 4096), at: 0)
        try disk.disk.mergeAll()
        #expect(try disk.disk.bytes(at: 70_000, count: 5000) == [UInt8](repeating: 3, count: 5000))
        unlink(filler)
        try disk.disk.beginGrowth(to: large, format: .vhdDynamic)
        disk.disk.abandon()
        #expect(try completeGrowth(disk, format: .vhdDynamic) == nil)
        disk.image = try openImage(path, access: .readWrite, format: .vhdDynamic)
        try disk.open()
        #expect(disk.disk.sizeBytes == large)
        #expect(try disk.disk.bytes(at: 0, count: 75_000) == [UInt8](repeating: 4, count: 4096) + [UInt8](repeating: 0, count: 65_904) + [UInt8](repeating: 3, count: 5000))
    }

    @Test func anImageThatIsHeldDoesNotGrowAndOneThatGrowsIsNotHeld() throws {
        try makeDisk { disk in
            _ = try disk.disk.freeze()
            #expect(throws: SystemError.self) { try disk.disk.beginGrowth(to: UInt64(Self.newBytes), format: .raw) }
            try disk.disk.unfreeze()
            try disk.disk.beginGrowth(to: UInt64(Self.newBytes), format: .raw)
            #expect(throws: DiskError.self) { try disk.disk.freeze() }
            #expect(throws: SystemError.self) { try disk.disk.beginGrowth(to: UInt64(2 * Self.newBytes), format: .raw) }
            disk.disk.abandon()
            try openAgain(disk)
        }
    }
}
