// Opening a log: what a stop of any kind left is made whole before anything is served.
//  - after a clean stop or a kill in the same boot every valid record is kept; a hole becomes a void record. No segment
//    is synced, guests wait: what may not be durable counts as not flushed, and the housekeeper seals it in its turn;
//  - after a power loss the log is cut at the first record that is not whole, and a new lineage begins (PowerLossCut);
//  - a record that was known to be durable and is not there is damage: a named error, never skipped.
// Mirrors docs/formats/change-log.md, "Recovery".

import BlockIO

/// How the last run of the log ended, as found at open.
package enum LastStop: Equatable, Sendable {
    case never
    case clean(LogState.CleanStop)
    /// The process ended without closing the log; the page cache survived.
    case killed
    /// The machine went down; `lastSequence` is the last one kept.
    case powerLost(lastSequence: UInt64)
}

/// The records found in segments that their last owner had not sealed. Remembered, for those segments may be sealed,
/// merged and recycled before anybody asks what became of a request.
struct UnsealedRecords {
    /// The last sequence before them, and the last of all.
    var after = UInt64.max
    var through: UInt64 = 0
    /// Ascending; voids left out.
    var sequences: [UInt64] = []

    /// Nil when the sequence does not lie among them.
    func holds(_ sequence: UInt64) -> Bool? {
        guard sequence > after, sequence <= through else { return nil }
        var (low, high) = (0, sequences.count)
        while low < high {
            let middle = (low + high) / 2
            if sequences[middle] < sequence { low = middle + 1 } else { high = middle }
        }
        return low < sequences.count && sequences[low] == sequence
    }
}

struct Recovery: ~Copyable {
    let state: LogState
    let geometry: SegmentGeometry
    /// Told of every record above the destaged segments that changes the disk, with its segment's index.
    let replay: (RecordBlocks, UInt64) -> Void
    let sync: (Segment) throws(SystemError) -> Void
    var kept: [Segment] = []
    var spares: [Segment]
    var lastSequence: UInt64
    /// Everything up to here is known to be durable.
    var flushedSequence: UInt64
    /// What the unsealed segments hold: only there can a request be that a killed owner had in hand.
    private(set) var unsealed = UnsealedRecords()
    private var spareTable: SegmentTable?

    init(
        _ state: LogState, _ geometry: SegmentGeometry, spares: [Segment],
        sync: @escaping (Segment) throws(SystemError) -> Void, replay: @escaping (RecordBlocks, UInt64) -> Void
    ) {
        self.state = state
        self.geometry = geometry
        self.spares = spares
        self.sync = sync
        self.replay = replay
        lastSequence = state.destagedSequence
        flushedSequence = state.destagedSequence
    }

    /// After a clean stop or a kill. `byFooters`: guests wait, and what was sealed is taken from the footers. Otherwise each
    /// table is read and checked.
    mutating func keepAll(_ found: [FoundSegment], byFooters: Bool) throws(LogError) {
        try checkStart(found)
        for place in found.indices {
            let next = place + 1 < found.count ? found[place + 1] : nil
            if let next { try checkOrder(found[place], next) }
            if let seal = found[place].seal {
                try keepSealed(found[place], seal, byFooter: byFooters)
            } else {
                try keepUnsealed(found[place], next: next)
            }
        }
        sealAgain()
    }

    /// The newest seal may have been written and not synced when its owner was killed. Were the next one durable before
    /// it, a power loss would leave a log whose seals have a gap: it is written and synced once more, in its turn.
    private func sealAgain() {
        guard let newest = kept.last(where: { $0.phase == .sealed }), newest.currentIndex > state.destagedSegment else { return }
        newest.phase = .closing
        newest.isDirty = true
    }

    /// The segments that the image does not hold must all be there.
    private func checkStart(_ found: [FoundSegment]) throws(LogError) {
        guard let first = found.first, first.header.firstIndex > state.destagedSegment + 1 else { return }
        throw .damaged(
            path: first.segment.file.path, segment: first.index, offset: 0, afterSequence: state.destagedSequence,
            reason: "segments \(state.destagedSegment + 1) to \(first.index - 1) are missing")
    }

    private func checkOrder(_ lower: FoundSegment, _ upper: FoundSegment) throws(LogError) {
        var reason: String?
        if upper.header.firstIndex != lower.index + 1 { reason = "the segment after \(lower.index) is missing" }
        if upper.seal != nil, lower.seal == nil { reason = "segment \(lower.index) before it is not sealed" }
        if let seal = lower.seal, lower.header.merge?.slotCount ?? seal.recordCount != upper.header.previousSlotCount || seal.lastSequence != upper.header.afterSequence {
            reason = "it does not follow segment \(lower.index)"
        }
        guard let reason else { return }
        throw .damaged(
            path: upper.segment.file.path, segment: upper.index, offset: 0, afterSequence: upper.header.afterSequence, reason: reason)
    }

