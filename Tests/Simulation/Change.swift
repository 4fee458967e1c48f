// What a guest asked for, and what became of it.

import BlockIO

/// One record's worth of a request.
struct Part {
    var offset: Int
    var bytes: [UInt8]

    var range: Range<Int> { offset..<offset + bytes.count }

    func apply(to disk: inout [UInt8]) {
        bytes.withUnsafeBytes { from in
            disk.withUnsafeMutableBytes { UnsafeMutableRawBufferPointer(rebasing: $0[offset..<offset + from.count]).copyMemory(from: from) }
        }
    }
}

final class Change {
    enum State { case issued, acknowledged, failed }

    /// An object's address would be used again, and differ from run to run.
    let number: UInt64
    /// In the order of their records. Only the last one's sequence is told.
    private(set) var parts: [Part]
    /// It began as several records.
    let isComposite: Bool
    var state = State.issued
    var isDurable = false
    /// The log was seen to hold the last record, or to hold a void in its place.
    var isSettled = false
    var isVoid = false
    /// Its records' sequences lie above the one and at or below the other, which is known when the request has ended.
    let above: UInt64
    var end: UInt64?
    private let slot: UnsafeMutablePointer<UInt64>

    init(_ parts: [Part], above: UInt64, number: UInt64) {
        self.number = number
        self.parts = parts
        isComposite = parts.count > 1
        self.above = above
        slot = .allocate(capacity: 1)
        slot.pointee = 0
    }

    deinit { slot.deallocate() }

    var sequence: UInt64 { slot.pointee }
    var sequenceSlot: UnsafeMutablePointer<UInt64> { slot }

    /// Those of its last parts that changed nothing may be missing from the log.
    private(set) var isCutShort = false

    /// Only the first records are there; the sequence of the last of them is not known, only where it lies.
    func keepFirst(_ count: Int, of all: [Part]) {
        parts = Array(all.prefix(count))
        isCutShort = true
        if sequence == 0 { slot.pointee = above + 1 }
    }

    /// The log ends at `cut`, so the last of its records that are there lies at or below it.
    func end(by cut: UInt64) { slot.pointee = min(slot.pointee, cut) }

    func touches(_ range: Range<Int>) -> Bool { parts.contains { $0.range.overlaps(range) } }
}
