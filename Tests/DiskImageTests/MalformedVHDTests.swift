// Every field that can lie: the image is refused, the refusal names the field, and nothing is allocated for it.

import BlockIO
import DiskImage
import Foundation
import Testing

/// One lie: bytes put at an offset, checksums made right again, and the field the refusal must name.
struct Lie: Sendable, CustomTestStringConvertible {
    enum Place: Sendable { case footer, header, table, cut(Int), both }
    let place: Place
    let offset: Int
    let bytes: [UInt8]
    let names: String
    var keepsChecksum = false

    init(_ place: Place, _ offset: Int, _ bytes: [UInt8], _ names: String, keepsChecksum: Bool = false) {
        (self.place, self.offset, self.bytes, self.names, self.keepsChecksum) = (place, offset, bytes, names, keepsChecksum)
    }

    var testDescription: String { "\(place) +\(offset) \(bytes.prefix(8)): \(names)" }

    /// Returns what it has changed.
    @discardableResult
    func apply(to file: borrowing Descriptor) throws -> [Range<UInt64>] {
        let end = try file.status().sizeBytes - 512
        switch place {
        case .footer: return [try put(file, at: end, count: 512, checksumAt: 64)]
        case .both: return [try put(file, at: 0, count: 512, checksumAt: 64), try put(file, at: end, count: 512, checksumAt: 64)]
        case .header: return [try put(file, at: 512, count: 1024, checksumAt: 36)]
        case .table:
            try file.write(bytes, at: UInt64(1536 + offset))
            return [UInt64(1536 + offset)..<UInt64(1536 + offset + bytes.count)]
        case .cut(let length):
            try file.truncate(to: UInt64(length))
            return []
        }
    }

    private func put(_ file: borrowing Descriptor, at base: UInt64, count: Int, checksumAt place: Int) throws -> Range<UInt64> {
        var structure = try file.read(count: count, at: base)
        structure.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        if !keepsChecksum {
            let sum = structure.enumerated().reduce(UInt32(0)) { $1.offset / 4 == place / 4 ? $0 : $0 &+ UInt32($1.element) }
            structure.replaceSubrange(place..<place + 4, with: be32(~sum))
        }
        try file.write(structure, at: base)
        return base..<base + UInt64(count)
    }
}

private func be32(_ number: UInt32) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }
private func be64(_ number: UInt64) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }

