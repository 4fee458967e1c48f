// What `image check` says of sound images that deserve a word.

import BlockIO
import DiskImage
import Testing

@Suite struct RemarkTests {
    @Test func aLostHeaderOfAVHDX() throws {
        let folder = try TestFolder()
        let path = try MalformedMappedTests.sound(folder, .vhdx)
        #expect(try checkImage(path).remarks == [])
        for place in [UInt64(64 << 10), 128 << 10] {
            let file = try Descriptor.open(path, 2)
            let sound = try file.read(count: 4096, at: place)
            try file.write([UInt8](repeating: 0, count: 4096), at: place)
            let remarks = try checkImage(path).remarks
            #expect(remarks.count == 1 && remarks[0].contains("one of the two headers is damaged") && remarks[0].contains("at byte \(place)"), "\(remarks)")
            try file.write(sound, at: place)
        }
        #expect(try checkImage(path).remarks == [])
    }

    @Test(arguments: [OutputFormat.raw, .vhdDynamic, .qcow2]) func anImageThatIsBeingWritten(_ format: OutputFormat) throws {
        let folder = try TestFolder()
        let path = folder.file("image")
        try OutputImage.makeEmpty(path, format, 4 << 20)
        let writer = try ImageLock.take(path, for: .exclusive)
        let remarks = try checkImage(path).remarks
        #expect(remarks.count == 1 && remarks[0].contains("open for writing"), "\(remarks)")
        try writer.release()
        #expect(try checkImage(path).remarks == [])
    }

    @Test(.enabled(if: requires("qemu-img"))) func aQCOW2ThatIsOnlyRead() throws {
        let folder = try TestFolder()
        let path = try MalformedMappedTests.sound(folder, .qcow2)
        try run("qemu-img", ["snapshot", "-c", "one", path])
        var remarks = try checkImage(path).remarks
        #expect(remarks.count == 1 && remarks[0].contains("1 internal snapshots") && remarks[0].contains("not protected"), "\(remarks)")
        try run("qemu-img", ["snapshot", "-d", "one", path])
        #expect(try checkImage(path).remarks == [])
        let file = try Descriptor.open(path, 2)
        try file.write([1], at: 79)
        remarks = try checkImage(path).remarks
        #expect(remarks.count == 1 && remarks[0].contains("not closed cleanly"), "\(remarks)")
    }
}
