// A dynamic VHD, and the leaf of a differencing chain, survive a crash between any two changes of its file, whatever part of the unsynced ones is lost:
// flushed data is there, unflushed sectors are old or new, and the image goes on.

import BlockIO
import DiskImage
import Foundation
import Testing

@Suite struct CrashTests {
    private static let blockBytes = 4096
    private static let sizeBytes = 24 * 4096 + 1024

    @Test(arguments: 0..<(3 * UInt64(campaignScale)), [ImageFormat.vhdDynamic, .vhdDifferencing])
    func noCrashLosesWhatWasFlushed(_ seed: UInt64, _ format: ImageFormat) throws {
        let folder = try TestFolder()
        var random = SeededRandom(seed: seed)
        let (start, model) = try makeImage(folder, seed: seed, format)
        let (steps, changes) = try record(folder.file("image.vhd"), format, steps: 60, &random)
        var checked = 0
        for count in 0...changes.count {
            for loss in Loss.allCases {
                let file = crashed(start, changes, after: count, losing: loss, &random)
                try checkSurvivor(folder, file, format, allowed: allowedSectors(model, steps, crashAfter: count), "seed \(seed), change \(count), \(loss)", &random)
                checked += 1
            }
        }
        #expect(checked > 400)
    }

    @Test(arguments: [ImageFormat.vhdDynamic, .vhdDifferencing]) func aCrashDuringTheRepairIsRepairedToo(_ format: ImageFormat) throws {
        let folder = try TestFolder()
        var random = SeededRandom(seed: 99)
        let (start, model) = try makeImage(folder, seed: 99, format)
        let torn = Array(start.dropLast(512)) + random.bytes(512) + [UInt8](repeating: 0, count: 8192)
        let damagedCopy = [UInt8](repeating: 0xFF, count: 512) + start.dropFirst(512)
        let wanted = stride(from: 0, to: model.count, by: 512).map { Set([Array(model[$0..<$0 + 512])]) }
        for broken in [torn, Array(start.dropLast(512)), Array(start.dropLast(100)), damagedCopy] {
            let recorder = CrashRecorder()
            let image = try openDynamicVHD(folder.write("broken.vhd", broken), access: .readWrite, isDifferencing: format == .vhdDifferencing, listener: recorder.listener)
            #expect(recorder.count == 0, "opening alone changes nothing: somebody may still ask whether the image was changed")
            try image.flush()
            #expect(recorder.count > 0)
            for count in 0...recorder.count {
                for loss in Loss.allCases {
                    let file = crashed(broken, recorder.changes, after: count, losing: loss, &random)
                    try checkSurvivor(folder, file, format, allowed: wanted, "change \(count), \(loss)", &random)
                }
            }
        }
    }

    /// The file grew by a block, and neither its footer nor its table entry is there: the file ends with a guest's bytes, and the
    /// guest wrote a sound footer of another disk. It must not make its disk unusable.
    @Test func aGuestsFooterAtTheEndIsNotTheDisks() throws {
        let folder = try TestFolder()
        let (start, model) = try makeImage(folder, seed: 6)
        let forged = [VHDFooter.fixed(sizeBytes: 1 << 20, uniqueID: [9], timeStamp: 1), Array(try MalformedVHDTests.soundDynamic().suffix(512))]
        for footer in forged {
            for sector in [0, 3, Self.blockBytes / 512 - 1] {
                let data = [UInt8](repeating: 0x77, count: sector * 512) + footer
                let torn = Array(start.dropLast(512)) + [UInt8](repeating: 0xFF, count: 512) + data
                let path = try folder.write("torn.vhd", torn)
                let image = try openImage(path, access: .readWrite, format: .vhdDynamic)
                #expect(try image.allBytes() == model)
                #expect(try inspectImage(path, format: .vhdDynamic).dynamic?.isClean == false)
                try image.flush()
                #expect(try openImage(path, access: .readOnly).allBytes() == model && inspectImage(path).dynamic?.isClean == true)
            }
            // Directly behind the last block no guest's byte can be.
            #expect(throws: ImageError.self) { try openImage(folder.write("two.vhd", Array(start.dropLast(512)) + footer), access: .readWrite, format: .vhdDynamic) }
        }
    }

    @Test func readingNeverChangesABrokenImage() throws {
        let folder = try TestFolder()
        let (start, model) = try makeImage(folder, seed: 5)
        let broken = Array(start.dropLast(512))
        let path = try folder.write("broken.vhd", broken)
        #expect(try openImage(path, access: .readOnly).allBytes() == model)
        #expect(try inspectImage(path).dynamic?.isClean == false)
        #expect(try [UInt8](Data(contentsOf: URL(filePath: path))) == broken)
        let image = try openImage(path, access: .readWrite)
        #expect(try [UInt8](Data(contentsOf: URL(filePath: path))) == broken)
        try image.flush()
        #expect(try inspectImage(path).dynamic?.isClean == true)
        _ = try vhdPython(["read", path, folder.file("mended.raw")])
    }

