// Images that grow: what they hold stays, what is added is zero, other readers agree, and a crash at any step leaves one that can be grown again.

import BlockIO
import DiskImage
import Foundation
import Testing

@Suite struct GrowTests {
    private static let mebibyte: UInt64 = 1 << 20

    private func expect(_ path: String, _ format: ImageFormat, holds content: [UInt8], _ sizeBytes: UInt64, _ folder: TestFolder) throws {
        let wanted = content + [UInt8](repeating: 0, count: Int(sizeBytes) - content.count)
        #expect(try openImage(path, access: .readOnly, format: format).allBytes() == wanted)
        #expect(try independentBytes(path, format, folder) == wanted)
    }

    @Test(arguments: [OutputFormat.raw, .vhdFixed, .vhdDynamic]) func growsAgainAndAgain(_ format: OutputFormat) throws {
        let folder = try TestFolder()
        let path = folder.file("image")
        var (size, random) = (3 * Self.mebibyte, SeededRandom(seed: 4))
        var content = [UInt8](repeating: 0, count: Int(size))
        try OutputImage.makeEmpty(path, format, size)
        // Within a block and by whole blocks; a table of more sectors is below.
        for larger in [4, 5, 9] {
            let image = try openImage(path, access: .readWrite, format: format.imageFormat)
            for place in [0, Int(size) - 4096] {
                let bytes = random.bytes(4096)
                try image.put(bytes, at: UInt64(place))
                content.replaceSubrange(place..<place + 4096, with: bytes)
            }
            try image.flush()
            let bytes = UInt64(larger) * Self.mebibyte
            try requireGrowable(path, format: format.imageFormat, from: size, to: bytes)
            try growImage(Descriptor.open(path, O_RDONLY), format: format.imageFormat, from: size, to: bytes)
            try expect(path, format.imageFormat, holds: content, bytes, folder)
            content += [UInt8](repeating: 0, count: Int(bytes - size))
            size = bytes
        }
    }

    /// Bytes behind the disk's end, in a block that is there, were nobody's and may be anything.
    @Test func whatLaysBehindTheEndIsNotShown() throws {
        let folder = try TestFolder()
        let path = folder.file("image.vhd")
        try OutputImage.makeEmpty(path, .vhdDynamic, 3 * Self.mebibyte)
        let image = try openImage(path, access: .readWrite, format: .vhdDynamic)
        try image.put([UInt8](repeating: 1, count: 4096), at: 3 * Self.mebibyte - 4096)
        try image.flush()
        let file = try Descriptor.open(path, O_RDWR)
        let end = try file.status().sizeBytes - 512
        try file.write([UInt8](repeating: 0xEE, count: 4096), at: end - 4096)
        try growImage(Descriptor.open(path, O_RDONLY), format: .vhdDynamic, from: 3 * Self.mebibyte, to: 4 * Self.mebibyte)
        try expect(path, .vhdDynamic, holds: [UInt8](repeating: 0, count: Int(3 * Self.mebibyte) - 4096) + [UInt8](repeating: 1, count: 4096), 4 * Self.mebibyte, folder)
    }

    @Test(arguments: [ImageFormat.vhdFixed, .vhdDynamic], [4, 300]) func aCrashAtAnyStepLeavesOneOfTheTwoAndIsRepeated(_ format: ImageFormat, _ larger: UInt64) throws {
        let folder = try TestFolder()
        let path = folder.file("image.vhd")
        let (old, new) = (2 * Self.mebibyte, (format == .vhdFixed ? min(larger, 4) : larger) * Self.mebibyte)
        try OutputImage.makeEmpty(path, format == .vhdFixed ? .vhdFixed : .vhdDynamic, old)
        var random = SeededRandom(seed: larger)
        let data = random.bytes(4096)
        let image = try openImage(path, access: .readWrite, format: format)
        try image.put(data, at: 8192)
        try image.flush()
        let start = try [UInt8](Data(contentsOf: URL(filePath: path)))
        let recorder = CrashRecorder()
        try growImage(Descriptor.open(path, O_RDONLY), format: format, from: old, to: new, listener: recorder.listener)
        let changes = recorder.changes
        #expect(changes.count >= 4)
        var givenUp = 0
        for count in 0...changes.count {
            for loss in Loss.allCases {
                let survivor = try folder.write("survivor.vhd", crashed(start, changes, after: count, losing: loss, &random))
                if format == .vhdDynamic {
                    let size = try openImage(survivor, access: .readOnly, format: format).sizeBytes
                    #expect(size == old || size == new, "change \(count), \(loss)")
                    // Where it may be given up the header on the disk is the old one, whatever sync failed.
                    if try showsNoGrowth(Descriptor.open(survivor, O_RDONLY), format: format, from: old, to: new) {
                        givenUp += 1
                        let header = try Descriptor.open(survivor, O_RDONLY).read(count: 1024, at: 512)
                        #expect(header == Array(start[512..<1536]), "change \(count), \(loss)")
                    }
                }
                try growImage(Descriptor.open(survivor, O_RDONLY), format: format, from: old, to: new)
                let grown = try openImage(survivor, access: .readWrite, format: format)
                #expect(grown.sizeBytes == new)
                #expect(try grown.bytes(at: 8192, count: 4096) == data)
                #expect(try grown.nextData(from: old) == nil || grown.bytes(at: old, count: Int(new - old)).allSatisfy { $0 == 0 })
                try grown.put(data, at: new - 4096)
                try grown.flush()
                #expect(try openImage(survivor, access: .readOnly, format: format).bytes(at: new - 4096, count: 4096) == data)
            }
        }
        #expect(format == .vhdFixed || givenUp > 0)
    }

