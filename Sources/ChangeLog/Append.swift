// Appending a record: a place under the monitor, payload and header outside it, then the map entry (by the caller), then
// completion. The header is written after its payload, so after a kill a header never describes bytes that are not there.

package import BlockIO
import Glibc

/// A place in the log that one thread fills.
package struct Reservation {
    let segment: Segment
    let slot: Int
    package internal(set) var record: RecordHeader
    package let segmentIndex: UInt64

    package var sequence: UInt64 { record.sequence }
}

/// The bytes of a record in up to three pieces.
package struct RecordPayload {
    let head: UnsafeRawBufferPointer
    let body: UnsafeRawBufferPointer
    let tail: UnsafeRawBufferPointer

    package init(head: UnsafeRawBufferPointer, body: UnsafeRawBufferPointer, tail: UnsafeRawBufferPointer) {
        self.head = head
        self.body = body
        self.tail = tail
    }

    package init(_ body: UnsafeRawBufferPointer) {
        self.init(head: UnsafeRawBufferPointer(start: nil, count: 0), body: body, tail: UnsafeRawBufferPointer(start: nil, count: 0))
    }

    package static var none: RecordPayload { RecordPayload(UnsafeRawBufferPointer(start: nil, count: 0)) }

    var count: Int { head.count + body.count + tail.count }
    var checksum: UInt32 { crc32c(tail, seed: crc32c(body, seed: crc32c(head))) }
}

extension ChangeLog {
    /// Reserves a place for a record over whole blocks. `ownsRange`: the caller holds the range for a partial write.
    package func reserve(_ kind: RecordKind, diskOffset: UInt64, length: UInt64, ownsRange: Bool = false) throws(SystemError) -> Reservation {
        let wallNanoseconds = Clock.wallNanoseconds()
        let pages = kind == .write ? SegmentGeometry.pages(of: Int(length)) : 0
        guard pages <= geometry.pieceBytesMax / blockBytes + 2 else {
            throw SystemError(errno: EFBIG, operation: "append a record of \(length) bytes", path: folder.path)
        }
        monitor.lock()
        defer { monitor.unlock() }
        if !partialRanges.isEmpty, !ownsRange { waitForPartialRanges(diskOffset, length) }
        var segment = try segmentWithRoom(pages: pages, keepFree: true)
        // A partial write may have taken the blocks, and read them, while this one slept for room.
        while !partialRanges.isEmpty, !ownsRange, touchesPartialRange(diskOffset, length) {
            waitForPartialRanges(diskOffset, length)
            segment = try segmentWithRoom(pages: pages, keepFree: true)
        }
        let sequence = try sequencer.next()
        return take(segment, kind, sequence, diskOffset, length, pages, wallNanoseconds)
    }

    /// The caller holds the monitor and has seen that there is room.
    func take(
        _ segment: Segment, _ kind: RecordKind, _ sequence: UInt64, _ diskOffset: UInt64, _ length: UInt64, _ pages: Int,
        _ wallNanoseconds: UInt64
    ) -> Reservation {
        let record = RecordHeader(
            kind: kind, sequence: sequence, diskOffset: diskOffset, length: length, payloadPage: UInt32(segment.nextPage),
            payloadChecksum: 0, flushedSequence: durableThrough, wallNanoseconds: wallNanoseconds)
        let slot = segment.nextSlot
        segment.nextSlot += 1
        segment.nextPage += pages
        segment.lastSequence = sequence
        segment.inFlightCount += 1
        lastReserved = sequence
        inFlight.append(sequence)
        return Reservation(segment: segment, slot: slot, record: record, segmentIndex: segment.currentIndex)
    }

    /// Writes payload and header. When it throws, the place was made void and `complete` must not be called.
    package func write(_ place: Reservation, _ payload: RecordPayload) throws(SystemError) {
        do throws(SystemError) {
            var record = place.record
            if payload.count > 0 {
                try writePayload(place, payload)
                record.payloadChecksum = payload.checksum
            }
            try place.segment.writeSlot(place.slot, record)
        } catch {
            abort(place, because: error)
            throw error
        }
    }

    private func writePayload(_ place: Reservation, _ payload: RecordPayload) throws(SystemError) {
        let offset = SegmentGeometry.pageOffset(Int(place.record.payloadPage))
        if payload.head.isEmpty, payload.tail.isEmpty {
            try place.segment.file.write(payload.body, at: offset)
        } else {
            try place.segment.file.write(payload.head, payload.body, payload.tail, at: offset)
        }
    }

    /// The record is in the log and its map entry inserted: flushes, points and seals need not wait for it any more.
    package func complete(_ place: Reservation) {
        monitor.lock()
        if appendFailure != nil { appendFailure = nil }
        finish(place)
        let isNoted = hasFailedSync
        monitor.unlock()
        if isNoted { storeFailedSync() }
    }

    func finish(_ place: Reservation) {
        noteDirty(place.segment)
        place.segment.inFlightCount -= 1
        let wasOldest = removeInFlight(place.sequence)
        if wasOldest, sleeperCount > 0 { progress.wakeAll() }
        if place.segment.phase == .closing, place.segment.inFlightCount == 0 { chores.wakeAll() }
    }

