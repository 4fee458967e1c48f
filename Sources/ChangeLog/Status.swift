// What a log says of itself, and whether a record reached it.

package import BlockIO
import Synchronization

/// Why writes get ENOSPC.
package struct Starvation: Equatable, Sendable, CustomStringConvertible {
    package enum Cause: Sendable {
        /// No new segment can be made: the filesystem is full or fails, or descriptors ran out.
        case noSegment
        case notReplicated
        case notMerged
    }

    package let cause: Cause
    package let description: String
}

package struct LogStatus: Equatable, Sendable {
    package var fileBytes: UInt64
    package var budgetBytes: UInt64
    package var liveSegments: Int
    /// Log bytes that the image does not hold yet.
    package var undestagedBytes: UInt64
    /// Bytes of segments that wait for a target, wholly or in part.
    package var unreplicatedBytes: UInt64
    package var lastSequence: UInt64
    package var durableSequence: UInt64
    package var destagedSequence: UInt64
    /// The lowest of all targets' marks; nil without targets.
    package var replicatedSequence: UInt64?
    /// Set when appends fail until the log is opened again.
    package var failure: SystemError?
    /// Why the last write failed; nil once one succeeded again.
    package var appendFailure: SystemError?
    /// Set while writes get ENOSPC.
    package var starvation: Starvation?
    /// Writes refused for want of room since the log was opened.
    package var refusedAppends: UInt64
    /// Writes wait for room that is coming.
    package var isAwaitingRoom: Bool
    /// What a target lacks and gets the end of only, rising and apart.
    package var merged: [MergedInterval]
    /// Recovery points lost that way since the log was opened.
    package var mergedPoints: UInt64
    /// Why the last merge failed.
    package var mergeFailure: String?
}

extension ChangeLog {
    package var status: LogStatus {
        let state = currentState
        monitor.lock()
        defer { monitor.unlock() }
        let undestaged = live.filter { $0.currentIndex > destagedSegment }.reduce(0) { $0 + $1.usedBytes }
        return LogStatus(
            fileBytes: UInt64(fileCount) * UInt64(geometry.segmentBytes), budgetBytes: budgetBytes,
            liveSegments: live.count, undestagedBytes: undestaged,
            unreplicatedBytes: UInt64(live.count { $0.lastSequence > replicatedThrough }) * UInt64(geometry.segmentBytes), lastSequence: lastReserved, durableSequence: durableThrough,
            destagedSequence: state.destagedSequence, replicatedSequence: state.targets.isEmpty ? nil : replicatedThrough, failure: failure,
            appendFailure: appendFailure,
            starvation: isStarved && !isRoomComing ? starvation : nil, refusedAppends: refusedAppends,
            isAwaitingRoom: roomWaiterCount > 0 && isRoomComing, merged: unsentMerges, mergedPoints: merging.lostPoints, mergeFailure: merging.failure)
    }

    /// The files of segments with records, oldest first: removed in this order they leave a log that can be opened.
    package var liveFiles: [String] {
        monitor.lock()
        defer { monitor.unlock() }
        return live.map { $0.file.path }
    }

    /// Whether a record with this sequence reached the log. Asked after recovery by whoever finds a request of a killed
    /// process; what is older than the log's oldest segment was in a sealed one.
    package func holdsRecord(sequence: UInt64) throws(SystemError) -> Bool {
        // Numbers of this process are its own to know.
        guard sequence <= lastAtOpening else { return false }
        if let known = unsealedAtOpening.holds(sequence) { return known }
        monitor.lock()
        let oldest = live.first?.header?.afterSequence ?? lastReserved
        let segment = live.last { $0.header.map { $0.afterSequence < sequence } ?? false }
        let end = lastReserved
        // Kept from being recycled while its table is read: a record that is not found is written once more.
        segment?.pins.add(1, ordering: .sequentiallyConsistent)
        monitor.unlock()
        defer { segment?.pins.subtract(1, ordering: .releasing) }
        guard sequence > oldest else { return true }
        // A record that a newer one overwrites may have been left out: it was there, as one of a segment that was recycled.
        if segment?.header?.merge != nil { return true }
        guard sequence <= end, let segment, let header = segment.header else { return false }
        let table = try SegmentTable(segment.file, header, geometry)
        return (0..<geometry.slotCount).contains { slot in
            table.record(slot).map { $0.sequence == sequence && $0.kind != .void } ?? false
        }
    }
}
