// Every format against a plain array of bytes: random operations through reopening, and many writers at once.

import BlockIO
import DiskImage
import Foundation
import Synchronization
import Testing

@Suite struct ImageModelTests {
    @Test(arguments: OutputFormat.allCases, 0..<UInt64(campaignScale))
    func randomOperationsMatchTheModel(_ format: OutputFormat, _ seed: UInt64) throws {
        let folder = try TestFolder()
        var random = SeededRandom(seed: seed)
        let size = (9 << 20) + 1536
        let path = folder.file("model.img")
        try OutputImage.makeEmpty(path, format, UInt64(size))
        var model = [UInt8](repeating: 0, count: size)
        for round in 0..<6 {
            let image = try openImage(path, access: .readWrite)
            for _ in 0..<120 { try operate(image, &model, &random) }
            try image.flush()
            #expect(try openImage(path, access: .readOnly).allBytes() == model, "\(format), seed \(seed), round \(round)")
            try expectHonestHoles(image, model)
        }
        #expect(try independentBytes(path, format.imageFormat, folder) == model)
    }

    private func operate(_ image: any ImageFile, _ model: inout [UInt8], _ random: inout SeededRandom) throws {
        let offset = Int.random(in: 0..<model.count, using: &random)
        let longest = Int.random(in: 0..<8, using: &random) == 0 ? 3 << 20 : 20_000
        let count = min(Int.random(in: 0...longest, using: &random), model.count - offset)
        switch Int.random(in: 0..<8, using: &random) {
        case 0: try image.flush()
        case 1, 2:
            try image.zero(at: UInt64(offset), length: UInt64(count))
            model.replaceSubrange(offset..<offset + count, with: repeatElement(0, count: count))
        case 3: #expect(try image.bytes(at: UInt64(offset), count: count) == Array(model[offset..<offset + count]))
        default:
            let bytes = [UInt8](repeating: UInt8.random(in: 1...255, using: &random), count: count)
            try image.put(bytes, at: UInt64(offset))
            model.replaceSubrange(offset..<offset + count, with: bytes)
        }
    }

    /// What is called a hole reads as zeros; data and holes alternate to the end.
    private func expectHonestHoles(_ image: any ImageFile, _ model: [UInt8]) throws {
        var position: UInt64 = 0
        var holes = 0
        while position < image.sizeBytes {
            let data = try image.nextData(from: position) ?? image.sizeBytes
            #expect(data >= position)
            #expect(model[Int(position)..<Int(data)].allSatisfy { $0 == 0 })
            if data > position { holes += 1 }
            guard data < image.sizeBytes else { break }
            position = try image.nextHole(from: data)
            #expect(position > data && position <= image.sizeBytes)
        }
        #expect(try image.nextData(from: image.sizeBytes) == nil)
        #expect(try image.nextHole(from: image.sizeBytes) == image.sizeBytes)
    }

    /// Eight writers in interleaved sectors, so that each block is allocated under contention, while one flushes.
    @Test(arguments: OutputFormat.allCases) func writersOfDisjointRangesDoNotDisturbEachOther(_ format: OutputFormat) throws {
        let folder = try TestFolder()
        let (writers, sectors) = (8, 40 * 4096 / 2)
        let path = folder.file("parallel.img")
        try OutputImage.makeEmpty(path, format, UInt64(sectors * 512))
        let image = try openImage(path, access: .readWrite)
        let failures = Mutex<[String]>([])
        DispatchQueue.concurrentPerform(iterations: writers + 1) { writer in
            do {
                if writer == writers {
                    for _ in 0..<20 { try image.flush() }
                    return
                }
                for sector in stride(from: writer, to: sectors, by: writers) {
                    let bytes = [UInt8](repeating: UInt8(writer + 1), count: 512)
                    try image.put(bytes, at: UInt64(sector * 512))
                    if sector % 512 == writer, try image.bytes(at: UInt64(sector * 512), count: 512) != bytes {
                        failures.withLock { $0.append("sector \(sector) does not hold what was written") }
                    }
                }
            } catch {
                failures.withLock { $0.append("\(error)") }
            }
        }
        #expect(failures.withLock { $0 } == [])
        try image.flush()
        let found = try openImage(path, access: .readOnly).allBytes()
        for sector in 0..<sectors { #expect(found[sector * 512] == UInt8(sector % writers + 1) && found[sector * 512 + 511] == found[sector * 512]) }
    }

    @Test(arguments: OutputFormat.allCases) func rangesOutsideOfTheDiskAreRefused(_ format: OutputFormat) throws {
        let folder = try TestFolder()
        try OutputImage.makeEmpty(folder.file("small.img"), format, 4096)
        let image = try openImage(folder.file("small.img"), access: .readWrite)
        for offset in [4096, 4095, 1 << 40, UInt64.max - 1, UInt64.max] {
            #expect(throws: SystemError.self) { try image.bytes(at: offset, count: 2) }
            #expect(throws: SystemError.self) { try image.put([1, 2], at: offset) }
            #expect(throws: SystemError.self) { try image.zero(at: offset, length: 2) }
        }
        #expect(throws: SystemError.self) { try image.zero(at: 1, length: UInt64.max) }
        #expect(try image.allBytes() == [UInt8](repeating: 0, count: 4096))
    }

    @Test func zeroingAllocatesNothing() throws {
        let folder = try TestFolder()
        try OutputImage.makeEmpty(folder.file("z.vhd"), .vhdDynamic, 1 << 30)
        let image = try openImage(folder.file("z.vhd"), access: .readWrite)
        try image.zero(at: 0, length: 1 << 30)
        try image.put([1], at: 500 << 20)
        try image.zero(at: 500 << 20, length: 2 << 20)
        try image.flush()
        let seen = try inspectImage(folder.file("z.vhd"))
        #expect(seen.dynamic?.allocatedBlocks == 1)
        #expect(seen.allocatedBytes < 64 << 10)
        #expect(try image.nextData(from: 0) == nil)
    }

    /// The largest disk a VHD can describe: its last sector is reached, and its table costs little memory.
    @Test func theLargestDisk() throws {
        let folder = try TestFolder()
        try OutputImage.makeEmpty(folder.file("l.vhd"), .vhdDynamic, VHDFooter.sizeBytesMax)
        let image = try openImage(folder.file("l.vhd"), access: .readWrite)
        try image.put([9, 9], at: VHDFooter.sizeBytesMax - 2)
        try image.flush()
        let again = try openImage(folder.file("l.vhd"), access: .readOnly)
        #expect(try again.bytes(at: VHDFooter.sizeBytesMax - 3, count: 3) == [0, 9, 9])
        #expect(try again.nextData(from: 0) == VHDFooter.sizeBytesMax - 4096)
        #expect(throws: ImageError.self) { try OutputImage.makeEmpty(folder.file("m.vhd"), .vhdDynamic, VHDFooter.sizeBytesMax + 512) }
    }
}
