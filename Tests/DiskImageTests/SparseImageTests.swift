// A few KiB of file that claim gigabytes of tables and blocks, all of them in a hole: opening and checking read what is there. Counted,
// not timed.

import BlockIO
import DiskImage
import Foundation
import Testing

private func be(_ number: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }

/// What this thread has read from files, by calls and bytes: other tests have other threads.
private struct ReadCount {
    let calls: Int
    let bytes: Int

    static func now() throws -> ReadCount {
        let text = try String(contentsOfFile: "/proc/thread-self/io", encoding: .utf8)
        func number(_ name: String) throws -> Int {
            let line = try #require(text.split(separator: "\n").first { $0.hasPrefix(name + ": ") })
            return try #require(Int(line.dropFirst(name.count + 2)))
        }
        return ReadCount(calls: try number("syscr"), bytes: try number("rchar"))
    }
}

private func expectFewReads<Result>(_ body: () throws -> Result) throws -> Result {
    let before = try ReadCount.now()
    let result = try body()
    let after = try ReadCount.now()
    #expect(after.bytes - before.bytes < 2 << 20 && after.calls - before.calls < 200, "\(after.bytes - before.bytes) bytes in \(after.calls - before.calls) calls")
    return result
}

@Suite struct SparseImageTests {
    /// 2,048 blocks, 4 GiB, and not a byte of a bitmap.
    @Test func blocksInAHoleAreNotRead() throws {
        let folder = try TestFolder()
        let path = folder.file("sparse.vhd")
        try OutputImage.makeEmpty(path, .vhdDynamic, 4 << 30)
        let file = try Descriptor.open(path, 2)
        let (first, sectors) = (UInt32(64), UInt32(4097))
        let footer = try file.read(count: 512, at: 0)
        try file.write((0..<2048).flatMap { be(first + $0 * sectors) }, at: 1536)
        try file.write(footer, at: UInt64(first + 2048 * sectors) * 512)
        #expect(try expectFewReads { try checkImage(path) }.remarks == [])
        #expect(try inspectImage(path).dynamic?.allocatedBlocks == 2048)
        func place(_ block: UInt32, _ sector: UInt32) -> UInt64 { UInt64(first + block * sectors + 1 + sector) * 512 }
        // The bit of this one is set.
        try file.write([0x04], at: UInt64(first + 3 * sectors) * 512)
        try file.write([1], at: place(3, 5))
        #expect(try expectFewReads { try checkImage(path) }.remarks == [])
        try file.write([1], at: place(1000, 4095) + 511)
        let remarks = try expectFewReads { try checkImage(path) }.remarks
        #expect(remarks.count == 1 && remarks[0].contains("sector \(1000 * 4096 + 4095) holds data that its bit calls absent"), "\(remarks)")
    }

    /// 32,768 tables, 2 GiB.
    @Test func tablesInAHoleAreNotRead() throws {
        let folder = try TestFolder()
        let path = folder.file("sparse.qcow2")
        try OutputImage.makeEmpty(path, .qcow2, 16 << 40)
        let file = try Descriptor.open(path, 2)
        let (tables, own) = (UInt64(7), UInt64(1) << 63)
        try file.write((0..<32_768).flatMap { be((tables + $0) << 16 | own) }, at: 3 << 16)
        let data = (tables + 32_768) << 16
        try file.truncate(to: data)
        #expect(try expectFewReads { try inspectImage(path) }.qcow2?.allocatedClusters == 0)
        // A table of which only a part is in a hole counts as a whole.
        try file.write([9], at: data)
        try file.write(be(data | own), at: (tables + 5) << 16 + 4000 * 8)
        let image = try expectFewReads { try openImage(path, access: .readWrite) }
        #expect(try inspectImage(path).qcow2?.allocatedClusters == 1)
        #expect(try image.bytes(at: (5 * 8192 + 4000) << 16, count: 2) == [9, 0])
        try file.write(be(data | own), at: (tables + 20_000) << 16 + 8191 * 8)
        let error = try expectFewReads { #expect(throws: ImageError.self) { try openImage(path, access: .readOnly) } }
        #expect("\(error!)".contains("L2 table 20000, entry 8191 at byte \((tables + 20_000) << 16 + 8191 * 8)"), "\(error!)")
    }
}
