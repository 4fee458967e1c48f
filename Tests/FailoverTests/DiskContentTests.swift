// Partitions and file systems found by their bytes; a table that lies is not followed.

import Failover
import Foundation
import Testing

@Suite struct DiskContentTests {
    /// A disk of zeros with some bytes in it.
    private struct Bytes {
        var content: [UInt8]

        init(megabytes: Int) { content = [UInt8](repeating: 0, count: megabytes << 20) }

        mutating func put(_ bytes: [UInt8], at offset: Int) { content.replaceSubrange(offset..<offset + bytes.count, with: bytes) }

        mutating func partition(_ slot: Int, kind: UInt8, first: UInt32, sectors: UInt32, at record: Int = 0) {
            put([0, 0, 0, 0, kind, 0, 0, 0] + little(UInt64(first), 4) + little(UInt64(sectors), 4), at: record * 512 + 446 + 16 * slot)
            put([0x55, 0xAA], at: record * 512 + 510)
        }

        func little(_ value: UInt64, _ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * UInt64($0))) } }

        func found() -> DiskContent {
            DiskContent(sizeBytes: UInt64(content.count)) { offset, count in
                #expect(offset + UInt64(count) <= UInt64(content.count), "read beyond the disk")
                return Array(content[Int(offset)..<Int(offset) + count])
            }
        }
    }

    private let ext4: [UInt8] = [0x53, 0xEF]

    @Test func wholeDisks() {
        for (kind, bytes, place) in [(DiskContent.FileSystem.ext4, ext4, 1080), (.xfs, Array("XFSB".utf8), 0), (.ntfs, Array("NTFS    ".utf8), 3)] {
            var disk = Bytes(megabytes: 1)
            disk.put(bytes, at: place)
            let whole = disk.found().volumes
            #expect(whole.map(\.number) == [0] && whole.map(\.fileSystem) == [kind])
            #expect(whole.first?.range.upperBound == 1 << 20)
        }
        #expect(Bytes(megabytes: 1).found().volumes.isEmpty)
    }

    @Test func primaryAndLogicalPartitions() {
        var disk = Bytes(megabytes: 8)
        disk.partition(0, kind: 0x83, first: 2048, sectors: 2048)
        disk.partition(1, kind: 0x82, first: 4096, sectors: 1024)
        disk.partition(3, kind: 0x05, first: 6144, sectors: 8192)
        disk.partition(0, kind: 0x07, first: 63, sectors: 1000, at: 6144)
        disk.partition(1, kind: 0x05, first: 2048, sectors: 2048, at: 6144)
        disk.partition(0, kind: 0x83, first: 63, sectors: 1500, at: 8192)
        disk.put(ext4, at: 2048 * 512 + 1080)
        disk.put(Array("NTFS    ".utf8), at: (6144 + 63) * 512 + 3)
        disk.put(Array("XFSB".utf8), at: (8192 + 63) * 512)
        #expect(disk.found().volumes.map(\.number) == [1, 2, 5, 6])
        #expect(disk.found().volumes.map(\.fileSystem) == [.ext4, nil, .ntfs, .xfs])
        let start: UInt64 = (8192 + 63) * 512
        #expect(disk.found().volumes[3].range == start..<start + 1500 * 512)
        // A chain that leads back to itself ends.
        disk.partition(1, kind: 0x05, first: 0, sectors: 2048, at: 8192)
        #expect(disk.found().volumes.map(\.number) == [1, 2, 5, 6])
    }

    private func table(entryBytes: UInt64 = 128, count: UInt64 = 128, place: UInt64 = 2) -> Bytes {
        var disk = Bytes(megabytes: 8)
        disk.partition(0, kind: 0xEE, first: 1, sectors: .max)
        disk.put(Array("EFI PART".utf8), at: 512)
        disk.put(disk.little(place, 8) + disk.little(count, 4) + disk.little(entryBytes, 4), at: 512 + 72)
        for (number, first, last) in [(0, UInt64(2048), UInt64(4095)), (4, 4096, 8191)] where place == 2 && entryBytes <= 4_096 {
            disk.put([UInt8](repeating: 9, count: 16), at: 1024 + number * Int(entryBytes))
            disk.put(disk.little(first, 8) + disk.little(last, 8), at: 1024 + number * Int(entryBytes) + 32)
        }
        disk.put(ext4, at: 4096 * 512 + 1080)
        return disk
    }

    @Test func partitionsOfATable() {
        for entryBytes in [UInt64(128), 256] {
            let volumes = table(entryBytes: entryBytes).found().volumes
            #expect(volumes.map(\.number) == [1, 5] && volumes.map(\.fileSystem) == [nil, .ext4])
            let start: UInt64 = 4096 * 512
            #expect(volumes[1].range == start..<2 * start)
        }
    }

    @Test func tablesThatLie() {
        for (entryBytes, count, place) in [(UInt64(0), UInt64(128), UInt64(2)), (7, 128, 2), (.max, 128, 2), (128, 0, 2), (128, 128, 0), (128, 128, .max), (128, .max, 16_000)] {
            #expect(table(entryBytes: entryBytes, count: count, place: place).found().volumes.isEmpty, "\(entryBytes) \(count) \(place)")
        }
        var disk = table()
        disk.put(disk.little(.max, 8) + disk.little(.max, 8), at: 1024 + 32)
        disk.put(disk.little(8191, 8) + disk.little(4096, 8), at: 1024 + 4 * 128 + 32)
        #expect(disk.found().volumes.isEmpty)
        for (first, sectors) in [(UInt32(0), UInt32(10)), (.max, .max), (100, .max), (16_383, 2), (20_000, 1), (5, 0)] {
            var disk = Bytes(megabytes: 8)
            disk.partition(2, kind: 0x83, first: first, sectors: sectors)
            #expect(disk.found().volumes.isEmpty, "\(first) \(sectors)")
        }
    }

    /// Random bytes with the marks in place: nothing is read beyond the disk, and no partition lies outside.
    @Test func randomTables() {
        var numbers = SystemRandomNumberGenerator()
        for _ in 0..<400 {
            var disk = Bytes(megabytes: 1)
            disk.put((0..<2048).map { _ in UInt8.random(in: 0...255, using: &numbers) }, at: 0)
            for slot in 0..<4 { disk.put([[0x05, 0x83, 0xEE, 0x07].randomElement(using: &numbers)!], at: 446 + 16 * slot + 4) }
            for slot in 0..<4 { disk.put([0, 0], at: 446 + 16 * slot + 10) }
            disk.put([0x55, 0xAA], at: 510)
            let end: UInt64 = 1 << 20
            for volume in disk.found().volumes { #expect(volume.range.upperBound <= end && !volume.range.isEmpty) }
        }
    }
}