    /// The sync of the table fails: the page cache has the new entries, the disk does not, and no sync writes clean pages. The
    /// next opening reads the page cache; what it flushes must be there after a power loss all the same.
    @Test func whatAFailedSyncKeptFromTheDiskIsWrittenAgain() throws {
        let folder = try TestFolder()
        let (start, model) = try makeImage(folder, seed: 8)
        let path = folder.file("image.vhd")
        let recorder = CrashRecorder()
        let image = try openDynamicVHD(path, access: .readWrite, listener: recorder.listener)
        let block = try #require(stride(from: 0, to: model.count, by: Self.blockBytes).first { block in model[block..<block + 512].allSatisfy { $0 == 0 } })
        try image.put([UInt8](repeating: 1, count: 512), at: UInt64(block))
        try image.flush()
        let syncs = recorder.changes.indices.filter { if case .sync = recorder.changes[$0] { true } else { false } }
        var random = SeededRandom(seed: 8)
        // Everything but what the last sync was to make durable.
        let disk = crashed(start, recorder.changes, after: try #require(syncs.dropLast().last) + 1, losing: .none, &random)
        let again = CrashRecorder()
        let reopened = try openDynamicVHD(path, access: .readWrite, listener: again.listener)
        try reopened.put([UInt8](repeating: 2, count: 512), at: UInt64(block + 512))
        try reopened.flush()
        let after = crashed(disk, again.changes, after: again.count, losing: .all, &random)
        let found = try openImage(folder.write("after.vhd", after), access: .readOnly, format: .vhdDynamic).allBytes()
        #expect(found[block..<block + 512].allSatisfy { $0 == 1 } && found[block + 512..<block + 1024].allSatisfy { $0 == 2 })
    }

    /// A guest's last sector that looks like this disk's footer is data after a crash, not a footer.
    @Test func aForgedFooterBehindTheLastBlockIsIgnored() throws {
        let folder = try TestFolder()
        let (start, model) = try makeImage(folder, seed: 6)
        var forged = Array(start.suffix(512))
        forged[48...55] = [0, 0, 0, 0, 0, 0, 16, 0]
        let sum = forged.enumerated().reduce(UInt32(0)) { $1.offset / 4 == 16 ? $0 : $0 &+ UInt32($1.element) }
        forged.replaceSubrange(64..<68, with: withUnsafeBytes(of: (~sum).bigEndian) { Array($0) })
        let unfinished = Array(start.dropLast(512)) + [UInt8](repeating: 0xFF, count: 512) + [UInt8](repeating: 7, count: Self.blockBytes - 512) + forged
        let image = try openImage(folder.write("forged.vhd", unfinished + forged), access: .readWrite, format: .vhdDynamic)
        #expect(try image.allBytes() == model)
        try fillUnallocated(image, model)
    }

    // MARK: one survivor

    private func checkSurvivor(
        _ folder: TestFolder, _ file: [UInt8], _ format: ImageFormat, allowed: [Set<[UInt8]>], _ which: String, _ random: inout SeededRandom
    ) throws {
        let path = try folder.write("survivor.vhd", file)
        let found = try openImage(path, access: .readOnly, format: format).allBytes()
        for (sector, values) in allowed.enumerated() {
            let there = Array(found[sector * 512..<sector * 512 + 512])
            guard values.contains(there) else {
                Issue.record("\(which): sector \(sector) holds \(there.prefix(4)), none of \(values.count) legal values")
                return
            }
        }
        let image = try openImage(path, access: .readWrite, format: format)
        #expect(try image.allBytes() == found, "\(which): the repair changed the disk")
        try fillUnallocated(image, found, format)
        if Int.random(in: 0..<40, using: &random) == 0 { _ = try vhdPython(["read", path, folder.file("python.raw")]) }
    }

    /// One sector written into every block must leave all others as they were: new blocks begin as zeros.
    private func fillUnallocated(_ image: any ImageFile, _ before: [UInt8], _ format: ImageFormat = .vhdDynamic) throws {
        var model = before
        for block in stride(from: 0, to: model.count, by: Self.blockBytes) {
            try image.put([UInt8](repeating: 0xC3, count: 512), at: UInt64(block))
            model.replaceSubrange(block..<block + 512, with: repeatElement(0xC3, count: 512))
        }
        try image.flush()
        #expect(try image.allBytes() == model)
        #expect(try openImage(image.path, access: .readOnly, format: format).allBytes() == model)
    }

    // MARK: the recording

    /// In a chain image.vhd is the leaf, and its parents are beside it.
    private func makeImage(_ folder: TestFolder, seed: UInt64, _ format: ImageFormat = .vhdDynamic) throws -> (file: [UInt8], model: [UInt8]) {
        let layout = seed % 2 == 0 ? "plain" : "table-last"
        if format == .vhdDifferencing {
            let chain = TestChain(folder)
            try chain.base(size: Self.sizeBytes, ["--block", "8192", "--seed", "\(seed)"])
            try chain.child("image.vhd", seed: Int(seed), ["--block", "\(Self.blockBytes)", "--layout", layout])
            return (try chain.bytes()[1], try chain.model())
        }
        _ = try vhdPython(["make", folder.file("image.vhd"), folder.file("image.raw"), "--size", "\(Self.sizeBytes)",
            "--block", "\(Self.blockBytes)", "--seed", "\(seed)", "--layout", layout])
        let file = try [UInt8](Data(contentsOf: URL(filePath: folder.file("image.vhd"))))
        return (file, try [UInt8](Data(contentsOf: URL(filePath: folder.file("image.raw")))))
    }

    private func record(_ path: String, _ format: ImageFormat, steps count: Int, _ random: inout SeededRandom) throws -> ([CrashStep], [FileChange]) {
        let recorder = CrashRecorder()
        let image = try openDynamicVHD(path, access: .readWrite, isDifferencing: format == .vhdDifferencing, listener: recorder.listener)
        return (try recorder.record(image, steps: count, &random), recorder.changes)
    }
}
