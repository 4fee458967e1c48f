// Recovery points: a number N, one for all disks that share it. Cutting holds no write: it takes N under the logs'
// monitors, writes the point's records, and only then waits for records that had their place before.

package import BlockIO
import Glibc

extension ChangeLog {
    /// Cuts a point over `logs` (of one process) and returns its number. The records are in the logs, not yet durable.
    /// Everything acknowledged before the call is at or below the number, nothing issued after the return is. `isAppConsistent` is
    /// told the point's time and asked when the number is taken, with the logs' monitors held: a machine that goes on before that makes no such point.
    package static func cutPoint(_ logs: [ChangeLog], tag: String, isAppConsistent: (_ wallNanoseconds: UInt64) -> Bool = { _ in false }) throws(SystemError) -> UInt64 {
        let tagBytes = Array(tag.utf8)
        guard tagBytes.count <= pointTagBytesMax else {
            throw SystemError(errno: EINVAL, operation: "use a tag of \(tagBytes.count) bytes, the limit is \(pointTagBytesMax)", path: "point")
        }
        // One order of locking for all cuts.
        let ordered = logs.sorted { ($0.diskID.high, $0.diskID.low) < ($1.diskID.high, $1.diskID.low) }
        let places = try reservePoint(ordered, tagBytes: tagBytes.count, isAppConsistent)
        var failure: SystemError?
        // All of the point's own records first: while one has its place and is not written, flushes of its log wait, and they
        // must not wait for a slow write of another disk.
        for (log, place) in zip(ordered, places) {
            // Where one of the records could not be written the point is none: those that are there already are listed nowhere.
            if failure != nil {
                log.abort(place)
                continue
            }
            do throws(SystemError) { try log.writePoint(place, tagBytes) } catch { failure = error }
        }
        for (log, place) in zip(ordered, places) { log.waitForRecords(before: place.sequence) }
        if let failure { throw failure }
        return places.first?.sequence ?? 0
    }

    private static func reservePoint(_ logs: [ChangeLog], tagBytes: Int, _ isAppConsistent: (UInt64) -> Bool) throws(SystemError) -> [Reservation] {
        let pages = SegmentGeometry.pages(of: tagBytes)
        // Room first, in every log: a number must not appear in some of them only. Making room may wait, so it is asked
        // for one log at a time, and seen again with all of them locked.
        while true {
            for log in logs { try log.makeRoomForPoint(pages: pages) }
            for log in logs { log.monitor.lock() }
            defer { for log in logs.reversed() { log.monitor.unlock() } }
            guard let first = logs.first else { return [] }
            let segments = logs.compactMap { $0.active.flatMap { segment in segment.hasRoom(pages: pages) ? segment : nil } }
            // Closed while another log made room: its files may belong to its next owner by now.
            if let closed = logs.first(where: \.isStopping) { throw SystemError(errno: ESHUTDOWN, operation: "cut a point", path: closed.folder.path) }
            guard segments.count == logs.count, logs.allSatisfy({ $0.failure == nil }) else { continue }
            let sequence = try first.sequencer.next()
            // With the number, not before room was made: what was written meanwhile is in the point.
            let wallNanoseconds = Clock.wallNanoseconds()
            let isAppConsistent = isAppConsistent(wallNanoseconds)
            return zip(logs, segments).map { log, segment in
                var place = log.take(segment, .point, sequence, 0, UInt64(tagBytes), pages, wallNanoseconds)
                place.record.isAppConsistent = isAppConsistent
                return place
            }
        }
    }

    private func makeRoomForPoint(pages: Int) throws(SystemError) {
        monitor.lock()
        defer { monitor.unlock() }
        _ = try segmentWithRoom(pages: pages, keepFree: false)
    }

    private func waitForRecords(before sequence: UInt64) {
        monitor.lock()
        waitForInFlight(through: sequence)
        monitor.unlock()
    }

    private func writePoint(_ place: Reservation, _ tag: [UInt8]) throws(SystemError) {
        var failure: SystemError?
        tag.withUnsafeBytes { bytes in
            do throws(SystemError) { try write(place, RecordPayload(bytes)) } catch { failure = error }
        }
        if let failure { throw failure }
        complete(place)
    }
}

extension Segment {
    fileprivate func hasRoom(pages: Int) -> Bool {
        nextSlot < geometry.slotCount && nextPage + pages <= geometry.footerPage(recordCount: nextSlot + 1)
    }
}
