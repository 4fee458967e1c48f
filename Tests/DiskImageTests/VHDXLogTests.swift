// What a VHDX's log holds is carried out before anything else is believed: in memory by a reader, in the file by a writer,
// as QEMU and a second reader in Python do it.

import BlockIO
import DiskImage
import Foundation
import Testing

@Suite(.enabled(if: requires("qemu-img"))) struct VHDXLogTests {
    static let shapes: [[String]] = [[], ["--wrap"], ["--torn"], ["--zero"], ["--wrap", "--torn", "--zero"]]

    private func dirtyImage(_ folder: TestFolder, _ shape: [String], blocks: String = "1M") throws -> (path: String, model: [UInt8]) {
        var random = SeededRandom(seed: 3)
        var model = [UInt8](repeating: 0, count: 12 << 20)
        for start in [0, 3 << 20, 11 << 20] { model.replaceSubrange(start..<start + 100_000, with: random.bytes(100_000)) }
        let path = folder.file("dirty.vhdx")
        try run("qemu-img", ["convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=\(blocks)", folder.write("in.raw", model), path])
        _ = try vhdxPython(["dirty", path] + shape)
        return (path, model)
    }

    @Test(arguments: shapes) func aReaderSeesWhatTheLogHolds(_ shape: [String]) throws {
        let folder = try TestFolder()
        let (path, model) = try dirtyImage(folder, shape)
        let before = try Data(contentsOf: URL(filePath: path))
        #expect(try inspectImage(path).vhdx?.hasLogToReplay == true)
        #expect(try openImage(path, access: .readOnly).allBytes() == model)
        #expect(try Data(contentsOf: URL(filePath: path)) == before, "a reader changed the file")
    }

    @Test(arguments: shapes) func aWriterCarriesItOut(_ shape: [String]) throws {
        let folder = try TestFolder()
        var (path, model) = try dirtyImage(folder, shape)
        let image = try openImage(path, access: .readWrite)
        #expect(try inspectImage(path).vhdx?.hasLogToReplay == true, "opening alone changed the image")
        #expect(try image.allBytes() == model)
        try image.flush()
        #expect(try inspectImage(path).vhdx?.hasLogToReplay == false)
        try image.put([UInt8](repeating: 8, count: 4096), at: 7 << 20)
        model.replaceSubrange(7 << 20..<(7 << 20) + 4096, with: repeatElement(8, count: 4096))
        try image.flush()
        #expect(try independentBytes(path, .vhdx, folder) == model)
        try run("qemu-img", ["check", "-q", path])
        try run("qemu-img", ["compare", "-f", "raw", "-F", "vhdx", folder.write("model.raw", model), path])
    }

    /// The carrying out may be cut short anywhere, and is then carried out again.
    @Test func aCrashWhileItIsCarriedOut() throws {
        let folder = try TestFolder()
        let (path, model) = try dirtyImage(folder, ["--zero"])
        let start = try [UInt8](Data(contentsOf: URL(filePath: path)))
        let recorder = CrashRecorder()
        try openVHDX(path, access: .readWrite, listener: recorder.listener).flush()
        var random = SeededRandom(seed: 8)
        #expect(recorder.count > 4)
        for count in 0...recorder.count {
            for loss in Loss.allCases {
                let file = crashed(start, recorder.changes, after: count, losing: loss, &random)
                let survivor = try folder.write("survivor.vhdx", file)
                #expect(try openImage(survivor, access: .readOnly).allBytes() == model, "change \(count), \(loss)")
                let image = try openImage(survivor, access: .readWrite)
                try image.flush()
                #expect(try image.allBytes() == model, "change \(count), \(loss)")
                #expect(try openImage(survivor, access: .readOnly).allBytes() == model, "change \(count), \(loss)")
            }
        }
    }

    @Test func aLogWithoutASoundSequenceIsRefused() throws {
        let folder = try TestFolder()
        let (path, _) = try dirtyImage(folder, [])
        for (offset, bytes) in [((1 << 20) + 4096 + 100, [0xFF]), ((1 << 20) + 20, [0xFF]), ((1 << 20) + 32, [0xFF])] as [(UInt64, [UInt8])] {
            let whole = try [UInt8](Data(contentsOf: URL(filePath: path)))
            var damaged = whole
            // Every entry of the log: nothing sound is left.
            for place in stride(from: Int(offset), to: 2 << 20, by: 4096) { damaged[place] ^= bytes[0] }
            let error = #expect(throws: ImageError.self) { try openImage(folder.write("d.vhdx", damaged), access: .readWrite) }
            #expect("\(error!)".contains("log, entries"), "\(error!)")
        }
        let cut = try [UInt8](Data(contentsOf: URL(filePath: path))).dropLast(1 << 20)
        let error = #expect(throws: ImageError.self) { try openImage(folder.write("cut.vhdx", Array(cut)), access: .readOnly) }
        #expect("\(error!)".contains("flushed file size"), "\(error!)")
    }

    /// After each flush the log is empty for everybody else, and the write ids are new.
    @Test func aFlushLeavesAnEmptyLogAndNewIDs() throws {
        let folder = try TestFolder()
        let path = folder.file("ids.vhdx")
        try OutputImage.makeEmpty(path, .vhdx, 256 << 20)
        func ids() throws -> [UInt8] {
            let bytes = try Descriptor.open(path, 0).read(count: 192 << 10, at: 0)
            let first = bytes[64 << 10..<(64 << 10) + 64], second = bytes[128 << 10..<(128 << 10) + 64]
            let sequence: (ArraySlice<UInt8>) -> UInt64 = { $0.dropFirst(8).prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) } }
            return Array((sequence(first) > sequence(second) ? first : second).dropFirst(16).prefix(48))
        }
        var seen: Set<[UInt8]> = [Array(try ids().prefix(32))]
        for opening in 0..<3 {
            let image = try openImage(path, access: .readWrite)
            #expect(seen.contains(Array(try ids().prefix(32))), "opening alone changed the ids")
            for block in 0..<4 {
                try image.put([UInt8(opening + 1)], at: UInt64(block * 2 + opening % 2) * (32 << 20))
                try image.flush()
                #expect(try ids().suffix(16).allSatisfy { $0 == 0 }, "the log is not empty")
                try run("qemu-img", ["check", "-q", "-f", "vhdx", path])
            }
            #expect(seen.insert(Array(try ids().prefix(32))).inserted, "the ids are old")
        }
    }
}