    /// A table of 512 KiB, and bytes free.
    @Test(.enabled(if: geteuid() == 0 || getenv("CI") != nil, "mounts a small filesystem, which needs root"), arguments: [0, 256 << 10, 508 << 10] as [UInt64])
    func withoutRoomForTheTableTheFileStaysAsItWas(_ room: UInt64) throws {
        let folder = try TestFolder()
        try run("mount", ["-t", "tmpfs", "-o", "size=8m", "farshore-test", folder.path])
        defer { umount2(folder.path, Int32(MNT_DETACH)) }
        let (path, filler) = (folder.file("image.vhd"), folder.file("filler"))
        let (old, new) = (2 * Self.mebibyte, UInt64(256) << 30)
        try OutputImage.makeEmpty(path, .vhdDynamic, old)
        let image = try openImage(path, access: .readWrite, format: .vhdDynamic)
        try image.put([UInt8](repeating: 7, count: 4096), at: 8192)
        try image.flush()
        let before = try [UInt8](Data(contentsOf: URL(filePath: path)))
        var status = statvfs()
        try #require(statvfs(folder.path, &status) == 0)
        try Descriptor.open(filler, O_RDWR | O_CREAT).allocate(at: 0, length: UInt64(status.f_bavail) * UInt64(status.f_frsize) - room)
        for _ in 0..<2 {
            #expect {
                try growImage(Descriptor.open(path, O_RDONLY), format: .vhdDynamic, from: old, to: new)
            } throws: {
                guard case ImageError.system(let error) = $0 else { return false }
                return error.errno == ENOSPC
            }
            #expect(try [UInt8](Data(contentsOf: URL(filePath: path))) == before)
        }
        unlink(filler)
        try growImage(Descriptor.open(path, O_RDONLY), format: .vhdDynamic, from: old, to: new)
        let grown = try openImage(path, access: .readOnly, format: .vhdDynamic)
        #expect(grown.sizeBytes == new)
        #expect(try grown.bytes(at: 8192, count: 4096) == [UInt8](repeating: 7, count: 4096))
    }

    @Test(.enabled(if: requires("qemu-img"))) func qemuSeesTheNewSize() throws {
        let folder = try TestFolder()
        for (subformat, format) in [("fixed", ImageFormat.vhdFixed), ("dynamic", .vhdDynamic)] {
            let path = folder.file(subformat)
            try run("qemu-img", ["create", "-q", "-f", "vpc", "-o", "subformat=\(subformat),force_size=on", path, "8M"])
            try growImage(Descriptor.open(path, O_RDONLY), format: format, from: 8 * Self.mebibyte, to: 700 * Self.mebibyte)
            let information = try run("qemu-img", ["info", "-f", "vpc", path]).output
            #expect(information.contains("(\(700 * Self.mebibyte) bytes)"), "\(information)")
        }
    }

    @Test func whatCannotGrowIsRefused() throws {
        let folder = try TestFolder()
        let size = 4 * Self.mebibyte
        for format in [OutputFormat.vhdx, .qcow2] {
            let path = folder.file(format.rawValue)
            try OutputImage.makeEmpty(path, format, size)
            #expect(throws: ImageError.self) { try requireGrowable(path, format: format.imageFormat, from: size, to: 2 * size) }
        }
        let path = folder.file("image.vhd")
        try OutputImage.makeEmpty(path, .vhdDynamic, size)
        for bytes in [size, size - Self.mebibyte, size + 512, 2041 << 30] {
            #expect(throws: ImageError.self) { try requireGrowable(path, format: .vhdDynamic, from: size, to: bytes) }
        }
        let remedies: [(from: UInt64, to: UInt64, words: String)] = [
            (size - 512, 2 * size, "COPY.raw, truncate -s %1M COPY.raw, and protect COPY.raw under a new name"),
            (size, 2041 << 30, "--to raw, and protect COPY.raw under a new name"),
        ]
        for (from, to, words) in remedies {
            let error = #expect(throws: ImageError.self) { try requireGrowable(path, format: .vhdDynamic, disk: "shop", from: from, to: to) }
            guard case .unsupported(_, _, let remedy) = error else { Issue.record("\(String(describing: error))"); continue }
            #expect(remedy.hasPrefix("farshore unprotect shop, farshore image convert \(path) ") && remedy.contains(words), "\(remedy)")
        }
    }
}