    mutating func keepSealed(_ found: FoundSegment, _ seal: SegmentSeal, byFooter: Bool) throws(LogError) {
        let segment = found.segment
        segment.phase = .sealed
        segment.nextSlot = Int(seal.recordCount)
        segment.nextPage = geometry.pageCount
        segment.lastSequence = seal.lastSequence
        kept.append(segment)
        lastSequence = max(lastSequence, seal.lastSequence)
        // A seal is written after its segment and all before it were synced.
        flushedSequence = max(flushedSequence, seal.lastSequence)
        // What the image holds already is read again only by the uploader.
        guard found.index > state.destagedSegment else { return }
        guard found.header.merge == nil else { throw damage(found, 0, after: found.header.afterSequence, "it is merged, but the image does not hold it") }
        if byFooter, try replayFooter(found, seal) { return }
        let table = try readTable(found)
        var last = found.header.afterSequence
        for slot in 0..<Int(seal.recordCount) {
            guard let record = table.record(slot), record.sequence > last else {
                throw damage(found, slot, after: last, "a record of a sealed segment is missing")
            }
            try replayInside(record, found, slot)
            last = record.sequence
        }
        spareTable = consume table
        guard last == seal.lastSequence || seal.recordCount == 0 else {
            throw damage(found, Int(seal.recordCount), after: last, "its seal names another last record")
        }
    }

    /// False when the segment has no footer, or a damaged one: the table says the same.
    private func replayFooter(_ found: FoundSegment, _ seal: SegmentSeal) throws(LogError) -> Bool {
        guard let footer = seal.footer else { return false }
        let diskBlocks = state.diskBytes / UInt64(blockBytes) + (state.diskBytes % UInt64(blockBytes) == 0 ? 0 : 1)
        return try asLogError { () throws(SystemError) in
            try found.segment.readFooter(footer, recordCount: Int(seal.recordCount), diskBlocks: diskBlocks) { replay($0, found.index) }
        }
    }

    private mutating func keepUnsealed(_ found: FoundSegment, next: FoundSegment?) throws(LogError) {
        guard found.index > state.destagedSegment else {
            throw damage(found, 0, after: found.header.afterSequence, "the image is said to hold it, but it is not sealed")
        }
        let segment = found.segment
        unsealed.after = min(unsealed.after, found.header.afterSequence)
        let table = try asLogError { () throws(SystemError) in try SegmentTable(segment.file, found.header, geometry) }
        let end = table.endSlot
        let count = next.map { Int($0.header.previousSlotCount) } ?? end
        guard end <= count, count <= geometry.slotCount else {
            throw damage(found, end, after: found.header.afterSequence, "it holds more records than were reserved")
        }
        for slot in 0..<count {
            if let record = table.record(slot) {
                guard record.sequence > segment.lastSequence else { throw damage(found, slot, after: segment.lastSequence, "a record is out of order") }
                try apply(record, found, slot)
                if record.kind != .void { unsealed.sequences.append(record.sequence) }
                segment.lastSequence = record.sequence
                flushedSequence = max(flushedSequence, record.flushedSequence)
            } else {
                let (above, overflow) = segment.lastSequence.addingReportingOverflow(1)
                guard !overflow else { throw damage(found, slot, after: segment.lastSequence, "a record follows the last possible sequence") }
                try fillHole(segment, slot, sequence: slot == count - 1 ? next?.header.afterSequence ?? above : above)
            }
        }
        segment.nextSlot = count
        // The next flush syncs it, whatever its old owner had synced.
        segment.isDirty = true
        segment.phase = next == nil ? .active : .closing
        kept.append(segment)
        lastSequence = max(lastSequence, segment.lastSequence)
        unsealed.through = lastSequence
    }

    /// A place that a killed writer had reserved. Its own number lies above the one before it, below the one after it.
    private func fillHole(_ segment: Segment, _ slot: Int, sequence: UInt64) throws(LogError) {
        let void = RecordHeader(
            kind: .void, sequence: sequence, diskOffset: 0, length: 0, payloadPage: UInt32(segment.nextPage), payloadChecksum: 0,
            flushedSequence: 0, wallNanoseconds: 0)
        try asLogError { () throws(SystemError) in try segment.writeSlot(slot, void) }
        segment.lastSequence = sequence
    }

    func seal(_ found: FoundSegment, _ count: Int) throws(LogError) {
        found.segment.nextSlot = count
        let seal = SegmentSeal(recordCount: UInt32(count), lastSequence: found.segment.lastSequence)
        try asLogError { () throws(SystemError) in try found.segment.writeSeal(seal, sync) }
        found.segment.phase = .sealed
    }

    /// The record table of `found`, in the memory of the last one.
    private mutating func readTable(_ found: FoundSegment) throws(LogError) -> SegmentTable {
        if var table = spareTable.take() {
            try asLogError { () throws(SystemError) in try table.read(found.segment.file, found.header) }
            return table
        }
        return try asLogError { () throws(SystemError) in try SegmentTable(found.segment.file, found.header, geometry) }
    }

    func apply(_ record: RecordHeader, _ found: FoundSegment, _ slot: Int) throws(LogError) {
        let pages = SegmentGeometry.pages(of: record.payloadBytes)
        found.segment.nextPage = max(found.segment.nextPage, Int(record.payloadPage) + pages)
        try replayInside(record, found, slot)
    }

    private func replayInside(_ record: RecordHeader, _ found: FoundSegment, _ slot: Int) throws(LogError) {
        guard let blocks = RecordBlocks(record) else { return }
        guard record.diskOffset + record.length <= state.diskBytes else {
            throw damage(found, slot, after: record.sequence - 1, "a record lies beyond the end of the disk")
        }
        replay(blocks, found.index)
    }

    func damage(_ found: FoundSegment, _ slot: Int, after sequence: UInt64, _ reason: String) -> LogError {
        .damaged(
            path: found.segment.file.path, segment: found.index, offset: SegmentGeometry.slotOffset(slot), afterSequence: sequence,
            reason: reason)
    }
}
