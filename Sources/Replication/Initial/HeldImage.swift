// For how long a lane may hold the image still. A disk of several targets must not fill its log because one of them takes long
// to get its first state, or fails at it: the image is let go of, and what was sent counts when the work goes on with a later state.

import BlockIO
import ChangeLog
import Site

/// The image was let go of (LogPressure), because the log waits to be merged: it is to be held again, at a later state.
struct ImageWanted: Error, CustomStringConvertible {
    var description: String { "the image was let go of, because the log waits to be merged" }
}

extension DiskReplication {
    func goingOnWithLaterStates(_ work: () throws -> Void) throws {
        while true {
            do { return try work() } catch is ImageWanted {
                if replicator.stop.isStopping { throw Stopped() }
            }
        }
    }

    /// A target that stays away must not make the log hold all that guests write until it is back. What was sent counts at the next beginning.
    func letGoOfImage(_ disk: ProtectedDisk, _ folder: LogFolder) throws {
        guard try replicator.holds.isHeld(by: disk), let frozen = try folder.freezeTime() else { return }
        let isInitial = try replicator.catalogue.replication(ofDisk: disk.name, at: disk.vaultID).phase == .initial
        // Of a single target the log keeps all in any case until it has its first state.
        guard disk.targetCount > 1 || !isInitial else { return }
        let now = Clock.wallNanoseconds()
        let fill = fill()
        // A clock that was set ends a freeze early, and costs no more than a look at the image.
        let isLong = now < frozen || now - frozen > ReplicationLimits.heldImageSecondsMax * 1_000_000_000
        guard isLong || fill.pressure != .low || disk.targetCount > 1 && (fill.isMergeAwaited || disk.isPaused) else { return }
        try replicator.holds.letGo(disk, replicator.owner(disk))
        let work = isInitial ? "initial replication" : "resynchronisation"
        try replicator.catalogue.record(
            .warning, of: disk,
            "the \(work) let go of the image, so that the log makes room; it begins anew when the target answers, and sends nothing again that is there")
    }
}
