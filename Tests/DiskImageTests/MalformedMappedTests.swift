// Every field of a VHDX and of a qcow2 image that can lie: the image is refused, the refusal names the field, and nothing
// is allocated for it. And lies nobody thought of: whatever opens is read and written without a trap.

import BlockIO
import DiskImage
import Foundation
import Testing

private func le(_ number: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: number.littleEndian) { Array($0) } }
private func be(_ number: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }

/// Bytes put at a place of the file, and the field the refusal must name.
struct FileLie: Sendable, CustomTestStringConvertible {
    let place: Int
    let bytes: [UInt8]
    let names: String
    /// Of VHDX: the structure whose checksum is made right again.
    var mends = true

    init(_ place: Int, _ bytes: [UInt8], _ names: String, mends: Bool = true) { (self.place, self.bytes, self.names, self.mends) = (place, bytes, names, mends) }

    var testDescription: String { "+\(place) \(bytes.prefix(8)): \(names)" }

    /// A VHDX has two headers and two region tables: the lie goes into both, with a sound checksum. Returns what it has changed.
    @discardableResult
    func apply(to file: borrowing Descriptor, _ format: ImageFormat) throws -> [Range<UInt64>] {
        guard format == .vhdx, place >= 64 << 10, place < 320 << 10 else {
            try file.write(bytes, at: UInt64(place))
            return [UInt64(place)..<UInt64(place + bytes.count)]
        }
        let (base, count) = place < 192 << 10 ? (64 << 10, 4096) : (192 << 10, 64 << 10)
        let inside = (place - base) % (64 << 10)
        guard inside + bytes.count <= count else { return [] }
        return try [base, base + (64 << 10)].map { base in
            let start = UInt64(base)
            var structure = try file.read(count: count, at: start)
            structure.replaceSubrange(inside..<inside + bytes.count, with: bytes)
            if mends {
                structure.replaceSubrange(4..<8, with: [0, 0, 0, 0])
                structure.replaceSubrange(4..<8, with: le(crc32c(structure)))
            }
            try file.write(structure, at: start)
            return start..<start + UInt64(count)
        }
    }
}

@Suite struct MalformedMappedTests {
    private static let head = 64 << 10, regionTable = 192 << 10, metadata = 2 << 20, items = (2 << 20) + (64 << 10), table = 3 << 20
    private static let MiB = UInt64(1) << 20

