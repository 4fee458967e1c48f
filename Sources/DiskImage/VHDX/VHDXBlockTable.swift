// The block allocation table: docs/formats/vhdx.md, section "Block allocation table". Checked as a whole before the first
// entry is believed, so that no block lies outside of the file, over another block or over a structure.

import BlockIO

/// Where a block's entry stands in the table, and what the entries mean.
struct VHDXTableShape: Sendable {
    static let blocksMax: UInt64 = 8 << 20
    static let fullyPresent: UInt64 = 6

    let region: VHDXRegion
    let blockBytes: UInt64
    private let sizeBytes: UInt64
    let blocks: Int
    /// Payload entries between two entries of sector bitmaps.
    private let chunkBlocks: UInt64

    init(region: VHDXRegion, blockBytes: UInt32, sizeBytes: UInt64) {
        self.region = region
        self.sizeBytes = sizeBytes
        self.blockBytes = UInt64(blockBytes)
        blocks = Int((sizeBytes + self.blockBytes - 1) / self.blockBytes)
        chunkBlocks = (512 << 23) / self.blockBytes
    }

    func entryOffset(ofBlock block: Int) -> UInt64 { region.offset + (UInt64(block) + UInt64(block) / chunkBlocks) * 8 }

    /// Of the last block less than a whole one may belong to the disk: QEMU's fixed images end there.
    func bytesOnDisk(_ block: Int) -> UInt64 { min(blockBytes, sizeBytes - UInt64(block) * blockBytes) }

    /// Bytes of the table up to the last block's entry.
    var bytesCount: UInt64 { blocks == 0 ? 0 : entryOffset(ofBlock: blocks - 1) + 8 - region.offset }

    static func entry(presentAt offset: UInt64) -> UInt64 { (offset / VHDXPlace.mebibyte) << 20 | fullyPresent }
}

struct VHDXBlockTable: Sendable {
    let shape: VHDXTableShape
    /// A block's place in MiB; 0 when it is not present.
    private(set) var places: [UInt32]
    /// Where the next block begins: behind everything in the file.
    private(set) var endOffset: UInt64

    init(reading file: borrowing VHDXReplayedFile, metadata: VHDXMetadata, regions: VHDXRegions) throws(ImageError) {
        shape = VHDXTableShape(region: regions.table, blockBytes: metadata.blockBytes, sizeBytes: metadata.sizeBytes)
        let field = ImageField([], structure: "block allocation table", at: regions.table.offset, path: file.path)
        try field.require(shape.bytesCount <= regions.table.bytesCount, "region length", at: 0, found: "\(regions.table.bytesCount)",
            expected: "at least \(shape.bytesCount)", meaning: "the table does not cover the disk's \(metadata.sizeBytes) bytes")
        guard UInt64(shape.blocks) <= VHDXTableShape.blocksMax else {
            throw .unsupported(
                path: file.path,
                what: "a disk of \(shape.blocks) blocks of \(shape.blockBytes) bytes: a limit of Farshore is \(VHDXTableShape.blocksMax) blocks (block allocation table)",
                remedy: "qemu-img convert -O vhdx -o block_size=32M \(file.path) LARGER.vhdx, or Convert-VHD with -BlockSizeBytes 32MB on Hyper-V")
        }
        places = [UInt32](repeating: 0, count: shape.blocks)
        endOffset = file.sizeBytes.roundedUp(to: VHDXPlace.mebibyte)
        try readEntries(file)
        // The last block's place is a whole block's, whatever the file has of it.
        if let last = places.max(), last > 0 { endOffset = max(endOffset, UInt64(last) * VHDXPlace.mebibyte + shape.blockBytes) }
        try checkOverlaps(file, regions)
    }

    /// Where the block's data begins, or nil when it is not present.
    func dataOffset(ofBlock block: Int) -> UInt64? { places[block] == 0 ? nil : UInt64(places[block]) * VHDXPlace.mebibyte }

    mutating func place(block: Int) {
        places[block] = UInt32(endOffset / VHDXPlace.mebibyte)
        endOffset += shape.blockBytes
    }

    var presentBlocks: Int { places.count { $0 != 0 } }

