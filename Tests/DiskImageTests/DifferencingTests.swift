// Chains of differencing disks against an independent writer and reader: what they read as, and what writing does to them.

import BlockIO
import DiskImage
import Foundation
import Synchronization
import Testing

@Suite struct DifferencingTests {
    private static let kib = 1024
    private static let mib = 1024 * 1024

    @Test(arguments: [512, 2048, 16_384], [1, 2, 5]) func chainsReadAsTheWriterSays(_ blockKiB: Int, _ depth: Int) throws {
        let folder = try TestFolder()
        let chain = TestChain(folder)
        let size = max(blockKiB * Self.kib, 5 * Self.mib) + 3 * 512
        try chain.base(size: size, ["--layout", depth == 2 ? "fixed" : "partial-bitmaps", "--block", "\(blockKiB * Self.kib)"])
        for level in 0..<depth {
            // Block sizes change from file to file.
            let block = level % 2 == 0 ? blockKiB * Self.kib : 128 * Self.kib
            try chain.child(seed: level + depth, ["--block", "\(block)", "--layout", level % 3 == 1 ? "table-last" : "plain"])
        }
        var model = try chain.model()
        #expect(try chain.readByPython() == model)
        let seen = try inspectImage(chain.leaf.path)
        #expect(seen.format == .vhdDifferencing && seen.parents.count == depth && seen.parents.allSatisfy { $0.timeStamp == .matches })
        #expect(try openImage(chain.leaf.path, access: .readOnly).allBytes() == model)
        let before = try chain.bytes()
        var random = SeededRandom(seed: UInt64(blockKiB + depth))
        for _ in 0..<2 {
            let image = try openImage(chain.leaf.path, access: .readWrite)
            try change(image, &model, operations: 25, &random)
            #expect(try image.allBytes() == model)
            try image.flush()
            #expect(try openImage(chain.leaf.path, access: .readOnly).allBytes() == model)
        }
        #expect(try chain.readByPython() == model)
        // Promise C1: A parent of a differencing disk is never written.
        #expect(try chain.bytes().dropLast() == before.dropLast())
    }

    @Test(arguments: ["win", "vs", "vpc", "qemu", "qem2", "vbox", "d2v", "tap", "CTXS", "tst"]) func everyCreatorsDisksHaveTheirSize(_ creator: String) throws {
        for size in [5 * Self.mib + 512, 17 * 4 * 1024 * 512, 40 * Self.mib] {
            for space in ["sectors", "bytes"] {
                let chain = TestChain(try TestFolder())
                try chain.base(size: size, ["--creator", creator, "--filled", "0.3"])
                try chain.child(["--creator", creator, "--space", space, "--layout", creator == "tap" ? "batmap" : "plain", "--block", "262144", "--filled", "0.2"])
                #expect(try openImage(chain.levels[0].path, access: .readOnly).allBytes() == [UInt8](Data(contentsOf: URL(filePath: chain.levels[0].raw))))
                let image = try openImage(chain.leaf.path, access: .readWrite)
                var model = try chain.model()
                #expect(try image.allBytes() == model, "\(creator), \(size)")
                try image.put([UInt8](repeating: 3, count: 512), at: image.sizeBytes - 512)
                model.replaceSubrange(model.count - 512..<model.count, with: repeatElement(3, count: 512))
                try image.flush()
                #expect(try chain.readByPython() == model)
                #expect(try inspectImage(chain.leaf.path).dynamic?.hasBatmap == (creator == "tap"))
            }
        }
    }

    @Test func aParentMayBeShorterAndNotLonger() throws {
        let chain = TestChain(try TestFolder())
        try chain.base(size: 3 * Self.mib + 512, ["--block", "524288", "--filled", "1"])
        try chain.child(["--size", "\(7 * Self.mib)", "--block", "1048576"])
        #expect(try openImage(chain.leaf.path, access: .readOnly).allBytes() == chain.model())
        try chain.child(["--size", "\(6 * Self.mib)"])
        let error = #expect(throws: ImageError.self) { try openImage(chain.leaf.path, access: .readOnly) }
        #expect("\(error!)".contains("a parent of \(7 * Self.mib) bytes"))
    }

    /// Sectors that were never written stay the parent's, in the file too.
    @Test func onlyWhatWasWrittenIsInTheLeaf() throws {
        let chain = TestChain(try TestFolder())
        try chain.base(size: 8 * Self.mib, ["--filled", "1", "--layout", "fixed"])
        try chain.child(["--filled", "0"])
        let image = try openImage(chain.leaf.path, access: .readWrite)
        try image.put([UInt8](repeating: 9, count: 4096), at: 4096)
        try image.flush()
        #expect(try inspectImage(chain.leaf.path).dynamic?.allocatedBlocks == 1)
        #expect(try inspectImage(chain.leaf.path).allocatedBytes < 64 << 10)
        let bytes = try chain.bytes()[1]
        let table = 1536
        let bitmap = bytes[table..<table + 4].reduce(0) { $0 << 8 | Int($1) } * 512
        #expect(Array(bytes[bitmap..<bitmap + 512]) == [0, 0xFF] + [UInt8](repeating: 0, count: 510))
    }

