// What destage sees of a sealed segment: its records in order, and payload that is checked against its checksum.

package import BlockIO

package struct SealedSegment: Sendable {
    package let segment: Segment
    package let index: UInt64
    let recordCount: Int
    package let lastSequence: UInt64

    /// Every record in order. A sealed segment has no holes: a slot without a record is damage.
    package func forEachRecord(_ body: (RecordHeader) throws(LogError) -> Void) throws(LogError) {
        guard let header = segment.header else { return }
        let table = try asLogError { () throws(SystemError) in try SegmentTable(segment.file, header, segment.geometry) }
        var last = header.afterSequence
        for slot in 0..<recordCount {
            guard let record = table.record(slot) else {
                throw .damaged(
                    path: segment.file.path, segment: index, offset: SegmentGeometry.slotOffset(slot), afterSequence: last,
                    reason: "a record of a sealed segment is missing")
            }
            last = record.sequence
            try body(record)
        }
    }

    /// Reads the record's payload into `buffer` and checks it; returns the part of `buffer` that was filled.
    package func payload(_ record: RecordHeader, into buffer: UnsafeMutableRawBufferPointer) throws(LogError) -> UnsafeRawBufferPointer {
        let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer[..<record.payloadBytes])
        let offset = SegmentGeometry.pageOffset(Int(record.payloadPage))
        try asLogError { () throws(SystemError) in try segment.file.read(into: bytes, at: offset) }
        guard crc32c(UnsafeRawBufferPointer(bytes)) == record.payloadChecksum else {
            throw .damaged(
                path: segment.file.path, segment: index, offset: offset, afterSequence: record.sequence - 1,
                reason: "the payload of record \(record.sequence) does not match its checksum")
        }
        return UnsafeRawBufferPointer(bytes)
    }

    /// A payload of one page, read by the caller from `page`, against the checksum of its record.
    package func check(_ payload: UnsafeRawBufferPointer, _ checksum: UInt32, page: Int) throws(LogError) {
        guard crc32c(payload) == checksum else {
            throw .damaged(
                path: segment.file.path, segment: index, offset: SegmentGeometry.pageOffset(page), afterSequence: lastSequence,
                reason: "the payload of the record at page \(page) does not match its checksum")
        }
    }
}

extension Segment {
    /// Reads payload from `page` on. The caller has the segment pinned, or it is sealed and not yet released.
    package func read(into buffer: UnsafeMutableRawBufferPointer, page: Int, skipping skippedBytes: Int = 0) throws(SystemError) {
        try file.read(into: buffer, at: SegmentGeometry.pageOffset(page) + UInt64(skippedBytes))
    }

    /// The same from the page cache; false when some of it must come from the disk, whose read has begun then.
    package func readIfCached(into buffer: UnsafeMutableRawBufferPointer, page: Int, skipping skippedBytes: Int) -> Bool {
        file.readIfCached(into: buffer, at: SegmentGeometry.pageOffset(page) + UInt64(skippedBytes))
    }
}
