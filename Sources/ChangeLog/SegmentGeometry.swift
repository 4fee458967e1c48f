// Where things lie in a segment file: page 0 (header and seal), the record table, the payload pages.
// Mirrors docs/formats/change-log.md, "Segment file".

/// A block of the disk, a page of a segment: both are 4 KiB.
package let blockBytes = 4096
/// The most bytes one write record carries: a 1 MiB request completed to whole blocks on both sides.
package let recordPayloadBytesMax = (1 << 20) + 2 * blockBytes
/// The longest tag of a recovery point.
package let pointTagBytesMax = 1024

package struct SegmentGeometry: Equatable, Sendable {
    package static let segmentBytesMin = 128 << 10
    package static let segmentBytesMax = 1 << 30
    package static let segmentBytesDefault = 32 << 20
    /// A log is made of at least so many segments, where its budget allows them to have `smallSegmentBytesMin`.
    private static let segmentsWanted: UInt64 = 16
    private static let smallSegmentBytesMin = 1 << 20
    static let headerBytes = 64
    static let slotsPerPage = blockBytes / headerBytes
    /// Slots and pages that guest writes leave free, so that recovery points find room on a full log.
    static let reservedSlots = 16
    static let reservedPages = 4

    package let segmentBytes: Int
    package let pageCount: Int
    /// Records a segment can hold.
    package let slotCount: Int
    package let firstPayloadPage: Int

    /// Nil when `segmentBytes` is out of bounds or no multiple of a page.
    package init?(segmentBytes: Int) {
        guard segmentBytes >= Self.segmentBytesMin, segmentBytes <= Self.segmentBytesMax, segmentBytes % blockBytes == 0 else { return nil }
        self.segmentBytes = segmentBytes
        pageCount = segmentBytes / blockBytes
        let tablePages = (pageCount - 1 + Self.slotsPerPage) / (Self.slotsPerPage + 1)
        slotCount = tablePages * Self.slotsPerPage
        firstPayloadPage = 1 + tablePages
    }

    /// The most bytes of a request that one record takes; a partial block on either side adds up to two blocks.
    package var pieceBytesMax: Int {
        min(recordPayloadBytesMax, (footerPage(recordCount: 1) - firstPayloadPage - Self.reservedPages) * blockBytes) - 2 * blockBytes
    }

    /// The size of a new log's segments: the default, or less for a small budget, in powers of two.
    package static func segmentBytes(forBudgetBytes budget: UInt64) -> Int {
        var bytes = segmentBytesDefault
        while bytes > smallSegmentBytesMin, UInt64(bytes) * segmentsWanted > budget { bytes /= 2 }
        return bytes
    }

    package var tableBytes: Int { slotCount * Self.headerBytes }
    static let tableOffset = UInt64(blockBytes)

    package static func slotOffset(_ slot: Int) -> UInt64 { tableOffset + UInt64(slot * headerBytes) }
    package static func pageOffset(_ page: Int) -> UInt64 { UInt64(page) * UInt64(blockBytes) }
    package static func pages(of bytes: Int) -> Int { (bytes + blockBytes - 1) / blockBytes }
}
