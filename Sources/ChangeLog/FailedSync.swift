// After a failed sync the page cache holds pages that are clean and not on the disk, and every later sync passes them over;
// under memory pressure they turn back into what the disk has. So an owner that finds such a log in the same boot believes
// nothing that no sync covered: each record is checked, and written over itself before the next sync may vouch for it.
// A record that was acknowledged and is not there any more is damage: the guests go on as if they had it.

import BlockIO
import Glibc
import Synchronization

/// What the log held when a sync failed: no record gets a place after that.
struct FailedSync: Equatable {
    /// The newest segment, and the slots that were reserved in it.
    var segment: UInt64
    var slotCount: Int
    /// Records that were not complete: they may be missing.
    var inFlight: [UInt64]

    init(segment: UInt64, slotCount: Int, inFlight: [UInt64]) {
        self.segment = segment
        self.slotCount = slotCount
        self.inFlight = inFlight
    }

    init?(_ text: String) {
        var lines = StateLines(text.split(separator: "\n").map(String.init)[...])
        guard lines.value("farshore failed sync") == "1", let segment = lines.number("segment"), let slots = lines.number("slots"), slots <= UInt32.max
        else { return nil }
        self.init(segment: segment, slotCount: Int(slots), inFlight: [])
        while let sequence = lines.number("in-flight") { inFlight.append(sequence) }
        // A longer note may have been there before.
        guard lines.value("end") == "" else { return nil }
    }

    func encoded() -> String {
        "farshore failed sync 1\nsegment \(segment)\nslots \(slotCount)\n" + inFlight.map { "in-flight \($0)\n" }.joined() + "end \n"
    }
}

/// Records in unsealed segments that a killed owner left and no sync is known to cover.
struct UnprovenRecords: ~Copyable, Sendable {
    private let after: UInt64
    /// How many slots of a segment were filled, by the segment's number. Held while a segment is proven, so that nobody
    /// syncs it meanwhile and believes it.
    private let slotCounts: Mutex<[Int: Int]>

    init() {
        after = 0
        slotCounts = Mutex([:])
    }

    init(after: UInt64, segments: [Segment]) {
        self.after = after
        slotCounts = Mutex(Dictionary(uniqueKeysWithValues: segments.map { ($0.number, $0.nextSlot) }))
    }

    /// Call before the segment is synced: what nobody vouches for is checked and written again. Slots and payload above are
    /// not touched, guests write there.
    func prove(_ segment: Segment) throws(SystemError) {
        try slotCounts.withLock { (counts) throws(SystemError) in
            guard let count = counts[segment.number] else { return }
            try segment.rewriteRecords(count, after: after)
            counts[segment.number] = nil
        }
    }
}

extension Segment {
    fileprivate func rewriteRecords(_ count: Int, after flushed: UInt64) throws(SystemError) {
        guard let header else { return }
        try writeHeader()
        let table = try SegmentTable(file, header, geometry)
        let buffer = AlignedBuffer(count: recordPayloadBytesMax)
        for slot in 0..<count {
            let record = table.record(slot)
            if let record, record.sequence <= flushed { continue }
            guard let record, try isWhole(record, buffer.bytes) else {
                throw SystemError(errno: EIO, operation: "read back what the last owner wrote to slot \(slot)", path: file.path)
            }
            let payload = UnsafeRawBufferPointer(rebasing: buffer.bytes[..<record.payloadBytes])
            if !payload.isEmpty { try file.write(payload, at: SegmentGeometry.pageOffset(Int(record.payloadPage))) }
            try writeSlot(slot, record)
        }
    }

    /// Reads the payload into `buffer`; false when it is not what was written.
    func isWhole(_ record: RecordHeader, _ buffer: UnsafeMutableRawBufferPointer) throws(SystemError) -> Bool {
        guard record.payloadBytes > 0 else { return true }
        let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer[..<record.payloadBytes])
        try file.read(into: bytes, at: SegmentGeometry.pageOffset(Int(record.payloadPage)))
        return crc32c(UnsafeRawBufferPointer(bytes)) == record.payloadChecksum
    }
}

