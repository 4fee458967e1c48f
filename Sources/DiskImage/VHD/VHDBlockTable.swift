// The block allocation table: docs/formats/vhd.md, section "Block allocation table". One big-endian sector number a
// block; checked as a whole before the first of them is believed, so that no block lies outside of the file, over
// another block or over the structures.

import BlockIO

/// Bytes of the file that no block may lie in.
struct VHDStructure: Equatable, Sendable {
    let name: String
    let start: UInt64
    let end: UInt64

    func overlaps(_ start: UInt64, _ end: UInt64) -> Bool { start < self.end && self.start < end }
}

struct VHDBlockTable: Sendable {
    static let unallocated = UInt32.max

    private(set) var sectors: [UInt32]
    /// The first byte behind all blocks and structures: where a new block may begin at the earliest.
    private(set) var endOffset: UInt64

    /// Reads the table `header` describes and checks it against `structures`, which holds the table itself.
    init(reading container: borrowing ContainerFile, header: VHDDynamicHeader, structures: [VHDStructure]) throws(ImageError) {
        let bytes = try container.read(count: Int(header.tableBytes), at: header.tableOffset)
        sectors = bytes.withUnsafeBytes { raw in
            (0..<Int(header.tableEntries)).map { raw.getBE(UInt32.self, at: $0 * 4) }
        }
        endOffset = structures.reduce(512) { max($0, $1.end) }.roundedUp(to: 512)
        // The size after the table was read: a writer elsewhere extends the file before it enters a block.
        let fileBytes = try asImageError { () throws(SystemError) in try container.descriptor.status().sizeBytes }
        try check(header, structures, fileBytes: fileBytes, path: container.path)
    }

    /// Where the block's data begins, or nil when it is not allocated.
    func dataOffset(ofBlock block: Int, bitmapBytes: UInt64) -> UInt64? {
        let sector = sectors[block]
        return sector == Self.unallocated ? nil : UInt64(sector) * 512 + bitmapBytes
    }

    mutating func set(block: Int, sector: UInt32, endOffset: UInt64) {
        sectors[block] = sector
        self.endOffset = endOffset
    }

    /// New blocks begin at `offset` at the earliest: where the footer is, what lies before it being left alone.
    mutating func moveEnd(to offset: UInt64) { endOffset = offset }

    var allocatedBlocks: Int { sectors.count { $0 != Self.unallocated } }

    private mutating func check(_ header: VHDDynamicHeader, _ structures: [VHDStructure], fileBytes: UInt64, path: String) throws(ImageError) {
        let blockAndBitmap = header.bitmapBytes + UInt64(header.blockBytes)
        for (block, sector) in sectors.enumerated() where sector != Self.unallocated {
            let start = UInt64(sector) * 512
            guard start + blockAndBitmap <= fileBytes else {
                throw damage(block, header, path, expected: "a block of \(blockAndBitmap) bytes within the file's \(fileBytes)",
                    meaning: "the block lies outside of the file: it was cut")
            }
            for structure in structures where structure.overlaps(start, start + blockAndBitmap) {
                throw damage(block, header, path, expected: "no overlap with \(structure.name) at \(structure.start)",
                    meaning: "two structures claim the same bytes")
            }
            endOffset = max(endOffset, start + blockAndBitmap)
        }
        try checkOverlaps(header, sectorsOfBlock: blockAndBitmap / 512, path: path)
    }

    private func checkOverlaps(_ header: VHDDynamicHeader, sectorsOfBlock: UInt64, path: String) throws(ImageError) {
        let placed = sectors.filter { $0 != Self.unallocated }.sorted()
        for (lower, higher) in zip(placed, placed.dropFirst()) where UInt64(higher - lower) < sectorsOfBlock {
            let block = sectors.lastIndex(of: higher) ?? 0
            let other = sectors.firstIndex(of: lower) ?? 0
            throw damage(block, header, path, expected: "no overlap with block \(other) at sector \(lower)",
                meaning: "two blocks claim the same bytes")
        }
    }

    private func damage(_ block: Int, _ header: VHDDynamicHeader, _ path: String, expected: String, meaning: String) -> ImageError {
        .damaged(ImageDamage(path: path, field: "block allocation table, entry \(block)", offset: header.tableOffset + UInt64(block) * 4,
            found: "sector \(sectors[block])", expected: expected, meaning: meaning))
    }
}
