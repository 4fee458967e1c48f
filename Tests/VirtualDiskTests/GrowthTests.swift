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
        let path = try TestDisk.makeFolder() + "/image.raw"
        try Descriptor.open(path, O_RDWR | O_CREAT).truncate(to: UInt64(Self.oldBytes))
        let disk = try TestDisk(try openImage(path, access: .readWrite, format: .raw))
        defer {
            disk.remove()
            unlink(path)
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
        let path = try TestDisk.makeFolder() + "/image.raw"
        try Descriptor.open(path, O_RDWR | O_CREAT).truncate(to: UInt64(Self.oldBytes))
        let disk = try TestDisk(try openImage(path, access: .readWrite, format: .raw))
        defer {
            disk.remove()
            unlink(path)
        }
        try disk.disk.log.noteGrowing(to: UInt64(Self.newBytes))
        try disk.disk.close()
        try Descriptor.open(path, O_RDWR).write([1], at: 0)
        #expect(throws: DiskError.self) { try completeGrowth(disk) }
        #expect(try Descriptor.open(path, O_RDONLY).status().sizeBytes == UInt64(Self.oldBytes))
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
