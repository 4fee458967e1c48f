// One segment file and its place in the log. The file is recycled in place: a Segment object lives as long as the log
// is open and takes a new index with each use. Which lock guards what is said at each group of fields.

import BlockIO
import Synchronization

package final class Segment: @unchecked Sendable {
    // Sendable: `index` and `pins` are atomics; `header`, `seed`, `isWritten`, `isRemoved` change only while the file is spare, when nobody
    // else uses it; the rest is guarded by the log's monitor.
    enum Phase { case spare, active, closing, sealed }

    let number: Int
    let file: Descriptor
    let geometry: SegmentGeometry

    /// The index of this use; 0 while spare. Readers compare it after pinning.
    let index = Atomic<UInt64>(0)
    /// Readers between map lookup and the end of their pread.
    let pins = Atomic<Int>(0)

    private(set) var header: SegmentHeader?
    private(set) var seed: UInt32 = 0
    /// No block of the file is a hole or allocated only: overwriting it changes no metadata.
    var isWritten = false
    /// Its file has no name any more: nothing must be written to it again.
    var isRemoved = false

    // Guarded by the log's monitor.
    var phase = Phase.spare
    var nextSlot = 0
    var nextPage = 0
    var lastSequence: UInt64 = 0
    /// Reserved records that are not complete.
    var inFlightCount = 0
    /// Holds complete records that no fdatasync has covered.
    var isDirty = false
    /// False for a new file until its folder was synced: whoever first makes its records durable does that too.
    var isNameDurable = true
    /// What it holds is being copied into a merged segment: not to be recycled.
    var isBeingMerged = false

    /// The kernel tells of a failed write-back once: a flush beside it, or a later one, would succeed and lie.
    private let syncFailure = Mutex<SystemError?>(nil)

    init(number: Int, file: consuming Descriptor, geometry: SegmentGeometry) {
        self.number = number
        self.file = file
        self.geometry = geometry
    }

    /// Begins a use: called for a spare file when it becomes active, and at recovery.
    func begin(_ header: SegmentHeader) {
        self.header = header
        seed = RecordHeader.checksumSeed(nonce: header.nonce, index: header.index)
        nextSlot = 0
        nextPage = geometry.firstPayloadPage
        lastSequence = header.afterSequence
        index.store(header.index, ordering: .sequentiallyConsistent)
    }

    var currentIndex: UInt64 { index.load(ordering: .relaxed) }

    /// What the header of the next segment has to name.
    var slotCountToFollow: UInt32 { header?.merge?.slotCount ?? UInt32(nextSlot) }

    /// From now on no reader gets a pin; those that have one are still to be waited for.
    func leaveIndex() { index.store(0, ordering: .sequentiallyConsistent) }

    func writeHeader() throws(SystemError) {
        guard let header else { return }
        try writeSector(at: 0) { header.encode(into: $0) }
    }

    /// Call after everything in the segment is durable; durable itself when it returns.
    func writeSeal(_ seal: SegmentSeal, _ sync: (Segment) throws(SystemError) -> Void) throws(SystemError) {
        guard let header else { return }
        try writeSector(at: UInt64(SegmentSeal.offset)) { seal.encode(for: header, into: $0) }
        try sync(self)
    }

    /// The header becomes zeros: the file is spare. Not durable yet. One sector, so that a power loss leaves the old use
    /// whole or none; its seal stays behind and fits no later use.
    func wipe() throws(SystemError) {
        header = nil
        try file.write([UInt8](repeating: 0, count: SegmentHeader.sectorBytes), at: 0)
        // A slot is a part of its page: were the page not in the page cache, the append would read it first.
        file.prefetch(at: SegmentGeometry.tableOffset, length: UInt64(geometry.tableBytes))
    }

    var hasNoHole: Bool {
        // Only a hint: where the filesystem cannot tell, it counts as having one.
        guard let hole = try? file.nextHole(from: 0) else { return false }
        return hole >= UInt64(geometry.segmentBytes)
    }

    func syncData() throws(SystemError) {
        try syncFailure.withLock { (failure) throws(SystemError) in
            if let failure { throw failure }
            do throws(SystemError) { try file.syncData() } catch {
                failure = error
                throw error
            }
        }
    }

    private func writeSector(at offset: UInt64, _ encode: (UnsafeMutableRawBufferPointer) -> Void) throws(SystemError) {
        let sector = AlignedBuffer(count: SegmentHeader.sectorBytes)
        encode(sector.bytes)
        try file.write(UnsafeRawBufferPointer(sector.bytes), at: offset)
    }

    func writeSlot(_ slot: Int, _ record: RecordHeader) throws(SystemError) {
        var failure: SystemError?
        withUnsafeTemporaryAllocation(byteCount: SegmentGeometry.headerBytes, alignment: 8) { bytes in
            record.encode(slot: slot, seed: seed, into: bytes)
            do throws(SystemError) {
                try file.write(UnsafeRawBufferPointer(bytes), at: SegmentGeometry.slotOffset(slot))
            } catch { failure = error }
        }
        if let failure { throw failure }
    }

    /// Pages of payload in use, counted from the start of the file.
    var usedBytes: UInt64 { UInt64(nextPage) * UInt64(blockBytes) }
}

/// The record table of one segment, read as a whole. Slots are checked when asked for.
struct SegmentTable: ~Copyable {
    private let buffer: AlignedBuffer
    private var seed: UInt32 = 0
    let geometry: SegmentGeometry

    init(_ file: borrowing Descriptor, _ header: SegmentHeader, _ geometry: SegmentGeometry) throws(SystemError) {
        buffer = AlignedBuffer(count: geometry.tableBytes)
        self.geometry = geometry
        try read(file, header)
    }

    /// The table of another segment in its place.
    mutating func read(_ file: borrowing Descriptor, _ header: SegmentHeader) throws(SystemError) {
        seed = RecordHeader.checksumSeed(nonce: header.nonce, index: header.index)
        try file.read(into: buffer.bytes, at: SegmentGeometry.tableOffset)
    }

    /// The record in `slot`, or nil when none was written there in this use of the segment.
    func record(_ slot: Int) -> RecordHeader? {
        let start = slot * SegmentGeometry.headerBytes
        let bytes = UnsafeRawBufferPointer(rebasing: buffer.bytes[start..<start + SegmentGeometry.headerBytes])
        return RecordHeader.decode(bytes, slot: slot, seed: seed, geometry: geometry)
    }

    /// One more than the last slot that holds a record; holes may lie below.
    var endSlot: Int {
        var end = geometry.slotCount
        while end > 0, record(end - 1) == nil { end -= 1 }
        return end
    }
}
