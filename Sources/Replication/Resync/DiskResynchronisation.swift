// Resynchronisation of one disk: the image, held still at a sequence, is compared with the newest state in the vault, and what differs is sent.
// Order: the log lets go of what the vault lacks; freeze; compare and send; publish; the mark of the log; then the log keeps
// again; then the disk counts as done; then the image is let go of. A kill anywhere is gone on from: what is frozen stays
// frozen, what was sent is known, and what was published is recognised.

import BlockIO
package import ChangeLog
import DiskImage
package import Site
import Vault

extension DiskReplication {
    enum DueResynchronisation { case none, waits, isDue }

    /// Nothing waits while the log has all that the vault lacks: deltas go on until the hours come.
    func dueResynchronisation(_ disk: ProtectedDisk, _ folder: LogFolder) throws -> DueResynchronisation {
        guard let mark = try replicator.catalogue.resynchronisation(ofDisk: disk.name, at: disk.vaultID) else {
            // Left by a command that was killed, or overtaken by the end of the last one.
            try folder.endRelease(target: disk.vaultID)
            return .none
        }
        let hasBegun = try replicator.catalogue.replication(ofDisk: disk.name, at: disk.vaultID).phase == .resynchronisation
        if mark.isNow || hasBegun || disk.policy.resyncWindow.includes(.now) { return .isDue }
        return folder.isReleased(target: disk.vaultID) ? .waits : .none
    }

    /// Runs what needs the records after those the vault has. Where the log has lost them the disk is marked: only the owner recycles, and only
    /// what the vault has or what it was told to let go of.
    func sending<Value>(_ disk: ProtectedDisk, _ publisher: Publisher, _ folder: LogFolder, _ work: () throws -> Value) throws -> Value {
        let proven = publisher.state?.newestSequence ?? 0
        do {
            return try work()
        } catch LogError.recycled(_, _, let oldest) where oldest > proven {
            throw try lost(disk, folder, proven, "the log begins at sequence \(oldest), but the vault has the disk up to \(proven)")
        } catch let failure as AttemptFailure {
            // None of its segments is left.
            guard case LogError.recycled(_, proven, _) = failure.cause else { throw failure }
            throw try lost(disk, folder, proven, "the log has nothing after sequence \(proven), up to which the vault has the disk, but should have")
        }
    }

    private func lost(_ disk: ProtectedDisk, _ folder: LogFolder, _ proven: UInt64, _ reason: String) throws -> AttemptFailure {
        // Of several targets one may have lost them to the others while it got its first state.
        try markResynchronisation(disk, folder, replicator.catalogue, reason: reason, isNow: disk.targetCount > 1)
        return AttemptFailure(
            .mayPass, "resynchronisation required: \(reason)", remedy: "farshore resync \(disk.commandName) --now, or wait for the hours of its policy (\(disk.policy.resyncWindow.text))",
            cause: LogError.recycled(folder: folder.path, after: proven, oldest: proven))
    }

    func endResynchronisation(_ disk: ProtectedDisk, _ folder: LogFolder) throws {
        try folder.endRelease(target: disk.vaultID)
        try replicator.catalogue.endResynchronisation(ofDisk: disk.name, at: disk.vaultID)
    }

    func resynchronise(
        _ disk: ProtectedDisk, _ connection: VaultConnection, _ publisher: Publisher, _ folder: LogFolder
    ) throws {
        try refuseUsedLineage(disk, publisher, folder)
        let job = try replicator.catalogue.beginJob(.resynchronisation, disk: disk.name, vault: disk.namedVaultURL, steps: ["freeze", "compare", "publish", "release"])
        do {
            try connection.refuseMisplaced(publisher.disk, in: publisher.heads.group)
            // What is in the image until the freeze needs no room in the log.
            try folder.release(target: disk.vaultID)
            try setPhase(.resynchronisation, disk)
            try goingOnWithLaterStates { try carryOut(job, disk, connection, publisher, folder) }
            try job.succeed()
            try replicator.catalogue.record(.information, of: disk, "resynchronisation finished")
        } catch {
            try fail(job, error, disk, folder)
            throw error
        }
    }

    /// An older copy of the log would go on under the name of a history that the vault has: two would be mixed.
    private func refuseUsedLineage(_ disk: ProtectedDisk, _ publisher: Publisher, _ folder: LogFolder) throws {
        guard let state = publisher.state else { return }
        let lineage = try folder.readState().lineage.vaultID
        guard lineage != state.current?.id, state.lineages.contains(where: { $0.id == lineage }) || state.ended?.contains(lineage) == true else { return }
        throw Self.otherHistory("the log of \(disk.name) goes on with a history that the vault has left: an older copy of the log was put back", disk, publisher)
    }