    private mutating func readEntries(_ file: borrowing VHDXReplayedFile) throws(ImageError) {
        // In pieces: the whole table twice in memory would be its double.
        var block = 0
        while block < shape.blocks {
            let (start, count) = (shape.entryOffset(ofBlock: block), min(shape.blocks - block, 1 << 16))
            let end = shape.entryOffset(ofBlock: block + count - 1) + 8
            let bytes = try file.read(count: Int(end - start), at: start)
            for next in block..<block + count {
                let place = shape.entryOffset(ofBlock: next)
                let entry = bytes.withUnsafeBytes { $0.getLE(UInt64.self, at: Int(place - start)) }
                places[next] = try self.place(entry, block: next, file)
            }
            block += count
        }
    }

    private func place(_ entry: UInt64, block: Int, _ file: borrowing VHDXReplayedFile) throws(ImageError) -> UInt32 {
        let field = ImageField([], structure: "block allocation table", at: shape.region.offset, path: file.path)
        let name = "entry of block \(block)"
        let at = Int(shape.entryOffset(ofBlock: block) - shape.region.offset)
        let state = entry & 7
        try field.require(state <= 3 || state == VHDXTableShape.fullyPresent, name, at: at, found: "state \(state)", expected: "0 to 3, or 6",
            meaning: "a state that a disk without a parent does not have")
        guard state == VHDXTableShape.fullyPresent else { return 0 }
        try field.require(entry & 0xF_FFF8 == 0, name, at: at, found: hex(entry), expected: "bits 3 to 19 zero", meaning: "the entry is damaged")
        let offset = (entry >> 20).multipliedReportingOverflow(by: VHDXPlace.mebibyte)
        let end = offset.partialValue.addingReportingOverflow(shape.bytesOnDisk(block))
        try field.require(!offset.overflow && !end.overflow && end.partialValue <= file.sizeBytes && entry >> 20 <= UInt64(UInt32.max), name, at: at,
            found: "a block at MiB \(entry >> 20)", expected: "\(shape.bytesOnDisk(block)) bytes of the disk within the file's \(file.sizeBytes)",
            meaning: "the block lies outside of the file: it was cut")
        try field.require(offset.partialValue >= VHDXPlace.headerSectionEnd, name, at: at, found: "a block at 0", expected: "a place from 1 MiB",
            meaning: "the block lies over the headers")
        return UInt32(entry >> 20)
    }

    private func checkOverlaps(_ file: borrowing VHDXReplayedFile, _ regions: VHDXRegions) throws(ImageError) {
        let placed = places.filter { $0 != 0 }.sorted()
        let blockMiB = UInt32(shape.blockBytes / VHDXPlace.mebibyte)
        for (lower, higher) in zip(placed, placed.dropFirst()) where higher - lower < blockMiB {
            throw overlap(higher, "another block at MiB \(lower)", file.path)
        }
        for region in regions.all {
            if let block = firstBlock(over: region.offset, region.end, placed) { throw overlap(block, "the \(region.name) at \(region.offset)", file.path) }
        }
        for change in file.changes {
            if let block = firstBlock(over: change.offset, change.offset + change.bytesCount, placed) {
                throw overlap(block, "a change by the log at \(change.offset)", file.path)
            }
        }
    }

    /// The first of the sorted places whose block has bytes from `start` to `end`.
    private func firstBlock(over start: UInt64, _ end: UInt64, _ placed: [UInt32]) -> UInt32? {
        var (low, high) = (0, placed.count)
        while low < high {
            let middle = (low + high) / 2
            if UInt64(placed[middle]) * VHDXPlace.mebibyte + shape.blockBytes <= start { low = middle + 1 } else { high = middle }
        }
        guard low < placed.count, UInt64(placed[low]) * VHDXPlace.mebibyte < end else { return nil }
        return placed[low]
    }

    private func overlap(_ place: UInt32, _ what: String, _ path: String) -> ImageError {
        let block = places.lastIndex(of: place) ?? 0
        return .damaged(ImageDamage(path: path, field: "block allocation table, entry of block \(block)", offset: shape.entryOffset(ofBlock: block),
            found: "a block at MiB \(place)", expected: "no overlap with \(what)", meaning: "two structures claim the same bytes"))
    }
}