    /// 256 MiB in blocks of 32 MiB; log at 1 MiB, metadata at 2, table at 3, blocks 0 and 1 at 4 and 36 MiB.
    static let vhdx: [FileLie] = [
        FileLie(0, Array("vhdxfilE".utf8), "file identifier, signature"), FileLie(head, Array("heaD".utf8), "header, signature"),
        FileLie(head + 200, [1], "header, checksum", mends: false), FileLie(head + 4, [1, 2, 3], "header, checksum", mends: false),
        FileLie(head + 64, le(UInt16(1)), "log version"), FileLie(head + 66, le(UInt16(0)), "header, version"), FileLie(head + 66, le(UInt16(2)), "header, version"),
        FileLie(head + 68, le(UInt32(0)), "log length"), FileLie(head + 68, le(UInt32(4096)), "log length"), FileLie(head + 68, le(UInt32.max), "log length"),
        FileLie(head + 68, le(UInt32(17 << 20)), "log length"), FileLie(head + 72, le(UInt64(0)), "log offset"), FileLie(head + 72, le(UInt64(4096)), "log offset"),
        FileLie(head + 72, le(UInt64.max - 0xFFFFF), "log offset"), FileLie(head + 72, le(1 << 50 as UInt64), "log offset"), FileLie(head + 72, le(2 * MiB), "file offset"),
        FileLie(head + 48, [1], "log, entries"),
        FileLie(regionTable, Array("regI".utf8), "region table, signature"), FileLie(regionTable + 60_000, [1], "region table, checksum", mends: false),
        FileLie(regionTable + 8, le(UInt32(2048)), "entry count"), FileLie(regionTable + 8, le(UInt32.max), "entry count"), FileLie(regionTable + 8, le(UInt32(1)), "entry count"),
        FileLie(regionTable + 8, le(UInt32(0)), "entry count"), FileLie(regionTable + 16, [1, 2, 3], "region id"),
        FileLie(regionTable + 32, le(UInt64(0)), "file offset"), FileLie(regionTable + 32, le(UInt64(3 << 20 | 1)), "file offset"),
        FileLie(regionTable + 32, le(UInt64.max - 0xFFFFF), "file offset"), FileLie(regionTable + 32, le(1 << 60 as UInt64), "file offset"),
        FileLie(regionTable + 32, le(MiB), "overlap with the log"), FileLie(regionTable + 32, le(2 * MiB), "overlap"), FileLie(regionTable + 40, le(UInt32(0)), "length"),
        FileLie(regionTable + 40, le(UInt32(1)), "length"), FileLie(regionTable + 40, le(UInt32.max & ~0xFFFFF), "file offset"),
        FileLie(metadata, Array("metadatA".utf8), "metadata table, signature"), FileLie(metadata + 10, le(UInt16(2048)), "entry count"),
        FileLie(metadata + 10, le(UInt16(0)), "no file parameters"), FileLie(metadata + 10, le(UInt16(1)), "no virtual disk size"), FileLie(metadata + 10, le(UInt16(4)), "no physical sector"),
        FileLie(metadata + 32, [9, 9], "entry 0, id"), FileLie(metadata + 48, le(UInt32(0)), "file parameters, offset"), FileLie(metadata + 48, le(UInt32(MiB)), "file parameters, offset"),
        FileLie(metadata + 48, le(UInt32.max), "file parameters, offset"), FileLie(metadata + 52, le(UInt32(7)), "file parameters, length"), FileLie(metadata + 52, le(UInt32.max), "file parameters, length"),
        FileLie(items, le(UInt32(0)), "block size"), FileLie(items, le(UInt32(512)), "block size"), FileLie(items, le(UInt32(3 << 20)), "block size"), FileLie(items, le(UInt32(512 << 20)), "block size"),
        FileLie(items, le(UInt32.max), "block size"), FileLie(items + 4, le(UInt32(4)), "flags"), FileLie(items + 4, le(UInt32(2)), "has parent"),
        FileLie(items + 8, le(UInt64(0)), "virtual disk size"), FileLie(items + 8, le(UInt64(511)), "virtual disk size"), FileLie(items + 8, le((64 << 40) + 512 as UInt64), "virtual disk size"),
        FileLie(items + 8, le(UInt64.max), "virtual disk size"), FileLie(items + 8, le(64 << 40 as UInt64), "region length"),
        FileLie(items + 32, le(UInt32(4096)), "logical sector size"), FileLie(items + 32, le(UInt32(0)), "logical sector size"), FileLie(items + 36, le(UInt32(1)), "physical sector size"),
        FileLie(table, le(UInt64(4 << 20 | 4)), "state 4"), FileLie(table, le(UInt64(4 << 20 | 5)), "state 5"), FileLie(table, le(UInt64(4 << 20 | 7)), "state 7"),
        FileLie(table, le(UInt64(4 << 20 | 8 | 6)), "bits 3 to 19"), FileLie(table, le(UInt64(6)), "over the headers"), FileLie(table, le(UInt64(1 << 20 | 6)), "overlap with the log"),
        FileLie(table, le(UInt64(2 << 20 | 6)), "overlap with the block allocation table"), FileLie(table, le(UInt64(3 << 20 | 6)), "overlap with the block allocation table"),
        FileLie(table, le(UInt64(35 << 20 | 6)), "overlap with another block"), FileLie(table, le(UInt64(36 << 20 | 6)), "overlap with another block"),
        FileLie(table, le(UInt64(37 << 20 | 6)), "within the file"), FileLie(table, le(UInt64.max & ~0xF_FFFF | 6), "within the file"), FileLie(table + 24, le(UInt64(68 << 20 | 6)), "within the file"),
    ]

