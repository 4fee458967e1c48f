// Growing a dynamic VHD: docs/formats/vhd.md, section "Growing". A table that is too short is written anew behind everything else, and the
// header's first sector names it; then the footer copy says the new size. Each of the two is one sector, and the footer at the end counts
// only where it agrees with the copy, so it goes first and comes last.

import BlockIO

struct GrowingDynamicVHD {
    private let footer: VHDFooter
    private let oldFooter: [UInt8]
    private let header: VHDDynamicHeader
    private let fileBytes: UInt64
    private let hasFooterAtEnd: Bool
    /// The header as it is, with what a dynamic disk does not look at.
    private var headerBytes: [UInt8]
    private let sectors: [UInt32]
    private let entriesNeeded: UInt32
    /// Behind all blocks and structures.
    private var endOffset: UInt64
    /// The disk's bytes behind its end in a block that is there already, as places in the file.
    private let rest: Range<UInt64>?

    private var needsTable: Bool { entriesNeeded > header.tableEntries }
    private var tableBytes: UInt64 { (UInt64(entriesNeeded) * 4).roundedUp(to: 512) }
    /// What the file grows by.
    var addedBytes: UInt64 { needsTable ? tableBytes + 512 : 0 }

    /// Reads and checks the image. Throws `unsupported` when it cannot grow to `newBytes`.
    init(_ container: borrowing ContainerFile, to newBytes: UInt64, disk: String? = nil) throws(ImageError) {
        let path = container.path
        func refuse(_ what: String) -> ImageError {
            .unsupported(
                path: path, what: what,
                remedy: "farshore unprotect \(disk ?? "DISK"), farshore image convert \(path) COPY.vhd --to vhd-dynamic, and protect COPY.vhd under a new name")
        }
        let layout = try readDynamicLayout(container, .dynamic)
        guard layout.batmap == nil else { throw refuse("a dynamic VHD with a batmap (XenServer) cannot grow") }
        guard !layout.isCopyDamaged else { throw refuse("the footer copy at byte 0 is damaged, so the image cannot grow safely") }
        header = layout.header
        let oldBytes = layout.footer.diskSizeBytes
        let oldBlocks = Int(header.blocks(ofDiskBytes: oldBytes))
        let needed = header.blocks(ofDiskBytes: newBytes)
        guard needed <= UInt64(VHDDynamicHeader.tableEntriesMax) else { throw refuse("\(needed) blocks of \(header.blockBytes) bytes are more than a table may have") }
        guard layout.table.sectors[min(oldBlocks, layout.table.sectors.count)...].allSatisfy({ $0 == VHDBlockTable.unallocated }) else {
            throw refuse("the table has blocks behind the end of the disk")
        }
        footer = layout.footer.grown(to: newBytes)
        oldFooter = layout.footer.encoded()
        fileBytes = container.status.sizeBytes
        hasFooterAtEnd = layout.hasFooterAtEnd
        headerBytes = try container.read(count: VHDDynamicHeader.bytesCount, at: layout.footer.dataOffset)
        sectors = layout.table.sectors
        entriesNeeded = UInt32(needed)
        endOffset = layout.table.endOffset
        let (inLast, blockBytes) = (oldBytes % UInt64(header.blockBytes), UInt64(header.blockBytes))
        let last = inLast == 0 || oldBytes == newBytes ? nil : layout.table.dataOffset(ofBlock: oldBlocks - 1, bitmapBytes: header.bitmapBytes)
        rest = last.map { $0 + inLast..<$0 + blockBytes }
    }

    mutating func carryOut(_ file: borrowing ChangedFile) throws(SystemError) {
        let oldHeader = Array(headerBytes[..<512])
        do throws(SystemError) {
            if let rest { try file.zero(at: rest.lowerBound, length: rest.upperBound - rest.lowerBound) }
            if needsTable { try moveTable(file) } else if hasFooterAtEnd { try file.write([UInt8](repeating: 0, count: 512), at: fileBytes - 512) }
            try file.sync()
            // Also where it names the table already: an earlier attempt's sync may have failed, and left it in the page cache alone.
            try file.write(Array(headerBytes[..<512]), at: footer.dataOffset)
        } catch {
            // A footer at the end that cannot be put back is put there by whoever writes to the disk.
            throw file.undone(error) { () throws(SystemError) in
                guard try file.descriptor.read(count: 512, at: footer.dataOffset) == oldHeader else { return }
                if needsTable { try file.cutBack(to: fileBytes) } else if hasFooterAtEnd { try file.putBack(oldFooter, at: fileBytes - 512) }
            }
        }
        try file.sync()
        try file.write(footer.encoded(), at: 0)
        try file.sync()
        // Behind a new table the footer's place is there already.
        if !needsTable { try file.truncate(to: endOffset) }
        try file.write(footer.encoded(), at: endOffset)
        try file.sync()
    }

    /// The new table behind the file's end, with room for the footer, and the header that names it, not written yet.
    private mutating func moveTable(_ file: borrowing ChangedFile) throws(SystemError) {
        let place = fileBytes.roundedUp(to: 512)
        var table = [UInt8](repeating: 0xFF, count: Int(tableBytes))
        table.withUnsafeMutableBytes { bytes in
            for (block, sector) in sectors.enumerated() { bytes.putBE(sector, at: block * 4) }
        }
        endOffset = place + tableBytes
        try file.write(table + [UInt8](repeating: 0, count: 512), at: place)
        headerBytes.withUnsafeMutableBytes { field in
            field.putBE(place, at: 16)
            field.putBE(entriesNeeded, at: 28)
        }
        headerBytes = VHDFormat.withChecksum(headerBytes, at: 36)
    }
}
