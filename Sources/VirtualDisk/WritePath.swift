// Writing: one record for each piece of at most 1 MiB. Blocks covered only in part are completed with what they held, in
// the same record, while nobody else may touch them.

package import BlockIO
import ChangeLog
import CLinux
import Glibc

extension VirtualDisk {
    package func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, sequenceSlot: UnsafeMutablePointer<UInt64>?
    ) throws(SystemError) {
        try checkRange(offset, UInt64(buffer.count), "write")
        var done = 0
        while done < buffer.count {
            let count = min(log.geometry.pieceBytesMax, buffer.count - done)
            let piece = UnsafeRawBufferPointer(rebasing: buffer[done..<done + count])
            // The request is in the log only when its last piece is.
            let slot = done + count == buffer.count ? sequenceSlot : nil
            try writePiece(piece, offset + UInt64(done), slot)
            done += count
        }
    }

    package func zero(
        at offset: UInt64, length: UInt64, mayFree: Bool, sequenceSlot: UnsafeMutablePointer<UInt64>?
    ) throws(SystemError) {
        try checkRange(offset, length, "zero")
        guard length > 0 else { return }
        let end = offset + length
        let first = min((offset + UInt64(blockBytes) - 1) / UInt64(blockBytes) * UInt64(blockBytes), end)
        let last = end == sizeBytes ? end : max(end / UInt64(blockBytes) * UInt64(blockBytes), first)
        let hasMiddle = last > first
        if offset < first { try writeZeros(offset, first, hasMiddle || last < end ? nil : sequenceSlot) }
        if last < end { try writeZeros(last, end, hasMiddle ? nil : sequenceSlot) }
        guard hasMiddle else { return }
        let place = try log.reserve(mayFree ? .discard : .zero, diskOffset: first, length: last - first)
        try fill(place, .none, sequenceSlot)
    }

    /// A part of one block.
    private func writeZeros(_ start: UInt64, _ end: UInt64, _ slot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        let zeros = AlignedBuffer(count: Int(end - start))
        try writePiece(UnsafeRawBufferPointer(zeros.bytes), start, slot)
    }

    func checkRange(_ offset: UInt64, _ length: UInt64, _ verb: StaticString) throws(SystemError) {
        guard offset <= sizeBytes, length <= sizeBytes - offset else {
            throw SystemError(errno: EINVAL, operation: "\(verb) \(length) bytes at \(offset) of a disk of \(sizeBytes)", path: name)
        }
    }

    private func writePiece(
        _ piece: UnsafeRawBufferPointer, _ offset: UInt64, _ slot: UnsafeMutablePointer<UInt64>?
    ) throws(SystemError) {
        let end = offset + UInt64(piece.count)
        guard offset % UInt64(blockBytes) == 0, end % UInt64(blockBytes) == 0 || end == sizeBytes else {
            return try writePartial(piece, offset, end, slot)
        }
        let place = try log.reserve(.write, diskOffset: offset, length: UInt64(piece.count))
        try fill(place, RecordPayload(piece), slot)
    }

    /// Read, merge and append, with the blocks held from the read to the map insert.
    private func writePartial(
        _ piece: UnsafeRawBufferPointer, _ offset: UInt64, _ end: UInt64, _ slot: UnsafeMutablePointer<UInt64>?
    ) throws(SystemError) {
        let firstBlock = offset / UInt64(blockBytes)
        let lastBlock = (end - 1) / UInt64(blockBytes)
        let start = firstBlock * UInt64(blockBytes)
        let stop = min((lastBlock + 1) * UInt64(blockBytes), sizeBytes)
        let edges = AlignedBuffer(count: 2 * blockBytes)
        let head = UnsafeMutableRawBufferPointer(rebasing: edges.bytes[..<Int(offset - start)])
        let tail = UnsafeMutableRawBufferPointer(rebasing: edges.bytes[blockBytes..<blockBytes + Int(stop - end)])
        log.holdPartialRange(firstBlock...lastBlock)
        defer { log.releasePartialRange(firstBlock...lastBlock) }
        try read(into: head, at: start)
        try read(into: tail, at: end)
        let place = try log.reserve(.write, diskOffset: start, length: stop - start, ownsRange: true)
        try fill(place, RecordPayload(head: UnsafeRawBufferPointer(head), body: piece, tail: UnsafeRawBufferPointer(tail)), slot)
    }

    /// Slot note, payload, header, map entry, completion: in this order (see `Append.swift` and `ServedDisk`).
    private func fill(_ place: Reservation, _ payload: RecordPayload, _ slot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        if let slot { farshore_store_release(slot, place.sequence) }
        try log.write(place, payload)
        map.insert(place.record, segment: place.segmentIndex)
        log.complete(place)
    }
}
