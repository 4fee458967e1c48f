// Finds a segment by index and pins it, without a lock: readers do this for every request.
// Safe against recycling: the recycler first sets the segment's index to 0, then waits for its pins; a reader first pins,
// then compares the index. Both sides are sequentially consistent, so either the reader sees 0 or the recycler the pin.

import Synchronization

package final class SegmentDirectory: @unchecked Sendable {
    // Sendable: `entries` is written under the log's monitor before any map entry names the index, with release order,
    // and read with acquire order; Segment objects live as long as the log.
    private let entries: UnsafeMutablePointer<Atomic<UnsafeRawPointer?>>
    private let mask: Int

    init(capacity: Int) {
        var size = 4
        while size < capacity * 2 { size *= 2 }
        mask = size - 1
        entries = .allocate(capacity: size)
        for place in 0..<size { (entries + place).initialize(to: Atomic(nil)) }
    }

    deinit {
        for place in 0...mask {
            if let raw = entries[place].load(ordering: .relaxed) { Unmanaged<Segment>.fromOpaque(raw).release() }
        }
        (entries).deinitialize(count: mask + 1)
        entries.deallocate()
    }

    /// Live indexes are contiguous and fewer than the places, so no two share one. Call under the log's monitor.
    func enter(_ segment: Segment, index: UInt64) {
        let new = Unmanaged.passRetained(segment)
        let old = entries[Int(truncatingIfNeeded: index) & mask].exchange(UnsafeRawPointer(new.toOpaque()), ordering: .acquiringAndReleasing)
        // The old one cannot go away: the log holds every Segment until it is closed.
        if let old { Unmanaged<Segment>.fromOpaque(old).release() }
    }

    /// The segment, kept from being recycled until `unpin`; nil when it was recycled already.
    package func pin(_ index: UInt64) -> Segment? {
        guard let raw = entries[Int(truncatingIfNeeded: index) & mask].load(ordering: .acquiring) else { return nil }
        let segment = Unmanaged<Segment>.fromOpaque(raw).takeUnretainedValue()
        segment.pins.add(1, ordering: .sequentiallyConsistent)
        if segment.index.load(ordering: .sequentiallyConsistent) == index { return segment }
        segment.pins.subtract(1, ordering: .sequentiallyConsistent)
        return nil
    }

    package func unpin(_ segment: Segment) {
        segment.pins.subtract(1, ordering: .releasing)
    }
}
