// The 1,024-byte dynamic disk header: docs/formats/vhd.md, section "Dynamic header". Says where the block
// allocation table lies and how large a block is.

import BlockIO

struct VHDDynamicHeader: Equatable, Sendable {
    static let bytesCount = 1024
    static let cookie = Array("cxsparse".utf8)
    /// 32 MiB of table: 2,040 GiB in blocks of 256 KiB. Larger tables are refused before a byte of them is read.
    static let tableEntriesMax: UInt32 = 8 << 20

    let tableOffset: UInt64
    let tableEntries: UInt32
    let blockBytes: UInt32
    /// In a differencing disk only.
    let parent: VHDParentLink?

    /// The sector bitmap in front of each block's data: a bit a sector, in whole sectors.
    var bitmapBytes: UInt64 { UInt64(blockBytes / 512).roundedUp(to: 8 * 512) / 8 }
    /// Sectors of a block's bitmap.
    var bitmapPages: Int { Int(bitmapBytes) / VHDBitmapPage.bytesCount }
    var tableBytes: UInt64 { UInt64(tableEntries) * 4 }

    func blocks(ofDiskBytes bytes: UInt64) -> UInt64 { (bytes + UInt64(blockBytes) - 1) / UInt64(blockBytes) }

    init(tableOffset: UInt64, tableEntries: UInt32, blockBytes: UInt32) {
        self.tableOffset = tableOffset
        self.tableEntries = tableEntries
        self.blockBytes = blockBytes
        parent = nil
    }

    func encoded() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.bytesCount)
        bytes.withUnsafeMutableBytes { field in
            field.put(Self.cookie, at: 0)
            field.putBE(UInt64.max, at: 8)
            field.putBE(tableOffset, at: 16)
            field.putBE(VHDFormat.version, at: 24)
            field.putBE(tableEntries, at: 28)
            field.putBE(blockBytes, at: 32)
        }
        return VHDFormat.withChecksum(bytes, at: 36)
    }

    /// Reads and checks the header that lies at `offset` of a file of `fileBytes`, for the disk that `footer` describes.
    init(parsing bytes: [UInt8], at offset: UInt64, footer: VHDFooter, fileBytes: UInt64, of path: String) throws(ImageError) {
        let field = ImageField(bytes, structure: "dynamic header", at: offset, path: path)
        try field.requireBytes(Self.cookie, "cookie", at: 0, meaning: "the dynamic header is not where the footer says")
        try field.requireVHDChecksum(at: 36, count: Self.bytesCount)
        let next = field.uint64(at: 8)
        try field.require(next == UInt64.max || next == 0xFFFF_FFFF || next == 0, "data offset", at: 8, found: hex(next),
            expected: hex(UInt64.max), meaning: "a further structure follows, and none is specified")
        try field.requireVHDVersion(at: 24)
        tableOffset = field.uint64(at: 16)
        tableEntries = field.uint32(at: 28)
        blockBytes = field.uint32(at: 32)
        try field.require(blockBytes >= 512 && blockBytes.nonzeroBitCount == 1, "block size", at: 32, found: "\(blockBytes)",
            expected: "a power of two from 512", meaning: "blocks hold whole sectors")
        parent = footer.diskType == .differencing ? try VHDParentLink(field, fileBytes: fileBytes) : nil
        try checkTable(field, headerOffset: offset, diskBytes: footer.diskSizeBytes, fileBytes: fileBytes, path)
    }

    private func checkTable(_ field: ImageField, headerOffset: UInt64, diskBytes: UInt64, fileBytes: UInt64, _ path: String) throws(ImageError) {
        let needed = blocks(ofDiskBytes: diskBytes)
        guard needed <= Self.tableEntriesMax || tableEntries < needed else {
            throw .unsupported(
                path: path,
                what: "a disk of \(needed) blocks of \(blockBytes) bytes: a limit of Farshore is \(Self.tableEntriesMax) blocks (dynamic header, table entries)",
                remedy: "convert it to blocks of 2 MiB with the program that made it (qemu-img reads blocks below 512 KiB wrong)")
        }
        try field.require(tableEntries <= Self.tableEntriesMax, "table entries", at: 28, found: "\(tableEntries)",
            expected: "at most \(Self.tableEntriesMax)", meaning: "the disk has \(needed) blocks, and no such table is read into memory")
        try field.require(UInt64(tableEntries) * UInt64(blockBytes) >= diskBytes, "table entries", at: 28, found: "\(tableEntries)",
            expected: "at least \(blocks(ofDiskBytes: diskBytes))",
            meaning: "the table does not cover the disk's \(diskBytes) bytes")
        try field.require(tableOffset % 512 == 0 && tableOffset >= 512, "table offset", at: 16, found: "\(tableOffset)",
            expected: "a multiple of 512 from 512", meaning: "the table lies on a sector behind the footer copy")
        let (tableEnd, overflow) = tableOffset.addingReportingOverflow(tableBytes)
        try field.require(!overflow && tableEnd <= fileBytes, "table offset", at: 16, found: "\(tableOffset)",
            expected: "\(tableBytes) bytes of table within the file's \(fileBytes)", meaning: "the table lies outside of the file: it was cut")
        try field.require(tableEnd <= headerOffset || tableOffset >= headerOffset + UInt64(Self.bytesCount), "table offset", at: 16,
            found: "\(tableOffset)", expected: "no overlap with the dynamic header at \(headerOffset)", meaning: "two structures claim the same bytes")
    }
}
