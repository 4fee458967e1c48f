// Reads a log by sequence range without owning it, also the segment that is being written: what the uploader and
// `point list` use while the worker appends. Reads only; every payload is checked; a file that is recycled meanwhile is
// noticed by its nonce. Give it only sequences that the owner declared durable (`ChangeLog.makeDurable`).

import BlockIO
import Glibc

package struct LogReader: Sendable {
    /// How often a reader of everything begins again because a file was recycled under it.
    private static let recycledMeanwhileMax = 20

    package let folder: LogFolder
    package let state: LogState
    let geometry: SegmentGeometry

    package init(_ folder: LogFolder) throws(LogError) {
        self.folder = folder
        state = try folder.readState()
        guard let geometry = SegmentGeometry(segmentBytes: state.segmentBytes) else {
            throw .invalidFile(path: folder.stateFile, reason: "a segment cannot have \(state.segmentBytes) bytes")
        }
        self.geometry = geometry
    }

    /// Calls `body` with every record whose sequence is above `after` and at most `through`, in order, and its checked
    /// payload, which is valid during the call only. Returns the sequence of the last record seen in the range, or `after`.
    /// `merged` is told of each interval of which only the end can be had, before the first record of it: who has seen one of them and not
    /// the end has no state of the disk. One that begins below `through` is read to its end.
    package func records(
        after: UInt64, through: UInt64, merged: (MergedInterval) throws -> Void = { _ in }, _ body: (RecordHeader, UnsafeRawBufferPointer) throws -> Void
    ) throws -> UInt64 {
        try walk(after: after, through: through, withPayload: { $0.payloadBytes > 0 }, merged, body)
    }

    /// As `records`, without reading payload: for lag and backlog. Durable or not. The first record of a merged segment, but for a
    /// point, has the time of the oldest one that was left out.
    package func headers(after: UInt64, _ body: (RecordHeader) throws -> Void) throws {
        _ = try walk(after: after, through: .max, withPayload: { _ in false }, { _ in }) { record, _ in try body(record) }
    }

    /// The intervals after a sequence of which the log has the end only, rising and apart.
    package func merged(after: UInt64 = 0) throws -> [MergedInterval] {
        try LogReader.segments(folder, state, geometry).compactMap(\.header.mergedInterval).reduce(into: []) { intervals, interval in
            intervals.join(MergedInterval(after: max(interval.after, after), through: interval.through))
        }
    }

    /// The recovery points that the log still holds, oldest first: durable or not. What the owner recycles meanwhile is
    /// gone, and the rest is read again.
    package func points() throws -> [LocalPoint] {
        var triesLeft = Self.recycledMeanwhileMax
        while true {
            do {
                return try pointsNow()
            } catch LogError.recycled where triesLeft > 0 {
                triesLeft -= 1
            }
        }
    }

    private func pointsNow() throws -> [LocalPoint] {
        var points: [LocalPoint] = []
        var merged: [MergedInterval] = []
        let oldest = try LogReader.segments(folder, state, geometry).first?.header.afterSequence ?? 0
        _ = try walk(after: oldest, through: .max, withPayload: { $0.kind == .point && $0.payloadBytes > 0 }, { merged.join($0) }) { record, tag in
            guard record.kind == .point, !merged.hides(record.sequence) else { return }
            points.append(LocalPoint(
                sequence: record.sequence, wallNanoseconds: record.wallNanoseconds, tag: String(decoding: tag, as: UTF8.self), isAppConsistent: record.isAppConsistent))
        }
        return points
    }

    private func walk(
        after: UInt64, through: UInt64, withPayload: (RecordHeader) -> Bool, _ merged: (MergedInterval) throws -> Void,
        _ body: (RecordHeader, UnsafeRawBufferPointer) throws -> Void
    ) throws -> UInt64 {
        var cursor = Cursor(after: after, through: through)
        let buffer = AlignedBuffer(count: recordPayloadBytesMax)
        var triesLeft = Self.recycledMeanwhileMax
        var doubted: [UInt64]?
        while true {
            // Listed anew for each segment: the owner activates, recycles and merges segments meanwhile.
            let listed = try LogReader.segments(folder, state, geometry)
            guard let next = listed.first(where: { cursor.wants($0) }) else { return cursor.last }
            do { try cursor.check(next, folder) } catch {
                // Files are looked at one after the other: a merged segment may have come when its file was passed, and what it replaces
                // have gone before it was reached. A list that stays as it is tells the truth.
                let nonces = listed.map(\.header.nonce)
                guard nonces != doubted, triesLeft > 0 else { throw error }
                (doubted, triesLeft) = (nonces, triesLeft - 1)
                continue
            }
            if let interval = cursor.enter(next.header.mergedInterval) { try merged(interval) }
            do {
                try read(next, &cursor, buffer.bytes, withPayload, body)
            } catch LogError.recycled where triesLeft > 0 {
                // Listed before it was recycled. Whether any of its records are missed, the next list tells.
                triesLeft -= 1
                cursor.beginAgain()
                continue
            }
            if cursor.isDone || next.header.index == listed.last?.header.index { return cursor.last }
        }
    }

    private func read(
        _ listed: ListedSegment, _ cursor: inout Cursor, _ buffer: UnsafeMutableRawBufferPointer,
        _ withPayload: (RecordHeader) -> Bool, _ body: (RecordHeader, UnsafeRawBufferPointer) throws -> Void
    ) throws {
        guard let file = try LogReader.openIfThere(listed.path) else { throw listed.recycled(folder) }
        let table = try listed.table(file, folder, geometry)
        let end = listed.seal.map { Int($0.recordCount) } ?? table.endSlot
        guard end <= geometry.slotCount else { throw listed.damaged(0, after: cursor.last, "its seal counts more records than fit") }
        var oldestNanoseconds = cursor.takesEverything && listed.header.merge != nil ? listed.header.wallNanoseconds : .max
        for slot in 0..<end {
            guard var record = table.record(slot) else {
                if cursor.takesEverything, listed.seal == nil { continue }
                // A place that is reserved and not yet filled lies above all that is durable; anything else is damage.
                let isGap = listed.seal != nil || (slot..<end).contains { table.record($0).map { $0.sequence <= cursor.through } ?? false }
                if isGap { throw listed.damaged(slot, after: cursor.last, "a record is missing") }
                cursor.isDone = true
                return
            }
            guard record.sequence > cursor.after else { continue }
            if record.sequence > cursor.through {
                cursor.isDone = true
                return
            }
            guard record.sequence > cursor.last else {
                throw listed.damaged(slot, after: cursor.last, "the record has the sequence \(record.sequence), which is not above the one before")
            }
            if record.kind != .point { record.wallNanoseconds = min(record.wallNanoseconds, oldestNanoseconds) }
            oldestNanoseconds = .max
            var payload = UnsafeRawBufferPointer(start: nil, count: 0)
            if withPayload(record) {
                let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer[..<record.payloadBytes])
                let count = try file.readUpTo(bytes, at: SegmentGeometry.pageOffset(Int(record.payloadPage)))
                try listed.checkUnchanged(file, folder)
                payload = UnsafeRawBufferPointer(bytes)
                guard count == bytes.count, crc32c(payload) == record.payloadChecksum else {
                    throw listed.damaged(slot, after: record.sequence - 1, "the payload of record \(record.sequence) does not match its checksum")
                }
            }
            try body(record, payload)
            cursor.last = record.sequence
            if record.sequence == cursor.through {
                cursor.isDone = true
                return
            }
        }
        cursor.segmentEnded(listed, slots: end)
    }

    /// Nil when the owner has removed the file, which was out of use.
    static func openIfThere(_ path: String) throws(SystemError) -> Descriptor? {
        do throws(SystemError) {
            return try Descriptor.open(path, O_RDONLY)
        } catch {
            guard error.errno == ENOENT else { throw error }
            return nil
        }
    }

    /// Live segments by index.
    static func segments(_ folder: LogFolder, _ state: LogState, _ geometry: SegmentGeometry) throws -> [ListedSegment] {
        var found: [ListedSegment] = []
        let page = AlignedBuffer(count: 2 * SegmentHeader.sectorBytes)
        for name in try Directory.list(folder.path) where LogFolder.segmentNumber(name) != nil {
            let path = folder.path + "/" + name
            guard let file = try openIfThere(path) else { continue }
            guard try file.readUpTo(page.bytes, at: 0) == page.bytes.count,
                case .header(let header) = SegmentHeader.decode(UnsafeRawBufferPointer(page.bytes)),
                header.diskID == state.diskID, Int(header.segmentBytes) == geometry.segmentBytes
            else { continue }
            let sector = UnsafeRawBufferPointer(rebasing: page.bytes[SegmentSeal.offset...])
            found.append(ListedSegment(path: path, header: header, seal: SegmentSeal.decode(sector, for: header)))
        }
        // What a merged segment replaces is there for a moment beside it, and says no more.
        let merges = found.filter { $0.header.merge != nil && $0.seal != nil }
        return found.filter { one in
            one.header.merge == nil || one.seal != nil
        }.filter { one in
            !merges.contains { $0.header.nonce != one.header.nonce && $0.header.firstIndex <= one.header.firstIndex && one.header.index <= $0.header.index }
        }.sorted { $0.header.index < $1.header.index }
    }
}