extension ChangeLog {
    /// Ends the log: no record gets a place from here on, and the next opening in this boot does not trust the page cache.
    func noteFailedSync(_ error: SystemError) {
        monitor.lock()
        if failure == nil { failure = error }
        hasFailedSync = true
        wakeEveryone()
        monitor.unlock()
        storeFailedSync()
    }

    /// Once more before a record is acknowledged that was under way when the sync failed: from then on it may not be missing.
    func storeFailedSync() {
        noteLock.withLock { _ in
            monitor.lock()
            let note = FailedSync(segment: live.last?.currentIndex ?? 0, slotCount: live.last?.nextSlot ?? 0, inFlight: inFlight + unrepaired)
            monitor.unlock()
            folder.noteFailedSync(note)
        }
    }

    /// Before any other thread knows the log. The note stays as it is until all that it is about was checked, written and synced
    /// again; while that fails the disk can be read, and not written.
    func endFailedSync() {
        do throws(SystemError) {
            for segment in dirty { try proveAndSync(segment) }
            // Names are written again with it.
            try currentState.store(folder.stateFile)
            try DurableFile.remove(folder.failedSyncFile)
        } catch { failure = error }
    }
}

extension Recovery {
    /// In the boot in which a sync failed, before anything is changed.
    func checkAfterFailedSync(_ found: [FoundSegment], _ note: FailedSync?, folder: LogFolder) throws(LogError) {
        let flushed = try flushedThrough(found)
        let buffer = AlignedBuffer(count: recordPayloadBytesMax)
        for (place, one) in found.enumerated() where one.seal == nil {
            let table = try asLogError { () throws(SystemError) in try SegmentTable(one.segment.file, one.header, geometry) }
            let end = table.endSlot
            var last = one.header.afterSequence
            var missing = 0
            for slot in 0..<end {
                guard let record = table.record(slot) else {
                    missing += 1
                    continue
                }
                try checkMissing(missing, one, slot, between: last, and: record.sequence, note)
                missing = 0
                last = record.sequence
                if record.sequence <= flushed { continue }
                guard try asLogError({ () throws(SystemError) in try one.segment.isWhole(record, buffer.bytes) }) else {
                    throw lost(one, slot, after: last - 1)
                }
            }
            let reserved = place + 1 < found.count ? Int(found[place + 1].header.previousSlotCount) : note?.segment == one.index ? note?.slotCount ?? 0 : 0
            try checkMissing(max(0, reserved - end), one, end, between: last, and: .max, note)
        }
        // Without its header the newest segment looks like a spare file.
        guard let note, note.segment > max(found.last?.index ?? 0, state.destagedSegment), note.slotCount > note.inFlight.count else { return }
        throw .damaged(path: folder.path, segment: note.segment, offset: 0, afterSequence: found.last?.header.afterSequence ?? state.destagedSequence, reason: Self.lostText)
    }

    /// Where nothing was noted, any may be of a write that was under way.
    private func checkMissing(_ count: Int, _ found: FoundSegment, _ slot: Int, between last: UInt64, and next: UInt64, _ note: FailedSync?) throws(LogError) {
        guard let note, count > note.inFlight.count(where: { $0 > last && $0 < next }) else { return }
        throw lost(found, max(0, slot - count), after: last)
    }

    private func lost(_ found: FoundSegment, _ slot: Int, after sequence: UInt64) -> LogError {
        damage(found, slot, after: sequence, Self.lostText)
    }

    private static let lostText =
        "a sync failed here, and a write that had been acknowledged did not reach the disk. What was flushed is there. Mend the storage and "
        + "restart this host: the log is then cut here, as after a power loss. Or restore the disk from its vault"
}