    /// 64 MiB in clusters of 64 KiB: refcount table at 1, block at 2, L1 table at 3, data of cluster 0 at 4, of cluster 1 at 5, L2 table at 6.
    static let qcow2: [FileLie] = [
        FileLie(0, [0x51, 0x46, 0x49, 0xFA], "magic"), FileLie(4, be(UInt32(1)), "version"), FileLie(4, be(UInt32(4)), "version"), FileLie(4, be(UInt32.max), "version"),
        FileLie(8, be(UInt64(512)), "backing file"), FileLie(20, be(UInt32(8)), "cluster bits"), FileLie(20, be(UInt32(22)), "cluster bits"), FileLie(20, be(UInt32.max), "cluster bits"),
        FileLie(20, be(UInt32(9)), "L1 entries"), FileLie(24, be(UInt64(0)), "size"), FileLie(24, be(UInt64(513)), "size"), FileLie(24, be(UInt64.max), "size"), FileLie(24, be((64 << 40) + 512 as UInt64), "size"),
        FileLie(24, be(1 << 40 as UInt64), "L1 entries"), FileLie(32, be(UInt32(1)), "encryption"), FileLie(32, be(UInt32(2)), "encryption"),
        FileLie(36, be(UInt32(0)), "L1 entries"), FileLie(36, be(UInt32.max), "L1 entries"), FileLie(36, be(UInt32(4 << 20)), "L1 table offset"),
        FileLie(40, be(UInt64(0)), "L1 table offset"), FileLie(40, be(UInt64(3 << 16 | 8)), "L1 table offset"), FileLie(40, be(UInt64.max & ~0xFFFF), "L1 table offset"), FileLie(40, be(1 << 50 as UInt64), "L1 table offset"),
        FileLie(40, be(UInt64(1 << 16)), "refcount table offset"), FileLie(48, be(UInt64(0)), "refcount table offset"), FileLie(48, be(UInt64(1 << 16 | 512)), "refcount table offset"),
        FileLie(48, be(UInt64.max & ~0xFFFF), "refcount table offset"), FileLie(48, be(UInt64(3 << 16)), "refcount table offset"), FileLie(56, be(UInt32(0)), "refcount table clusters"),
        FileLie(56, be(UInt32.max), "refcount table clusters"), FileLie(56, be(UInt32(100)), "refcount table offset"), FileLie(56, be(UInt32(2)), "refcount table, entry 0"),
        FileLie(72, be(UInt64(2)), "marked corrupt"), FileLie(72, be(UInt64(4)), "external data"), FileLie(72, be(UInt64(8)), "compression type"), FileLie(72, be(UInt64(16)), "extended L2"),
        FileLie(72, be(UInt64(32)), "incompatible features"), FileLie(72, be(UInt64(1) << 63), "incompatible features"), FileLie(96, be(UInt32(7)), "refcount order"),
        FileLie(96, be(UInt32.max), "refcount order"), FileLie(100, be(UInt32(103)), "header length"), FileLie(100, be(UInt32(96)), "header length"), FileLie(100, be(UInt32.max), "header length"),
        FileLie(1 << 16, be(UInt64(1)), "refcount table, entry 0"), FileLie(1 << 16, be(UInt64.max), "refcount table, entry 0"), FileLie(1 << 16, be(UInt64(3 << 16)), "refcount table, entry 0"),
        FileLie(1 << 16 | 8, be(UInt64(2 << 16)), "refcount table, entry 1"), FileLie(1 << 16 | 8, be(1 << 40 as UInt64), "refcount table, entry 1"),
        FileLie(3 << 16, be(UInt64(6 << 16 | 2) | 1 << 63), "L1 table, entry 0"), FileLie(3 << 16, be(UInt64(6 << 16 | 512) | 1 << 63), "L1 table, entry 0"),
        FileLie(3 << 16, be(UInt64(1 << 40) | 1 << 63), "L1 table, entry 0"), FileLie(3 << 16, be(UInt64(2 << 16) | 1 << 63), "L1 table, entry 0"), FileLie(3 << 16, be(UInt64.max), "L1 table, entry 0"),
        FileLie(3 << 16, be(UInt64(3 << 16) | 1 << 63), "L1 table, entry 0"),
        FileLie(6 << 16, be(UInt64(4 << 16 | 2) | 1 << 63), "L2 table 0, entry 0"), FileLie(6 << 16, be(UInt64(4 << 16 | 512) | 1 << 63), "L2 table 0, entry 0"),
        FileLie(6 << 16, be(UInt64(1) << 63), "L2 table 0, entry 0"), FileLie(6 << 16, be(UInt64(1 << 56 | 4 << 16) | 1 << 63), "L2 table 0, entry 0"), FileLie(6 << 16, be(UInt64(1 << 40) | 1 << 63), "L2 table 0, entry 0"),
        FileLie(6 << 16, be(UInt64(5 << 16) | 1 << 63), "L2 table 0, entry 1"), FileLie(6 << 16, be(UInt64(1 << 16) | 1 << 63), "L2 table 0, entry 0"), FileLie(6 << 16, be(UInt64(6 << 16) | 1 << 63), "L2 table 0, entry 0"),
        FileLie(6 << 16, be(UInt64.max), "L2 table 0, entry 0"), FileLie(6 << 16, be(UInt64(1 << 62 | 5 << 16)), "L2 table 0, entry 1"), FileLie(6 << 16, be(UInt64(1 << 62 | 1 << 40)), "L2 table 0, entry 0"),
        FileLie((6 << 16) + 1016 * 8, be(UInt64(4 << 16) | 1 << 63), "L2 table 0, entry 1016"), FileLie((6 << 16) + 16, be(UInt64(1 << 62 | 6 << 16)), "L2 table 0, entry 2"),
    ]