/// A point as the log has it.
package struct LocalPoint: Hashable, Sendable {
    package let sequence: UInt64
    package let wallNanoseconds: UInt64
    package let tag: String
    package let isAppConsistent: Bool
}

struct ListedSegment {
    let path: String
    let header: SegmentHeader
    let seal: SegmentSeal?

    /// The record table of this use of the file.
    func table(_ file: borrowing Descriptor, _ folder: LogFolder, _ geometry: SegmentGeometry) throws -> SegmentTable {
        do {
            let table = try SegmentTable(file, header, geometry)
            try checkUnchanged(file, folder)
            return table
        } catch let error as SystemError where error.errno == ENODATA {
            // A file that is removed is emptied first.
            try checkUnchanged(file, folder)
            throw error
        }
    }

    /// After every read: the bytes came from this use of the file, not from a later one.
    func checkUnchanged(_ file: borrowing Descriptor, _ folder: LogFolder) throws {
        let sector = AlignedBuffer(count: SegmentHeader.sectorBytes)
        guard try file.readUpTo(sector.bytes, at: 0) == sector.bytes.count else { throw recycled(folder) }
        if case .header(let now) = SegmentHeader.decode(UnsafeRawBufferPointer(sector.bytes)), now == header { return }
        throw recycled(folder)
    }