@Suite struct MalformedVHDTests {
    /// 64 MiB dynamic disk, 32 entries at 1536, blocks 0 and 1 allocated. Lies about both footers at once.
    static let dynamic: [Lie] = [
        Lie(.both, 0, Array("conectiX".utf8), "cookie"), Lie(.both, 0, be64(0), "cookie"),
        Lie(.both, 8, be32(4), "features"), Lie(.both, 8, be32(0x8000_0002), "features"), Lie(.both, 8, be32(UInt32.max), "features"),
        Lie(.both, 12, be32(0), "format version"), Lie(.both, 12, be32(0x0002_0000), "format version"), Lie(.both, 12, be32(0x0001_0001), "format version"),
        Lie(.both, 16, be64(0), "data offset"), Lie(.both, 16, be64(511), "data offset"), Lie(.both, 16, be64(513), "data offset"),
        Lie(.both, 16, be64(UInt64.max), "data offset"), Lie(.both, 16, be64(0x7FFF_FFFF_FFFF_FE00), "data offset"), Lie(.both, 16, be64(1 << 40), "data offset"),
        Lie(.both, 16, be64(1024), "cookie"),
        Lie(.both, 48, be64(0), "current size"), Lie(.both, 48, be64(1), "current size"), Lie(.both, 48, be64((64 << 20) + 1), "current size"),
        Lie(.both, 48, be64(UInt64.max), "current size"), Lie(.both, 48, be64(UInt64.max & ~511), "current size"),
        Lie(.both, 48, be64((2040 << 30) + 512), "current size"), Lie(.both, 48, be64((64 << 20) + 512), "table entries"), Lie(.both, 48, be64(2040 << 30), "table entries"),
        Lie(.both, 28, Array("vpc ".utf8) + be32(0) + be32(0) + be64(0) + be64(64 << 20) + [0, 0, 0, 0], "geometry"),
        Lie(.both, 28, Array("qemu".utf8) + be32(0) + be32(0) + be64(0) + be64(64 << 20) + [0, 9, 0, 17], "geometry"),
        Lie(.both, 28, Array("qemu".utf8) + be32(0) + be32(0) + be64(0) + be64(64 << 20) + [0xFF, 0xFE, 16, 255], "table entries"),
        Lie(.both, 60, be32(0), "disk type"), Lie(.both, 60, be32(1), "disk type"), Lie(.both, 60, be32(2), "data offset"), Lie(.both, 60, be32(5), "disk type"),
        Lie(.both, 60, be32(UInt32.max), "disk type"), Lie(.both, 60, be32(4), "disk type"),
        Lie(.both, 64, be32(0), "checksum", keepsChecksum: true), Lie(.both, 70, [0xAA], "checksum", keepsChecksum: true), Lie(.both, 300, [1], "checksum", keepsChecksum: true),
        Lie(.both, 84, [2], "saved state"), Lie(.both, 84, [255], "saved state"),
        Lie(.footer, 48, be64(32 << 20), "current size"), Lie(.footer, 56, [1, 1, 1, 1], "geometry"), Lie(.footer, 68, [9, 9, 9], "unique id"),
        Lie(.footer, 60, be32(4), "disk type"), Lie(.footer, 16, be64(1024), "data offset"),
        Lie(.header, 0, Array("cxsparsE".utf8), "cookie"), Lie(.header, 0, be64(0), "cookie"),
        Lie(.header, 8, be64(4096), "data offset"), Lie(.header, 8, be64(1), "data offset"),
        Lie(.header, 16, be64(0), "table offset"), Lie(.header, 16, be64(1537), "table offset"), Lie(.header, 16, be64(512), "table offset"),
        Lie(.header, 16, be64(1024), "table offset"), Lie(.header, 16, be64(UInt64.max - 511), "table offset"), Lie(.header, 16, be64(1 << 50), "table offset"),
        Lie(.header, 24, be32(0), "format version"), Lie(.header, 24, be32(0x0002_0000), "format version"),
        Lie(.header, 28, be32(0), "table entries"), Lie(.header, 28, be32(31), "table entries"), Lie(.header, 28, be32(UInt32.max), "table entries"),
        Lie(.header, 28, be32((8 << 20) + 1), "table entries"), Lie(.header, 28, be32(8 << 20), "table offset"),
        Lie(.header, 32, be32(0), "block size"), Lie(.header, 32, be32(256), "block size"), Lie(.header, 32, be32(3 << 20), "block size"),
        Lie(.header, 32, be32(UInt32.max), "block size"), Lie(.header, 32, be32(1 << 20), "table entries"), Lie(.header, 32, be32(1 << 31), "table, entry"),
        Lie(.header, 36, be32(1), "checksum", keepsChecksum: true), Lie(.header, 900, [1], "checksum", keepsChecksum: true),
        Lie(.table, 0, be32(0), "table, entry 0"), Lie(.table, 0, be32(1), "table, entry 0"), Lie(.table, 0, be32(2), "table, entry 0"), Lie(.table, 0, be32(3), "table, entry 0"),
        Lie(.table, 4, be32(UInt32.max - 1), "table, entry 1"), Lie(.table, 8, be32(1 << 20), "table, entry 2"), Lie(.table, 31 * 4, be32(16000), "table, entry 31"),
        Lie(.table, 8, be32(7), "overlap with block"), Lie(.table, 12, be32(4100), "overlap with block"), Lie(.table, 4, be32(4096), "overlap with block 0"),
        Lie(.cut(0), 0, [], "file size"), Lie(.cut(511), 0, [], "file size"), Lie(.cut(1535), 0, [], "file size"),
        Lie(.cut(1536), 0, [], "table offset"), Lie(.cut(1600), 0, [], "table offset"), Lie(.cut(4096), 0, [], "table, entry 0"), Lie(.cut(3 << 20), 0, [], "table, entry 1"),
    ]