    /// True when no older record is in flight: only then can somebody wait for just this one (see `waitForInFlight`).
    private func removeInFlight(_ sequence: UInt64) -> Bool {
        var wasOldest = true
        var position = inFlight.count
        for other in inFlight.indices {
            if inFlight[other] == sequence { position = other } else if inFlight[other] < sequence { wasOldest = false }
        }
        guard position < inFlight.count else { return false }
        inFlight.swapAt(position, inFlight.count - 1)
        inFlight.removeLast()
        return wasOldest
    }

    /// A place that will not be filled becomes a void record, so that recovery finds no hole.
    package func abort(_ place: Reservation, because cause: SystemError? = nil) {
        var void = place.record
        void.kind = .void
        void.diskOffset = 0
        void.length = 0
        var repairFailure: SystemError?
        do throws(SystemError) { try place.segment.writeSlot(place.slot, void) } catch { repairFailure = error }
        monitor.lock()
        if let cause { appendFailure = cause }
        if let repairFailure {
            unrepaired.append(place.sequence)
            if failure == nil { failure = repairFailure }
        }
        finish(place)
        monitor.unlock()
    }

    // MARK: - partial writes

    /// Takes the blocks of an unaligned write: until `releasePartialRange` nobody else gets a place that touches them, and
    /// everything that had a place before is complete, so the caller may read, merge and append. Partial writes exclude
    /// each other by their whole range, so none ever waits for another while it holds one.
    package func holdPartialRange(_ blocks: ClosedRange<UInt64>) {
        monitor.lock()
        while partialRanges.contains(where: { $0.overlaps(blocks) }) { sleep() }
        partialRanges.append(blocks)
        waitForInFlight(through: lastReserved)
        monitor.unlock()
    }

    package func releasePartialRange(_ blocks: ClosedRange<UInt64>) {
        monitor.lock()
        partialRanges.removeAll { $0 == blocks }
        if sleeperCount > 0 { progress.wakeAll() }
        monitor.unlock()
    }

    private func waitForPartialRanges(_ diskOffset: UInt64, _ length: UInt64) {
        while touchesPartialRange(diskOffset, length) { sleep() }
    }

    private func touchesPartialRange(_ diskOffset: UInt64, _ length: UInt64) -> Bool {
        let blocks = diskOffset / UInt64(blockBytes)...(diskOffset + max(length, 1) - 1) / UInt64(blockBytes)
        return partialRanges.contains { $0.overlaps(blocks) }
    }

    /// The monitor is held. Waits only for pwrites: whoever has a place waits for nobody.
    func waitForInFlight(through sequence: UInt64) {
        while inFlight.contains(where: { $0 <= sequence }) { sleep() }
    }

    // MARK: - room

    /// The active segment, or the next one, with room for a record. Waits while room is coming, throws ENOSPC when none is.
    func segmentWithRoom(pages: Int, keepFree: Bool) throws(SystemError) -> Segment {
        let slotsKept = keepFree ? SegmentGeometry.reservedSlots : 0
        let pagesKept = keepFree ? SegmentGeometry.reservedPages : 0
        var isWaiting = false
        defer { if isWaiting { options.roomWait?(false) } }
        while true {
            if let failure { throw SystemError(errno: EIO, operation: "append: \(failure)", path: folder.path) }
            if isStopping { throw SystemError(errno: ESHUTDOWN, operation: "append", path: folder.path) }
            if let active {
                let end = geometry.footerPage(recordCount: active.nextSlot + 1)
                if active.nextSlot + slotsKept < geometry.slotCount, active.nextPage + pages + pagesKept <= end { return active }
                if !spares.isEmpty { closeActive() }
            }
            if active == nil, let spare = takeSpare() {
                try activate(spare)
                continue
            }
            guard isRoomComing else {
                isStarved = true
                refusedAppends += 1
                throw SystemError(errno: ENOSPC, operation: "append: \(starvation)", path: folder.path)
            }
            chores.wakeAll()
            roomWaiterCount += 1
            if !isWaiting {
                isWaiting = true
                options.roomWait?(true)
            }
            sleep()
            roomWaiterCount -= 1
        }
    }

    /// No more records go to the active segment; the housekeeper seals it.
    func closeActive() {
        guard let segment = active else { return }
        segment.phase = .closing
        previousSlotCount = UInt32(segment.nextSlot)
        active = nil
        chores.wakeAll()
    }

    private func activate(_ segment: Segment) throws(SystemError) {
        let header = SegmentHeader(
            diskID: diskID, lineage: lineage, index: nextIndex, nonce: .random(in: 1 ... .max), afterSequence: lastReserved,
            previousSlotCount: previousSlotCount, segmentBytes: UInt32(geometry.segmentBytes), wallNanoseconds: Clock.wallNanoseconds())
        segment.begin(header)
        do throws(SystemError) { try segment.writeHeader() } catch {
            segment.leaveIndex()
            retired.append(segment)
            appendFailure = error
            throw error
        }
        segment.phase = .active
        noteDirty(segment)
        flushesInLastSegment = flushCount - flushCountAtActivation
        flushCountAtActivation = flushCount
        directory.enter(segment, index: nextIndex)
        live.append(segment)
        active = segment
        nextIndex += 1
        isStarved = false
        notePressure()
        chores.wakeAll()
    }
}