    func recycled(_ folder: LogFolder) -> LogError { .recycled(folder: folder.path, after: header.afterSequence, oldest: header.afterSequence) }

    func damaged(_ slot: Int, after sequence: UInt64, _ reason: String) -> LogError {
        .damaged(path: path, segment: header.index, offset: SegmentGeometry.slotOffset(slot), afterSequence: sequence, reason: reason)
    }
}

/// Where a walk stands. Segments are chained by index, slot count and last sequence: a break is damage.
private struct Cursor {
    /// No record up to here is wanted (any more).
    private(set) var after: UInt64
    private(set) var through: UInt64
    var last: UInt64
    var isDone = false
    /// Everything that is there, also above what is durable: places may be empty.
    let takesEverything: Bool
    private var ended: (index: UInt64, slots: Int)?

    init(after: UInt64, through: UInt64) {
        self.after = after
        self.through = through
        takesEverything = through == .max
        last = after
    }

    func wants(_ segment: ListedSegment) -> Bool {
        if let ended { return segment.header.index > ended.index }
        if let seal = segment.seal, seal.lastSequence <= after { return false }
        return true
    }

    mutating func check(_ segment: ListedSegment, _ folder: LogFolder) throws {
        // It stands for segments that were read already, too.
        if let ended, segment.header.firstIndex <= ended.index { beginAgain() }
        guard let ended else {
            if segment.header.afterSequence > after, segment.header.firstIndex > 1 || after > 0 {
                throw LogError.recycled(folder: folder.path, after: after, oldest: segment.header.afterSequence)
            }
            return
        }
        if takesEverything { return }
        if segment.header.firstIndex != ended.index + 1 || Int(segment.header.previousSlotCount) != ended.slots {
            throw segment.damaged(0, after: last, "it does not follow segment \(ended.index), of which \(ended.slots) records are there")
        }
    }

    /// The part of it that is still to come. It is durable to its end.
    mutating func enter(_ interval: MergedInterval?) -> MergedInterval? {
        guard let interval, interval.after < through, interval.through > last else { return nil }
        through = max(through, interval.through)
        return MergedInterval(after: max(interval.after, last), through: interval.through)
    }

    /// What was not seen yet must still be there.
    mutating func beginAgain() {
        after = last
        ended = nil
    }

    mutating func segmentEnded(_ segment: ListedSegment, slots: Int) {
        ended = (segment.header.index, segment.header.merge.map { Int($0.slotCount) } ?? slots)
    }
}
