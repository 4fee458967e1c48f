// The metadata items: size of disk, blocks and sectors. docs/formats/vhdx.md, section "Metadata".

import BlockIO

package struct VHDXMetadata: Equatable, Sendable {
    package static let sizeBytesMax: UInt64 = 64 << 40
    static let tableBytes = 64 << 10
    private static let entriesMax: UInt16 = 2047
    private static let itemBytesMax: UInt32 = 1 << 20

    private enum Item: CaseIterable {
        case fileParameters, diskSize, diskID, logicalSector, physicalSector, parentLocator

        var id: [UInt8] {
            switch self {
            case .fileParameters: vhdxID(0xCAA1_6737, 0xFA36, 0x4D43, 0xB3B6_33F0_AA44_E76B)
            case .diskSize: vhdxID(0x2FA5_4224, 0xCD1B, 0x4876, 0xB211_5DBE_D83B_F4B8)
            case .diskID: vhdxID(0xBECA_12AB, 0xB2E6, 0x4523, 0x93EF_C309_E000_C746)
            case .logicalSector: vhdxID(0x8141_BF1D, 0xA96F, 0x4709, 0xBA47_F233_A8FA_AB5F)
            case .physicalSector: vhdxID(0xCDA3_48C7, 0x445D, 0x4471, 0x9CC9_E988_5251_C556)
            case .parentLocator: vhdxID(0xA8D3_5F2D, 0xB30B, 0x454D, 0xABF7_D3D8_4834_AB0C)
            }
        }

        var name: String {
            switch self {
            case .fileParameters: "file parameters"
            case .diskSize: "virtual disk size"
            case .diskID: "virtual disk id"
            case .logicalSector: "logical sector size"
            case .physicalSector: "physical sector size"
            case .parentLocator: "parent locator"
            }
        }

        var bytesCount: Int {
            switch self {
            case .fileParameters, .diskSize: 8
            case .diskID: 16
            case .logicalSector, .physicalSector: 4
            case .parentLocator: 0
            }
        }
    }

    package let blockBytes: UInt32
    package let leavesBlocksAllocated: Bool
    package let sizeBytes: UInt64
    package let diskID: [UInt8]

    init(newWithSize sizeBytes: UInt64, blockBytes: UInt32, diskID: [UInt8]) {
        self.blockBytes = blockBytes
        leavesBlocksAllocated = false
        self.sizeBytes = sizeBytes
        self.diskID = diskID
    }

    init(reading file: borrowing VHDXReplayedFile, region: VHDXRegion) throws(ImageError) {
        let items = try Self.items(file, region)
        let parameters = try Self.item(.fileParameters, items, file, region)
        blockBytes = parameters.little(UInt32.self, at: 0)
        let flags = parameters.little(UInt32.self, at: 4)
        leavesBlocksAllocated = flags & 1 != 0
        try parameters.require(blockBytes.nonzeroBitCount == 1 && blockBytes >= 1 << 20 && blockBytes <= 256 << 20, "block size", at: 0,
            found: "\(blockBytes)", expected: "a power of two from 1 MiB to 256 MiB", meaning: "blocks have no other sizes")
        try parameters.require(flags & ~3 == 0, "flags", at: 4, found: hex(flags), expected: "only bits 0 and 1", meaning: "the image uses a feature that is not known")
        guard flags & 2 == 0 else {
            throw .unsupported(path: file.path, what: "a differencing VHDX, whose data lies in its parent too: not supported (file parameters, has parent)",
                remedy: "on Hyper-V: Convert-VHD -Path \(file.path) -DestinationPath WHOLE.vhdx")
        }
        let size = try Self.item(.diskSize, items, file, region)
        sizeBytes = size.little(UInt64.self, at: 0)
        try size.require(sizeBytes > 0 && sizeBytes % 512 == 0 && sizeBytes <= Self.sizeBytesMax, "bytes", at: 0, found: "\(sizeBytes)",
            expected: "a multiple of 512 above 0, at most \(Self.sizeBytesMax)", meaning: "a VHDX holds at most 64 TiB")
        diskID = try Self.item(.diskID, items, file, region).bytes(at: 0, count: 16)
        try Self.checkSectors(items, file, region)
    }

    private static func checkSectors(_ items: [[UInt8]: VHDXRegion], _ file: borrowing VHDXReplayedFile, _ region: VHDXRegion) throws(ImageError) {
        let logical = try item(.logicalSector, items, file, region)
        let bytes = logical.little(UInt32.self, at: 0)
        if bytes == 4096 {
            throw .unsupported(path: file.path, what: "a disk of sectors of 4,096 bytes: not supported (logical sector size)",
                remedy: "copy it inside its machine to a disk with sectors of 512 bytes")
        }
        try logical.require(bytes == 512, "bytes", at: 0, found: "\(bytes)", expected: "512", meaning: "sectors have no other sizes")
        let physical = try item(.physicalSector, items, file, region)
        let physicalBytes = physical.little(UInt32.self, at: 0)
        try physical.require(physicalBytes == 512 || physicalBytes == 4096, "bytes", at: 0, found: "\(physicalBytes)", expected: "512 or 4096",
            meaning: "sectors have no other sizes")
    }

    /// Where each item lies in the file, by id. User items (flag bit 0) are nobody's but the user's.
    private static func items(_ file: borrowing VHDXReplayedFile, _ region: VHDXRegion) throws(ImageError) -> [[UInt8]: VHDXRegion] {
        let field = ImageField(try file.read(count: tableBytes, at: region.offset), structure: "metadata table", at: region.offset, path: file.path)
        try field.requireBytes(Array("metadata".utf8), "signature", at: 0, meaning: "this is no metadata table")
        let count = field.little(UInt16.self, at: 10)
        try field.require(count <= entriesMax, "entry count", at: 10, found: "\(count)", expected: "at most \(entriesMax)", meaning: "the table holds no more")
        var items: [[UInt8]: VHDXRegion] = [:]
        for entry in 0..<Int(count) {
            let place = 32 + entry * 32
            let id = field.bytes(at: place, count: 16)
            let (offset, length) = (field.little(UInt32.self, at: place + 16), field.little(UInt32.self, at: place + 20))
            let flags = field.little(UInt32.self, at: place + 24)
            let known = flags & 1 == 0 ? Item.allCases.first { $0.id == id } : nil
            try field.require(known != nil || flags & 4 == 0, "entry \(entry), id", at: place, found: printable(id),
                expected: "an item that is known, or need not be", meaning: "the image uses a feature that is not known")
            guard let known else { continue }
            try field.require(length <= itemBytesMax && Int(length) >= known.bytesCount, "\(known.name), length", at: place + 20, found: "\(length)",
                expected: "from \(known.bytesCount) to \(itemBytesMax)", meaning: "the item is cut short or too long")
            try field.require(offset >= tableBytes && UInt64(offset) + UInt64(length) <= region.bytesCount, "\(known.name), offset", at: place + 16,
                found: "\(offset)", expected: "from \(tableBytes), within the region's \(region.bytesCount)", meaning: "the item lies outside of its region")
            try field.require(items[id] == nil, "\(known.name), id", at: place, found: "a second one", expected: "one", meaning: "two items claim to be the same")
            items[id] = VHDXRegion(name: known.name, offset: region.offset + UInt64(offset), bytesCount: UInt64(length))
        }
        return items
    }

    private static func item(
        _ item: Item, _ items: [[UInt8]: VHDXRegion], _ file: borrowing VHDXReplayedFile, _ region: VHDXRegion
    ) throws(ImageError) -> ImageField {
        guard let place = items[item.id] else {
            throw .damaged(ImageDamage(path: file.path, field: "metadata table, entry count", offset: region.offset + 10, found: "no \(item.name)",
                expected: "the item", meaning: "without it the disk cannot be read"))
        }
        return ImageField(try file.read(count: item.bytesCount, at: place.offset), structure: item.name, at: place.offset, path: file.path)
    }

    /// Table and items of a new disk: what lies in its metadata region from the start.
    func encoded() -> [UInt8] {
        let itemPlaces: [(Item, offset: Int)] = [(.fileParameters, 0), (.diskSize, 8), (.diskID, 16), (.logicalSector, 32), (.physicalSector, 36)]
        var bytes = [UInt8](repeating: 0, count: Self.tableBytes + 4096)
        bytes.withUnsafeMutableBytes { field in
            field.put(Array("metadata".utf8), at: 0)
            field.putLE(UInt16(itemPlaces.count), at: 10)
            for (entry, item) in itemPlaces.enumerated() {
                let place = 32 + entry * 32
                field.put(item.0.id, at: place)
                field.putLE(UInt32(Self.tableBytes + item.offset), at: place + 16)
                field.putLE(UInt32(item.0.bytesCount), at: place + 20)
                // Required; and of the disk rather than of the file, except for the file parameters.
                field.putLE(UInt32(item.0 == .fileParameters ? 4 : 6), at: place + 24)
            }
            field.putLE(blockBytes, at: Self.tableBytes)
            field.putLE(sizeBytes, at: Self.tableBytes + 8)
            field.put(diskID, at: Self.tableBytes + 16)
            field.putLE(UInt32(512), at: Self.tableBytes + 32)
            field.putLE(UInt32(4096), at: Self.tableBytes + 36)
        }
        return bytes
    }
}