    @Test func thereAreManyKinds() { #expect(Self.dynamic.count + Self.fixed.count >= 60) }

    // Promise F8: Damaged or hostile images are refused with the field named and nothing written.
    @Test(arguments: dynamic) func dynamicIsRefused(_ lie: Lie) throws {
        let folder = try TestFolder()
        let path = try folder.write("lie.vhd", Self.soundDynamic())
        try lie.apply(to: Descriptor.open(path, 2))
        try expectRefusal(path, .vhdDynamic, naming: lie.names)
    }

    static let fixed: [Lie] = [
        Lie(.footer, 0, be64(0), "cookie"), Lie(.footer, 8, be32(8), "features"), Lie(.footer, 12, be32(1), "format version"),
        Lie(.footer, 16, be64(512), "data offset"), Lie(.footer, 48, be64(0), "current size"), Lie(.footer, 48, be64((1 << 20) - 512), "current size"),
        Lie(.footer, 48, be64((1 << 20) + 512), "current size"), Lie(.footer, 48, be64(UInt64.max), "current size"), Lie(.footer, 60, be32(3), "disk type"),
        Lie(.footer, 60, be32(4), "disk type"), Lie(.footer, 60, be32(77), "disk type"),
        Lie(.footer, 28, Array("qemu".utf8) + be32(0) + be32(0) + be64(0) + be64(1 << 20) + [1, 0, 16, 63], "geometry"),
        Lie(.footer, 100, [1], "checksum", keepsChecksum: true), Lie(.footer, 84, [7], "saved state"), Lie(.cut(1 << 20), 0, [], "cookie"),
        Lie(.cut((1 << 20) + 511), 0, [], "footer has 511 bytes"), Lie(.cut((1 << 20) + 510), 0, [], "cookie"), Lie(.cut(600), 0, [], "file size"), Lie(.cut(0), 0, [], "file size"),
    ]

    @Test(arguments: fixed) func fixedIsRefused(_ lie: Lie) throws {
        let folder = try TestFolder()
        let sound = [UInt8](repeating: 0, count: 1 << 20) + VHDFooter.fixed(sizeBytes: 1 << 20, uniqueID: [1], timeStamp: 1)
        let path = try folder.write("lie.vhd", sound)
        try lie.apply(to: Descriptor.open(path, 2))
        try expectRefusal(path, .vhdFixed, naming: lie.names)
    }

    @Test func theSoundImagesAreAccepted() throws {
        let folder = try TestFolder()
        let image = try openImage(folder.write("sound.vhd", Self.soundDynamic()), access: .readWrite, format: .vhdDynamic)
        #expect(image.sizeBytes == 64 << 20)
    }

    @Test func aFlippedBitInAStructureIsRefusedOrMended() throws {
        let folder = try TestFolder()
        let sound = try Self.soundDynamic()
        let path = try folder.write("flip.vhd", sound)
        let file = try Descriptor.open(path, 2)
        for bit in stride(from: 0, to: 1536 * 8, by: 3) {
            let (byte, mask) = (bit / 8, UInt8(1) << UInt8(bit % 8))
            try file.write([sound[byte] ^ mask], at: UInt64(byte))
            // A damaged copy alone is mended from the footer at the end; anything else must be refused.
            if byte < 512 {
                #expect(try openImage(path, access: .readOnly, format: .vhdDynamic).sizeBytes == 64 << 20)
            } else {
                #expect(throws: ImageError.self, "bit \(bit)") { try openImage(path, access: .readOnly, format: .vhdDynamic) }
            }
            try file.write([sound[byte]], at: UInt64(byte))
        }
    }

    /// Lies nobody thought of: whatever opens is read and written without a trap, and errors are typed.
    @Test(arguments: 0..<(2 * UInt64(campaignScale))) func randomLiesNeverTrap(_ seed: UInt64) throws {
        let folder = try TestFolder()
        let sound = try Self.soundDynamic()
        var random = SeededRandom(seed: seed)
        var opened = 0
        for _ in 0..<400 {
            let path = try folder.write("random.vhd", sound)
            for _ in 0..<Int.random(in: 1...3, using: &random) { try randomLie(&random, fileBytes: sound.count).apply(to: Descriptor.open(path, 2)) }
            do throws(ImageError) {
                let image = try openImage(path, access: Bool.random(using: &random) ? .readWrite : .readOnly, format: .vhdDynamic)
                opened += 1
                exercise(image, &random)
            } catch {
                #expect(!"\(error)".isEmpty)
            }
        }
        #expect(opened > 0 && opened < 400)
    }

    private func randomLie(_ random: inout SeededRandom, fileBytes: Int) -> Lie {
        let numbers: [UInt64] = [0, 1, 511, 512, 1024, 1536, 4096, UInt64(fileBytes), UInt64(fileBytes) - 512, 1 << 31, 1 << 32, 1 << 63, UInt64.max, random.next()]
        let number = numbers.randomElement(using: &random)!
        let bytes = Bool.random(using: &random) ? be64(number) : be32(UInt32(truncatingIfNeeded: number))
        switch Int.random(in: 0..<4, using: &random) {
        case 0: return Lie(.both, 4 * Int.random(in: 2..<20, using: &random), bytes, "")
        case 1: return Lie(.footer, 4 * Int.random(in: 0..<20, using: &random), bytes, "")
        case 2: return Lie(.header, 4 * Int.random(in: 0..<12, using: &random), bytes, "")
        default: return Lie(.table, 4 * Int.random(in: 0..<30, using: &random), bytes, "")
        }
    }

    private func expectRefusal(_ path: String, _ format: ImageFormat, naming field: String) throws {
        let before = residentBytesMax()
        for access in [ImageAccess.readOnly, .readWrite] {
            let error = #expect(throws: ImageError.self) { try openImage(path, access: access, format: format) }
            let text = error.map { "\($0)" } ?? ""
            #expect(text.contains(field), "\(text)")
            if case .damaged(let damage) = error { #expect(text.contains("at byte \(damage.offset)")) }
        }
        #expect(residentBytesMax() - before < 96 << 20)
    }

    /// Peak resident memory of this process so far.
    private func residentBytesMax() -> Int {
        let text = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = text.split(separator: "\n").first { $0.hasPrefix("VmHWM") }
        return (line?.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) * 1024
    }

    static func soundDynamic() throws -> [UInt8] {
        let folder = try TestFolder()
        let output = try OutputImage.begin(folder.file("s.vhd"), format: .vhdDynamic, sizeBytes: 64 << 20, uniqueID: [UInt8](1...16), timeStamp: 9)
        try output.image.put([1, 2, 3, 4], at: 0)
        try output.image.put([5, 6, 7, 8], at: 2 << 20)
        let path = output.path
        try output.finish(replacing: false)
        return try [UInt8](Data(contentsOf: URL(filePath: path)))
    }
}
