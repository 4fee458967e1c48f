// The footer of a sealed segment: which blocks its records changed and where their data is, in a quarter of the table's
// bytes and under one checksum, for a worker's successor that guests wait for. It only saves time: the table stays the
// truth, everything else reads that, and so does recovery where the footer is missing or damaged.
// Mirrors docs/formats/change-log.md, "Footer".

import BlockIO

/// What a record that changes the disk means for the map.
package struct RecordBlocks: Equatable, Sendable {
    package let first: UInt64
    package let count: UInt64
    /// The first payload page; without payload, the page the next payload got.
    package let page: Int
    /// False: the blocks read as zeros.
    package let isWrite: Bool

    /// Nil when the record changes nothing on the disk.
    package init?(_ record: RecordHeader) {
        guard record.changesDisk else { return nil }
        let block = UInt64(blockBytes)
        first = record.diskOffset / block
        count = record.length / block + (record.length % block == 0 ? 0 : 1)
        page = Int(record.payloadPage)
        isWrite = record.kind == .write
    }
}

struct SegmentFooter: Equatable {
    static let entryBytes = 16
    private static let pageShift: UInt64 = 1
    private static let countShift: UInt64 = 20

    var entryCount: UInt32
    var checksum: UInt32

    /// False when the numbers do not fit their fields.
    static func encode(_ blocks: RecordBlocks, into bytes: UnsafeMutableRawBufferPointer, entry: Int) -> Bool {
        guard blocks.count <= UInt64.max >> countShift, blocks.page < 1 << (countShift - pageShift) else { return false }
        let place = blocks.count << countShift | UInt64(blocks.page) << pageShift | (blocks.isWrite ? 1 : 0)
        bytes.putLE(blocks.first, at: entry * entryBytes)
        bytes.putLE(place, at: entry * entryBytes + 8)
        return true
    }

    static func decode(_ bytes: UnsafeRawBufferPointer, entry: Int) -> RecordBlocks {
        let place = bytes.getLE(UInt64.self, at: entry * entryBytes + 8)
        return RecordBlocks(
            first: bytes.getLE(UInt64.self, at: entry * entryBytes), count: place >> countShift,
            page: Int(place >> pageShift & (1 << (countShift - pageShift) - 1)), isWrite: place & 1 == 1)
    }
}

extension RecordBlocks {
    fileprivate init(first: UInt64, count: UInt64, page: Int, isWrite: Bool) {
        self.first = first
        self.count = count
        self.page = page
        self.isWrite = isWrite
    }

    fileprivate func fits(_ geometry: SegmentGeometry, diskBlocks: UInt64) -> Bool {
        guard count > 0, first < diskBlocks, count <= diskBlocks - first, page <= geometry.pageCount else { return false }
        return !isWrite || (page >= geometry.firstPayloadPage && count <= UInt64(geometry.pageCount - page))
    }
}

extension SegmentGeometry {
    /// Where the footer of a segment with so many records begins: payload ends before it.
    func footerPage(recordCount: Int) -> Int { pageCount - Self.pages(of: recordCount * SegmentFooter.entryBytes) }
}

extension Segment {
    /// Call when all records are complete, before the sync that goes ahead of the seal: so the seal never names what a power
    /// loss took. Nil when the segment gets none, because a payload lies in its place (a log of an earlier release) or a
    /// slot holds no record, which recovery names.
    func writeFooter(recordCount: Int) throws(SystemError) -> SegmentFooter? {
        guard let header, recordCount > 0 else { return nil }
        let table = try SegmentTable(file, header, geometry)
        let start = geometry.footerPage(recordCount: recordCount)
        let buffer = AlignedBuffer(count: recordCount * SegmentFooter.entryBytes)
        var entryCount = 0
        for slot in 0..<recordCount {
            guard let record = table.record(slot), Int(record.payloadPage) + SegmentGeometry.pages(of: record.payloadBytes) <= start else { return nil }
            guard let blocks = RecordBlocks(record) else { continue }
            guard SegmentFooter.encode(blocks, into: buffer.bytes, entry: entryCount) else { return nil }
            entryCount += 1
        }
        guard entryCount > 0 else { return nil }
        let bytes = UnsafeRawBufferPointer(rebasing: buffer.bytes[..<(entryCount * SegmentFooter.entryBytes)])
        try file.write(bytes, at: SegmentGeometry.pageOffset(start))
        return SegmentFooter(entryCount: UInt32(entryCount), checksum: crc32c(bytes, seed: seed))
    }

    /// Calls `body` for each entry in record order; false, and nothing called, when the footer is not the one the seal names.
    func readFooter(
        _ footer: SegmentFooter, recordCount: Int, diskBlocks: UInt64, _ body: (RecordBlocks) -> Void
    ) throws(SystemError) -> Bool {
        let entryCount = Int(footer.entryCount)
        let buffer = AlignedBuffer(count: entryCount * SegmentFooter.entryBytes)
        try file.read(into: buffer.bytes, at: SegmentGeometry.pageOffset(geometry.footerPage(recordCount: recordCount)))
        let bytes = UnsafeRawBufferPointer(buffer.bytes)
        guard crc32c(bytes, seed: seed) == footer.checksum else { return false }
        for entry in 0..<entryCount {
            guard SegmentFooter.decode(bytes, entry: entry).fits(geometry, diskBlocks: diskBlocks) else { return false }
        }
        for entry in 0..<entryCount { body(SegmentFooter.decode(bytes, entry: entry)) }
        return true
    }
}
