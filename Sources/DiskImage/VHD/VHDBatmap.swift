// XenServer's map of full blocks behind the table: docs/formats/vhd.md, section "Batmap". It repeats what the sector bitmaps
// say, so no data is read by it; it is checked, so that its place is kept and what we write leaves it true.

import BlockIO

struct VHDBatmap: Equatable, Sendable {
    private static let cookie = Array("tdbatmap".utf8)
    private static let headerBytes: UInt64 = 512
    private static let versionMax: UInt32 = 0x0001_0002

    private let headerOffset: UInt64
    private let mapOffset: UInt64
    private let mapBytes: UInt64

    var structures: [VHDStructure] {
        [VHDStructure(name: "the batmap's header", start: headerOffset, end: headerOffset + Self.headerBytes),
         VHDStructure(name: "the batmap", start: mapOffset, end: mapOffset + mapBytes)]
    }

    /// Nil when the image has none.
    init?(reading container: borrowing ContainerFile, footer: VHDFooter, header: VHDDynamicHeader) throws(ImageError) {
        guard footer.creatorApplication == Array("tap\0".utf8), footer.creatorVersion > 1 else { return nil }
        let fileBytes = container.status.sizeBytes
        let start = (header.tableOffset + header.tableBytes).roundedUp(to: 512)
        guard start + Self.headerBytes <= fileBytes else { return nil }
        let bytes = try container.read(count: Int(Self.headerBytes), at: start)
        guard bytes.starts(with: Self.cookie) else { return nil }
        let field = ImageField(bytes, structure: "batmap", at: start, path: container.path)
        headerOffset = start
        mapOffset = field.uint64(at: 8)
        let sectors = field.uint32(at: 16)
        mapBytes = UInt64(sectors) * 512
        let version = field.uint32(at: 20)
        try field.require(version <= Self.versionMax, "version", at: 20, found: hex(version), expected: "at most \(hex(Self.versionMax))",
            meaning: "a version of the batmap that is not known")
        try field.require(mapBytes * 8 >= header.blocks(ofDiskBytes: footer.diskSizeBytes), "size", at: 16, found: "\(sectors) sectors",
            expected: "a bit for each block of the disk", meaning: "the batmap does not cover the disk")
        let (end, overflow) = mapOffset.addingReportingOverflow(mapBytes)
        try field.require(!overflow && mapOffset >= 512 && end <= fileBytes, "offset", at: 8, found: "\(mapOffset)",
            expected: "\(mapBytes) bytes within the file's \(fileBytes)", meaning: "the batmap lies outside of the file")
    }

    /// The blocks said to be full.
    func fullBlocks(of count: Int, _ container: borrowing ContainerFile) throws(ImageError) -> [Int] {
        let map = try container.read(count: (count + 7) / 8, at: mapOffset)
        return (0..<count).filter { map[$0 / 8] & (0x80 >> UInt8($0 % 8)) != 0 }
    }

    /// Refuses a bit for a block that is not there: the block would be taken for full once it is.
    func check(_ table: VHDBlockTable, blocks: Int, _ container: borrowing ContainerFile) throws(ImageError) {
        for block in try fullBlocks(of: blocks, container) where table.sectors[block] == VHDBlockTable.unallocated {
            throw .damaged(ImageDamage(path: container.path, field: "batmap, bit \(block)", offset: mapOffset + UInt64(block / 8), found: "1",
                expected: "0, for the block is not allocated", meaning: "the block would be taken for full as soon as a sector of it is written"))
        }
    }
}
