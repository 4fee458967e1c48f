// An image being made: nothing under its name until it is whole; resumable; a full disk breaks nothing. Needs root for
// the loop device and the small filesystem.

import BlockIO
import DiskImage
import Foundation
import Testing

@Suite struct OutputImageTests {
    private func begin(_ path: String, _ format: OutputFormat, resume: Bool = false, size: UInt64 = 8 << 20) throws -> OutputImage {
        try OutputImage.begin(path, format: format, sizeBytes: size, uniqueID: [UInt8](1...16), timeStamp: 3, resume: resume)
    }

    @Test(arguments: OutputFormat.allCases) func aPartialImageIsContinued(_ format: OutputFormat) throws {
        let folder = try TestFolder()
        let path = folder.file("out.img")
        do {
            let first = try begin(path, format, resume: true)
            let firstResumed = first.isResumed
            #expect(!firstResumed)
            try first.image.put([7, 7], at: 5 << 20)
            try first.image.flush()
        }
        #expect(!FileManager.default.fileExists(atPath: path))
        do {
            let other = try begin(path, format, resume: true, size: 4 << 20)
            let otherResumed = other.isResumed
            #expect(!otherResumed, "another size is another image")
            try other.discard()
        }
        do {
            let again = try begin(path, format)
            try again.image.put([8, 8], at: 5 << 20)
            try again.image.flush()
        }
        let last = try begin(path, format, resume: true)
        let lastResumed = last.isResumed
        #expect(lastResumed)
        try last.image.put([9], at: 0)
        try last.finish(replacing: false)
        let made = try openImage(path, access: .readOnly, format: format.imageFormat)
        #expect(try made.bytes(at: 5 << 20, count: 2) == [8, 8] && made.bytes(at: 0, count: 1) == [9])
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["out.img"])
    }

    @Test func anExistingFileIsReplacedOnlyOnRequest() throws {
        let folder = try TestFolder()
        let path = try folder.write("out.raw", [1, 2, 3])
        #expect(throws: ImageError.self) { try begin(path, .raw).finish(replacing: false) }
        #expect(try Data(contentsOf: URL(filePath: path)) == Data([1, 2, 3]))
        try begin(path, .raw).finish(replacing: true)
        #expect(try openImage(path, access: .readOnly).sizeBytes == 8 << 20)
    }

    /// A protected disk's image that is being served, for one.
    @Test func anImageInUseIsNotReplaced() throws {
        let folder = try TestFolder()
        let path = try folder.write("out.raw", [UInt8](repeating: 1, count: 4096))
        let user = try ImageLock.take(path, for: .exclusive)
        #expect(throws: ImageError.inUse(path: path)) { try OutputImage.requireReplaceable(path) }
        #expect(throws: ImageError.inUse(path: path)) { try begin(path, .raw).finish(replacing: true) }
        #expect(try openImage(path, access: .readOnly).bytes(at: 0, count: 1) == [1])
        try user.release()
        let again = try begin(path, .raw, resume: true)
        let isResumed = again.isResumed
        #expect(isResumed, "what was made is kept")
        try again.finish(replacing: true)
        #expect(try openImage(path, access: .readOnly).sizeBytes == 8 << 20)
    }

    /// A device's node would be replaced by a file beside the device, a link by a file beside what it leads to.
    @Test func whatIsNoFileIsNotReplaced() throws {
        let folder = try TestFolder()
        let file = try folder.write("file", [4, 5, 6])
        let places = ["fifo", "link", "dangling", "folder"].map(folder.file)
        #expect(mkfifo(places[0], 0o600) == 0 && symlink(file, places[1]) == 0 && symlink(folder.file("none"), places[2]) == 0 && mkdir(places[3], 0o700) == 0)
        for path in places {
            let refusal = ImageError.unsupported(path: path, what: "exists and is no file", remedy: "name a new file, or write a raw image to a device with dd")
            #expect(throws: refusal) { try OutputImage.requireReplaceable(path) }
            // Also what got there while the image was made.
            #expect(throws: refusal) { try begin(path, .raw).finish(replacing: true) }
            unlink(path + OutputImage.partialSuffix)
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == ["dangling", "fifo", "file", "folder", "link"])
        #expect(try FileManager.default.destinationOfSymbolicLink(atPath: places[1]) == file && Data(contentsOf: URL(filePath: file)) == Data([4, 5, 6]))
        #expect(try FileManager.default.attributesOfItem(atPath: places[0])[.type] as? FileAttributeType != .typeRegular)
    }

    /// In a folder others may write to: their link is neither followed nor emptied.
    @Test func aLinkInPlaceOfThePartialFileIsRefused() throws {
        let folder = try TestFolder()
        let victim = try folder.write("victim", [4, 5, 6])
        let partial = folder.file("out.raw" + OutputImage.partialSuffix)
        for plant in [{ symlink(victim, partial) }, { link(victim, partial) }, { mkfifo(partial, 0o600) }, { symlink(folder.file("new"), partial) }] as [() -> Int32] {
            #expect(plant() == 0)
            for resume in [false, true] {
                let error = #expect(throws: ImageError.self) { try begin(folder.file("out.raw"), .raw, resume: resume).finish(replacing: false) }
                guard case .unsupported(partial, _, _) = error else { Issue.record("\(String(describing: error))"); continue }
            }
            unlink(partial)
        }
        #expect(try Data(contentsOf: URL(filePath: victim)) == Data([4, 5, 6]))
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["victim"])
        // And what takes its place meanwhile does not get the image's name.
        #expect(throws: ImageError.self) {
            let output = try begin(folder.file("out.raw"), .raw)
            #expect(rename(victim, partial) == 0)
            try output.finish(replacing: false)
        }
        #expect(!FileManager.default.fileExists(atPath: folder.file("out.raw")))
    }

    @Test func twoAtOnceAreRefused() throws {
        let folder = try TestFolder()
        let one = try begin(folder.file("x"), .raw)
        #expect(throws: ImageError.self) { _ = try begin(folder.file("x"), .raw, resume: true) }
        try one.discard()
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == [])
    }

    /// Opened while the first was at work, and locked when it had ended: the name of the partial file is what is to be locked, not the file.
    @Test(arguments: [false, true]) func whoComesTooLateDoesNotEmptyTheFinishedImage(isDiscarded: Bool) throws {
        let folder = try TestFolder()
        let path = folder.file("out.raw")
        let first = try begin(path, .raw)
        try first.image.put([1, 2, 3], at: 0)
        let late = try Descriptor.open(path + OutputImage.partialSuffix, O_RDWR)
        #expect(throws: ImageError.inUse(path: late.path)) { _ = try OutputImage.lock(partial: late) }
        if isDiscarded { try first.discard() } else { try first.finish(replacing: false) }
        func isLocked() throws -> Bool { try OutputImage.lock(partial: late) != nil }
        #expect(try !isLocked())
        // Nor where the next one has made its own.
        let second = try begin(path, .raw)
        #expect(try !isLocked())
        try second.discard()
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == (isDiscarded ? [] : ["out.raw"]))
        if !isDiscarded { #expect(try openImage(path, access: .readOnly).bytes(at: 0, count: 3) == [1, 2, 3]) }
    }

    @Test(.enabled(if: geteuid() == 0)) func aFullDiskLosesNothingOld() throws {
        let folder = try TestFolder()
        try run("mount", ["-t", "tmpfs", "-o", "size=6m", "farshore-test", folder.path])
        defer { _ = try? run("umount", [folder.path]) }
        let path = folder.file("full.vhd")
        try OutputImage.makeEmpty(path, .vhdDynamic, 64 << 20)
        var image = try openImage(path, access: .readWrite)
        let block = [UInt8](repeating: 5, count: 2 << 20)
        var written = 0
        let error = #expect(throws: SystemError.self) {
            while true {
                try image.put(block, at: UInt64(written) * (2 << 20))
                try image.flush()
                written += 1
            }
        }
        #expect(error?.errno == ENOSPC && written == 2)
        #expect(throws: SystemError.self) { try image.put(block, at: 40 << 20) }
        try image.flush()
        image = try openImage(path, access: .readWrite)
        #expect(try image.bytes(at: 0, count: 4 << 20) == block + block)
        try run("mount", ["-o", "remount,size=32m", folder.path])
        try image.put(block, at: 40 << 20)
        try image.flush()
        #expect(try openImage(path, access: .readOnly).bytes(at: 40 << 20, count: 2 << 20) == block)
        _ = try vhdPython(["read", path, folder.file("python.raw")])
    }

    @Test(.enabled(if: geteuid() == 0 && requires("losetup"))) func blockDevicesServeAsRawImages() throws {
        let folder = try TestFolder()
        let backing = try folder.write("back", [UInt8](repeating: 0, count: 8 << 20))
        let device = try run("losetup", ["--find", "--show", backing]).output.trimmingCharacters(in: .whitespacesAndNewlines)
        defer { _ = try? run("losetup", ["-d", device]) }
        let lock = try ImageLock.take(device, for: .exclusive)
        #expect(throws: ImageError.inUse(path: device)) { _ = try ImageLock.take(device, for: .shared) }
        let image = try openImage(device, access: .readWrite)
        #expect(image.sizeBytes == 8 << 20)
        let before = try ImageIdentity(of: device)
        #expect(before.evidence == .sampledBlocks)
        try image.put([UInt8](repeating: 4, count: 8192), at: 1 << 20)
        try image.zero(at: 1 << 20, length: 4096)
        try image.flush()
        #expect(try image.bytes(at: 1 << 20, count: 8192) == [UInt8](repeating: 0, count: 4096) + [UInt8](repeating: 4, count: 4096))
        #expect(try image.nextData(from: 0) == 0 && image.nextHole(from: 0) == 8 << 20)
        #expect(try ImageIdentity(of: device) != before)
        try lock.release()
    }

    @Test(arguments: OutputFormat.allCases) func copiesAreSparse(_ format: OutputFormat) throws {
        let folder = try TestFolder()
        let source = try begin(folder.file("in.raw"), .raw, size: 1 << 30)
        try source.image.put([UInt8](repeating: 6, count: 10_000), at: (512 << 20) - 5000)
        try source.image.put([UInt8](repeating: 0, count: 4 << 20), at: 64 << 20)
        let target = try begin(folder.file("out.img"), format, size: 1 << 30)
        var last: UInt64 = 0
        try copyData(of: source.image, to: target.image) { last = $0 }
        #expect(last == 1 << 30)
        try target.finish(replacing: false)
        #expect(try inspectImage(folder.file("out.img")).allocatedBytes < 128 << 10)
        let made = try openImage(folder.file("out.img"), access: .readOnly)
        #expect(try made.bytes(at: (512 << 20) - 5001, count: 10_002) == [0] + [UInt8](repeating: 6, count: 10_000) + [0])
        try source.discard()
    }
}