    /// A discard hides the parent's data, and takes no space for that.
    @Test func zerosHideTheParent() throws {
        let chain = TestChain(try TestFolder())
        try chain.base(size: 64 * Self.mib, ["--filled", "0.5"])
        try chain.child(["--filled", "0"])
        var image = try openImage(chain.leaf.path, access: .readWrite)
        try image.zero(at: 1000, length: UInt64(64 * Self.mib - 2000))
        try image.flush()
        var model = try [UInt8](Data(contentsOf: URL(filePath: chain.levels[0].raw)))
        model.replaceSubrange(1000..<64 * Self.mib - 1000, with: repeatElement(0, count: 64 * Self.mib - 2000))
        image = try openImage(chain.leaf.path, access: .readOnly)
        #expect(try image.allBytes() == model)
        let seen = try inspectImage(chain.leaf.path)
        #expect(seen.allocatedBytes < 256 << 10 && seen.dynamic!.allocatedBlocks < 32, "blocks that are zeros in the parent stay free")
        #expect(try chain.readByPython() == model)
    }

    @Test func holesAreHonest() throws {
        let chain = TestChain(try TestFolder())
        try chain.base(size: 40 * Self.mib, ["--filled", "0.2", "--block", "65536"])
        try chain.child(seed: 4, ["--filled", "0.1", "--block", "131072"])
        try chain.child(seed: 5, ["--filled", "0.1", "--size", "\(48 * Self.mib)"])
        let (image, model) = (try openImage(chain.leaf.path, access: .readOnly), try chain.model())
        var position: UInt64 = 0
        var holes = 0
        while position < image.sizeBytes {
            let data = try image.nextData(from: position) ?? image.sizeBytes
            #expect(data >= position && model[Int(position)..<Int(data)].allSatisfy { $0 == 0 })
            if data > position { holes += 1 }
            guard data < image.sizeBytes else { break }
            position = try image.nextHole(from: data)
            #expect(position > data && position <= image.sizeBytes)
        }
        #expect(holes > 10)
        #expect(try image.nextData(from: image.sizeBytes) == nil)
        #expect(try image.nextHole(from: image.sizeBytes) == image.sizeBytes)
    }

    /// Neighbours within one bitmap, and within one sector, while others flush and read.
    @Test func writersOfDisjointRangesDoNotDisturbEachOther() throws {
        let chain = TestChain(try TestFolder())
        let (writers, pieces, piece) = (8, 12_000, 320)
        try chain.base(size: writers * pieces / 8 * piece, ["--filled", "1", "--block", "65536"])
        try chain.child(["--block", "524288"])
        let image = try openImage(chain.leaf.path, access: .readWrite)
        let failures = Mutex<[String]>([])
        DispatchQueue.concurrentPerform(iterations: writers + 2) { writer in
            do {
                if writer == writers { for _ in 0..<20 { try image.flush() } }
                for number in stride(from: writer, to: pieces, by: writers) where writer < writers {
                    try image.put([UInt8](repeating: UInt8(writer + 1), count: piece), at: UInt64(number * piece))
                    let found = try image.bytes(at: UInt64(number * piece), count: piece)
                    if !found.allSatisfy({ $0 == UInt8(writer + 1) }) { failures.withLock { $0.append("piece \(number)") } }
                }
                if writer > writers { for number in stride(from: 0, to: pieces, by: 7) { _ = try image.bytes(at: UInt64(number * piece), count: 320) } }
            } catch {
                failures.withLock { $0.append("\(error)") }
            }
        }
        #expect(failures.withLock { $0 } == [])
        try image.flush()
        let found = try openImage(chain.leaf.path, access: .readOnly).allBytes()
        for number in 0..<pieces { #expect(found[number * piece] == UInt8(number % writers + 1) && found[number * piece + piece - 1] == found[number * piece]) }
    }

    @Test func cachedReadsGoThroughTheChain() throws {
        let chain = TestChain(try TestFolder())
        try chain.base(size: 6 * Self.mib, ["--filled", "0.7", "--block", "65536"])
        try chain.child(seed: 8, ["--block", "524288"])
        let (image, model) = (try openImage(chain.leaf.path, access: .readOnly), try chain.model())
        for offset in stride(from: 0, to: model.count - 8192, by: 200_192) {
            var bytes = [UInt8](repeating: 0xEE, count: 8192)
            for _ in 0..<20 {
                _ = try image.bytes(at: UInt64(offset), count: 8192)
                if bytes.withUnsafeMutableBytes({ image.readIfCached(into: $0, at: UInt64(offset)) }) { break }
            }
            #expect(bytes == Array(model[offset..<offset + 8192]))
        }
    }

    /// The largest disk: its last sector is reached through a child, and tables cost little memory.
    @Test func theLargestDisk() throws {
        let folder = try TestFolder()
        let size = Int(VHDFooter.sizeBytesMax)
        try OutputImage.makeEmpty(folder.file("base.vhd"), .vhdDynamic, VHDFooter.sizeBytesMax)
        let base = try openImage(folder.file("base.vhd"), access: .readWrite)
        try base.put([5, 6, 7], at: UInt64(size) - 3)
        try base.flush()
        let leaf = folder.file("leaf.vhd")
        _ = try vhdPython(["child", leaf, "-", "--parent", base.path, "--filled", "0"])
        let image = try openImage(leaf, access: .readWrite)
        try image.put([1], at: UInt64(size) - 2)
        try image.flush()
        let again = try openImage(leaf, access: .readOnly)
        #expect(try again.bytes(at: UInt64(size) - 4, count: 4) == [0, 5, 1, 7])
        #expect(try again.nextData(from: 0) == UInt64(size) - 4096)
        // A discard of all of it does not search the parent's table anew for each block.
        try image.zero(at: 0, length: UInt64(size) - 4096)
        try image.flush()
        #expect(try inspectImage(leaf).dynamic?.allocatedBlocks == 1)
    }
}