    private func carryOut(_ job: RunningJob, _ disk: ProtectedDisk, _ connection: VaultConnection, _ publisher: Publisher, _ folder: LogFolder) throws {
        // Kept while the phase says so: what was sent before an interruption counts.
        let epoch = try publisher.heads.making { epoch throws(VaultError) in epoch }
        try setPhase(.resynchronisation, under: epoch, publisher, disk)
        var sequence: UInt64 = 0
        var frozenAt: UInt64 = 0
        try job.step("freeze") {
            sequence = try freeze(disk, publisher, folder)
            frozenAt = try folder.freezeTime() ?? Clock.wallNanoseconds()
            // A mark that was settled there says that the disk is replicated.
            try setPhase(.resynchronisation, under: epoch, publisher, disk)
            return "image held at sequence \(sequence)"
        }
        // Killed between the head and what follows it.
        if try !publisher.isWhole(at: sequence) {
            var root: MapRoot?
            var sizeBytes: UInt64 = 0
            try job.step("compare") {
                try connection.settleDoubtsOnce()
                let image = FrozenImage(disk: disk, owner: try replicator.owner(disk), folder: folder, sequence: sequence)
                let (found, size, detail) = try image.read { image in
                    guard let newest = try publisher.newestMap(epoch: epoch) else { throw VaultError.refused("the disk \(publisher.disk) has no state in the vault to compare with") }
                    // An image that was put in place of a larger one is sent as it is.
                    let base = newest.sizeBytes <= image.sizeBytes ? newest.root : MapRoot(level: newest.root.level, id: .zero)
                    let result = try ChangedChunks(
                        vault: publisher.vault, ledger: connection.ledger, epoch: epoch,
                        content: MappedContent(vault: publisher.vault, disk: publisher.disk, root: base, sizeBytes: newest.sizeBytes) { [ledger = connection.ledger] in try ledger.holds($0) },
                        work: ChunkWork(image: image, threads: ReplicationLimits.chunkThreads, stop: replicator.stop, progress: throttledProgress(job, disk), seen: learning)
                    ).run()
                    let root = try MapUpdate(vault: publisher.vault, epoch: epoch).replace(result.chunks, in: base, sizeBytes: image.sizeBytes)
                    return (root, image.sizeBytes, "\(result.chunks.count) of \(result.compared) chunks differ, \(result.sent) sent")
                }
                (root, sizeBytes) = (found, size)
                return detail
            }
            try job.step("publish") {
                guard let root else { return nil }
                try connection.refuseMisplaced(publisher.disk, in: publisher.heads.group)
                let log = try folder.readState()
                // A log that was made anew is a history of its own.
                try beginningAnew(disk) {
                    try publisher.publishing(madeUnder: epoch) { () throws(VaultError) in
                        if log.lineage.vaultID == publisher.state?.current?.id {
                            try publisher.publishResynchronised(sequence: sequence, root: root, timeMicros: frozenAt / 1000, sizes: log)
                        } else {
                            try publisher.publishInitial(lineage: log.lineage.vaultID, sequence: sequence, sizeBytes: sizeBytes, root: root, timeMicros: frozenAt / 1000)
                        }
                    }
                }
                return "point #\(sequence)"
            }
        }
        try job.step("release") {
            try noteProven(disk, publisher, folder)
            try endResynchronisation(disk, folder)
            try replicator.holds.letGo(disk, replicator.owner(disk))
            return nil
        }
    }

    /// Holds the image at a sequence above all that the vault has, or at the one that was published before a kill.
    private func freeze(_ disk: ProtectedDisk, _ publisher: Publisher, _ folder: LogFolder) throws -> UInt64 {
        let owner = try replicator.owner(disk)
        let newest = publisher.state?.highestSequence ?? 0
        if let frozen = try folder.readFreeze() {
            if try publisher.isWhole(at: frozen) { return try replicator.holds.hold(disk, owner) }
            if frozen <= newest { try owner.unfreeze() }
        }
        // Two histories under one lineage must not be mixed.
        if try folder.readState().lineage.vaultID == publisher.state?.current?.id { try settleMark(disk, publisher, folder) }
        if try owner.makeDurable() <= newest { try owner.cut() }
        var sequence = try replicator.holds.hold(disk, owner)
        if sequence <= newest, try owner.makeDurable() > newest {
            // Another lane was about to hold it, at a state that this vault has already: that one begins anew as well.
            try owner.unfreeze()
            sequence = try replicator.holds.hold(disk, owner)
        }
        guard sequence > newest else {
            try replicator.holds.letGo(disk, owner)
            throw Self.otherHistory("the log of \(disk.name) is at sequence \(sequence), but the vault has it up to \(newest): sequences are never used twice", disk, publisher)
        }
        return sequence
    }
}

/// Marks the disk and lets its log go of what the vault lacks; an event the first time.
package func markResynchronisation(_ disk: ProtectedDisk, _ folder: LogFolder, _ catalogue: Catalogue, reason: String, isNow: Bool = false) throws {
    if try catalogue.resynchronisation(ofDisk: disk.name, at: disk.vaultID) == nil { try catalogue.record(.warning, of: disk, "resynchronisation required: \(reason)") }
    try catalogue.markResynchronisation(ofDisk: disk.name, at: disk.vaultID, reason: reason, isNow: isNow)
    try folder.release(target: disk.vaultID)
}