    @Test(arguments: vhdx) func aVHDXThatLiesIsRefused(_ lie: FileLie) throws { try expectRefusal(lie, .vhdx) }
    @Test(arguments: qcow2) func aQCOW2ThatLiesIsRefused(_ lie: FileLie) throws { try expectRefusal(lie, .qcow2) }

    private func expectRefusal(_ lie: FileLie, _ format: ImageFormat) throws {
        let folder = try TestFolder()
        let path = try Self.sound(folder, format)
        try lie.apply(to: Descriptor.open(path, 2), format)
        let before = try ImageIdentity(of: path)
        for access in [ImageAccess.readOnly, .readWrite] {
            let error = #expect(throws: ImageError.self) { try openImage(path, access: access, format: format) }
            let text = error.map { "\($0)" } ?? ""
            #expect(text.contains(lie.names), "\(text)")
            if case .damaged(let damage) = error { #expect(text.contains("at byte \(damage.offset)")) }
        }
        #expect(try ImageIdentity(of: path) == before, "a refused image was changed")
    }

    /// The older header is sound too, and names no log: by it the image would be sound, and what the newer one names be overlooked.
    @Test(arguments: [(64, [1, 0], "header, log version"), (66, [2, 0], "header, version"), (68, [0, 0, 0, 2], "a log of \(32 << 20) bytes")] as [(Int, [UInt8], String)])
    func aNewerHeaderThatIsNotServedCounts(_ place: Int, _ bytes: [UInt8], _ names: String) throws {
        let folder = try TestFolder()
        let path = try Self.sound(folder, .vhdx)
        let file = try Descriptor.open(path, 2)
        let (first, second) = (try file.read(count: 4096, at: 64 << 10), try file.read(count: 4096, at: 128 << 10))
        let number: ([UInt8]) -> UInt64 = { $0[8..<16].reversed().reduce(0) { $0 << 8 | UInt64($1) } }
        let older: UInt64 = number(first) > number(second) ? 128 << 10 : 64 << 10
        var newest = first
        newest.replaceSubrange(8..<16, with: le(max(number(first), number(second)) + 1))
        newest.replaceSubrange(48..<64, with: [UInt8](1...16))
        newest.replaceSubrange(place..<place + bytes.count, with: bytes)
        newest.replaceSubrange(4..<8, with: [0, 0, 0, 0])
        newest.replaceSubrange(4..<8, with: le(crc32c(newest)))
        try file.write(newest, at: older)
        for opening in [{ _ = try openImage(path, access: .readWrite) }, { _ = try checkImage(path) }] as [() throws -> Void] {
            let error = #expect(throws: ImageError.self, performing: opening)
            guard case .unsupported(_, let what, _) = error else { Issue.record("told as \(String(describing: error))"); continue }
            #expect(what.contains(names), "\(what)")
        }
        // Torn, it does not count: the older one does.
        try file.write([newest[4] ^ 1], at: older + 4)
        #expect(try openImage(path, access: .readOnly).bytes(at: 0, count: 5) == [1, 2, 3, 4, 0])
    }

    @Test(arguments: [ImageFormat.vhdx, .qcow2]) func theSoundOneIsSound(_ format: ImageFormat) throws {
        let folder = try TestFolder()
        let image = try openImage(Self.sound(folder, format), access: .readWrite)
        #expect(try image.bytes(at: 0, count: 5) == [1, 2, 3, 4, 0])
        #expect(try image.bytes(at: Self.secondBlock(format), count: 5) == [5, 6, 7, 8, 0])
    }

    /// The last thing in either file is needed as a whole: a block, and an L2 table.
    @Test(arguments: [ImageFormat.vhdx, .qcow2]) func aCutFileIsRefused(_ format: ImageFormat) throws {
        let folder = try TestFolder()
        let path = try Self.sound(folder, format)
        let bytes = try Descriptor.open(path, 2).status().sizeBytes
        let cuts: [UInt64] = [
            0, 1, 7, 111, 511, 4096, 65_535, 66_000, 131_071, 196_607, 200_000, 262_143, 300_000, 400_000, 1 << 20, (1 << 20) + 1, 3 << 20, bytes - 65_536, bytes - 1,
        ]
        for cut in cuts where cut < bytes {
            try Descriptor.open(path, 2).truncate(to: cut)
            do throws(ImageError) {
                _ = try openImage(path, access: .readOnly, format: format)
                Issue.record("opened although cut to \(cut) of \(bytes)")
            } catch {
                #expect(!"\(error)".isEmpty)
            }
            try FileManager.default.removeItem(atPath: path)
            _ = try Self.sound(folder, format)
        }
    }

    @Test(arguments: [ImageFormat.vhdx, .qcow2], 0..<UInt64(2 * campaignScale)) func randomLiesNeverTrap(_ format: ImageFormat, _ seed: UInt64) throws {
        let folder = try TestFolder()
        var random = SeededRandom(seed: seed)
        let lies = format == .vhdx ? Self.vhdx : Self.qcow2
        var opened = 0
        let path = try Self.sound(folder, format)
        for _ in 0..<200 {
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                // Near a field that matters, one of the numbers that hurt.
                let place = lies.randomElement(using: &random)!.place + Int.random(in: 0..<12, using: &random) * 4
                let numbers: [UInt64] = [0, 1, 511, 512, 4096, 65_536, 1 << 20, 4 << 20 | 6, 1 << 31, 1 << 32, 1 << 62, 1 << 63, UInt64.max, random.next()]
                let number: UInt64 = numbers.randomElement(using: &random)!
                let bytes: [UInt8] = Bool.random(using: &random) ? le(number) : be(number)
                try FileLie(place, bytes, "").apply(to: Descriptor.open(path, 2), format)
            }
            do throws(ImageError) {
                let image = try openImage(path, access: Bool.random(using: &random) ? .readWrite : .readOnly, format: format)
                opened += 1
                exercise(image, &random)
            } catch {
                #expect(!"\(error)".isEmpty)
            }
            try FileManager.default.removeItem(atPath: path)
            _ = try Self.sound(folder, format)
        }
        #expect(opened > 0 && opened < 200)
    }

    private static func secondBlock(_ format: ImageFormat) -> UInt64 { format == .vhdx ? 32 << 20 : 64 << 10 }

    static func sound(_ folder: TestFolder, _ format: ImageFormat, _ name: String = "sound") throws -> String {
        let path = folder.file(name)
        let output = try OutputImage.begin(path, format: format == .vhdx ? .vhdx : .qcow2, sizeBytes: format == .vhdx ? 256 << 20 : 64 << 20, uniqueID: [UInt8](1...16), timeStamp: 9)
        try output.image.put([1, 2, 3, 4], at: 0)
        try output.image.put([5, 6, 7, 8], at: secondBlock(format))
        try output.finish(replacing: true)
        return path
    }
}
