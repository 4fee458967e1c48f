// The name of an image that is in use is given to another file, or to none: the disk goes on with the file that was opened, says
// so, and never takes the other one for it.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Testing
import VirtualDisk

@Suite struct ReplacedImageTests {
    private final class Place {
        let root: String
        var image: String { root + "/disk.raw" }
        var other: String { root + "/other.raw" }

        init() throws {
            root = try TestDisk.makeFolder()
            try make(image, filledWith: 7)
            try make(other, filledWith: 9)
        }

        deinit {
            for name in (try? Directory.list(root)) ?? [] { unlink(root + "/" + name) }
            rmdir(root)
        }

        func make(_ path: String, filledWith byte: UInt8) throws {
            try Descriptor.open(path, O_RDWR | O_CREAT).write([UInt8](repeating: byte, count: 1 << 20), at: 0)
        }

        func open() throws -> any ImageFile { try openImage(image, access: .readWrite, format: .raw) }
    }

    private let block = [UInt8](repeating: 3, count: 4096)

    // Promise D8: A file that takes the name of an image in use is not served or replicated in its place while the mount
    // lasts, and after a stop it is refused until the administrator accepts it.
    // A rename gives both files the same time of change: only the file itself tells them apart.
    @Test func aReplacedImageIsNotTakenForTheOneThatWasServed() throws {
        let place = try Place()
        let test = try TestDisk(try place.open())
        defer { test.remove() }
        try test.disk.put(block, at: 8192)
        #expect(rename(place.image, place.root + "/aside.raw") == 0)
        #expect(test.disk.status.trouble == .imageReplaced, "a name that is gone is told")
        #expect(rename(place.root + "/aside.raw", place.image) == 0)
        #expect(test.disk.status.health == .normal)
        #expect(link(place.image, place.root + "/kept.raw") == 0)
        #expect(rename(place.other, place.image) == 0)
        let status = test.disk.status
        #expect(status.health == .critical && status.trouble == .imageReplaced && status.reason.contains(place.image) && status.remedy.contains("accept"))
        #expect(try test.disk.bytes(at: 0, count: 12288) == [UInt8](repeating: 7, count: 8192) + block, "the disk goes on with the file that was opened")
        #expect(throws: DiskError.imageReplaced(image: place.image)) { try test.disk.close() }
        for _ in 0..<2 {
            test.image = try place.open()
            #expect(throws: DiskError.imageReplaced(image: place.image)) { try test.open() }
        }
        #expect(rename(place.root + "/kept.raw", place.image) == 0)
        test.image = try place.open()
        #expect(throws: DiskError.imageReplaced(image: place.image), "who put it back has to say so") { try test.open() }
        try VirtualDisk.acceptImage(test.image, folder: test.folder, lock: OwnerLock.acquire(test.folder))
        try test.open()
        #expect(try test.disk.bytes(at: 0, count: 12288) == [UInt8](repeating: 7, count: 8192) + block)
        try test.disk.close()
        try test.open()
    }

    /// Such a log has no clean stop that could say it.
    @Test func aReplacedImageIsRefusedOverALogThatNobodyClosed() throws {
        let place = try Place()
        let test = try TestDisk(try place.open())
        defer { test.remove() }
        try test.disk.put(block, at: 8192)
        func note() throws {
            test.disk.abandon()
            try VirtualDisk.noteReplaced(test.folder, lock: OwnerLock.acquire(test.folder))
        }
        try note()
        for _ in 0..<2 { #expect(throws: DiskError.imageReplaced(image: place.image)) { try test.open() } }
        try VirtualDisk.acceptImage(test.image, folder: test.folder, lock: OwnerLock.acquire(test.folder))
        try test.open()
        #expect(try test.disk.bytes(at: 8192, count: 4096) == block, "what was acknowledged is in the log still")
        try note()
        try test.folder.discard(OwnerLock.acquire(test.folder))
        #expect(access(test.folder.path, F_OK) != 0, "a new log would be refused too")
    }

    /// What they would do cannot be undone: the uploader reads the image by its name, and a released disk is only its image.
    @Test func aReplacedImageIsNeitherFrozenNorReleased() throws {
        let place = try Place()
        let test = try TestDisk(try place.open())
        defer { test.remove() }
        try test.disk.put(block, at: 8192)
        #expect(rename(place.other, place.image) == 0)
        #expect(throws: DiskError.imageReplaced(image: place.image)) { try test.disk.freeze() }
        #expect(throws: DiskError.imageReplaced(image: place.image)) { try test.disk.mergeAll() }
        #expect(throws: DiskError.imageReplaced(image: place.image)) { try test.disk.mergeAndRemoveLog() }
        #expect(access(test.folder.path + "/log.state", F_OK) == 0, "the log is the only place that has the write")
    }
}
