// Where the blocks of an open dynamic VHD lie, and where the next one goes: the state behind DynamicVHD's lock.
//
// Invariant: an entry reaches the file only after the block it names (bitmap, data, and the footer behind it) is
// durable. Until then it stands in `uncommitted`, and a power loss leaves the file without the block.

import BlockIO

struct VHDBlocks: Sendable {
    var table: VHDBlockTable
    /// Blocks whose table entry is not in the file yet.
    var uncommitted: [Int] = []
    /// The file ends with the footer. False after a crash, or where an allocation failed and could not be taken back.
    var hasFooterAtEnd: Bool
    /// The footer at the start is not sound: the one at the end is the only one.
    var isCopyDamaged: Bool
    /// Something was written since the image was opened.
    private(set) var isChanged = false
    /// A bit a block: its sector bitmap is known to be all ones.
    private var fullBitmaps: [UInt64]
    /// Of a differencing disk.
    var bitmaps: VHDSectorBitmaps?
    private let header: VHDDynamicHeader

    init(_ layout: DynamicVHDLayout) {
        table = layout.table
        header = layout.header
        hasFooterAtEnd = layout.hasFooterAtEnd
        isCopyDamaged = layout.isCopyDamaged
        fullBitmaps = [UInt64](repeating: 0, count: (table.sectors.count + 63) / 64)
        if layout.header.parent != nil {
            bitmaps = VHDSectorBitmaps(pages: Int(header.blocks(ofDiskBytes: layout.footer.diskSizeBytes)) * header.bitmapPages)
        }
    }

    func dataOffset(ofBlock block: Int) -> UInt64? { table.dataOffset(ofBlock: block, bitmapBytes: header.bitmapBytes) }

    /// The same for a block that is about to be changed.
    mutating func changedDataOffset(ofBlock block: Int) -> UInt64? {
        isChanged = true
        return dataOffset(ofBlock: block)
    }

    /// The table's bytes without the blocks that are not durable yet.
    var committedTable: [UInt8] {
        var sectors = table.sectors
        for block in uncommitted { sectors[block] = VHDBlockTable.unallocated }
        var bytes = [UInt8](repeating: 0, count: sectors.count * 4)
        bytes.withUnsafeMutableBytes { raw in
            for (block, sector) in sectors.enumerated() { raw.putBE(sector, at: block * 4) }
        }
        return bytes
    }

    func hasFullBitmap(_ block: Int) -> Bool { fullBitmaps[block / 64] & (1 << UInt64(block % 64)) != 0 }

    mutating func noteFullBitmap(_ block: Int) { fullBitmaps[block / 64] |= 1 << UInt64(block % 64) }

    /// The place of the next block: behind everything, its data on a page boundary where that costs little.
    /// Nil when the place is beyond what a table entry can say.
    func nextPlace() -> (bitmapOffset: UInt64, endOffset: UInt64)? {
        let alignment: UInt64 = header.blockBytes >= 64 << 10 ? 4096 : 512
        let data = (table.endOffset.roundedUp(to: 512) + header.bitmapBytes).roundedUp(to: alignment)
        let bitmap = data - header.bitmapBytes
        guard bitmap / 512 < UInt64(VHDBlockTable.unallocated) else { return nil }
        return (bitmap, data + UInt64(header.blockBytes))
    }

    mutating func place(block: Int, bitmapOffset: UInt64, endOffset: UInt64) {
        table.set(block: block, sector: UInt32(bitmapOffset / 512), endOffset: endOffset)
        hasFooterAtEnd = true
        noteFullBitmap(block)
        uncommitted.append(block)
    }
}
