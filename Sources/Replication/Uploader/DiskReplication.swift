// One disk's replication to one of its targets in one run of the uploader: each attempt brings the vault up to what is durable in the log.
// Order within an attempt: initial state if there is none; else a branch if the log began a new lineage; then the
// records, published in steps; after each step the mark that lets the owner recycle. Used by the lane's thread only.

import BlockIO
import ChangeLog
import DiskImage
import Site
import Vault

final class DiskReplication {
    let replicator: Replicator
    /// How far the log is filled up on account of this target.
    let fill: @Sendable () -> LogFill
    private let pace = UploadPace()
    private var publisher: Publisher?
    private var lane: UploadLane?
    /// The machine that the vault says it is a disk of.
    private var machine = ""
    /// Of `content.disk`.
    private(set) var content: ContentWatch?
    var watch = AnomalyWatch()
    /// Sent and not looked at yet: an attempt may have failed before it was published.
    private var unwatched = ContentMap.Change()
    private var isUnwatchedTold = false

    init(_ replicator: Replicator, fill: @escaping @Sendable () -> LogFill) {
        self.replicator = replicator
        self.fill = fill
    }

    /// Returns when all that was durable in the log at the beginning is verified in the vault; false when the disk waits for the hours of its
    /// resynchronisation, and until then for nothing else.
    func attempt(_ disk: ProtectedDisk) throws -> Bool {
        do {
            if disk.takenOver == nil { try refuseWhileTakenOver(disk) }
            return try attemptOrFenced(disk)
        } catch VaultError.fenced(let text) {
            try replicator.catalogue.setTakenOver(text, of: disk)
            let connection = try replicator.connections.connection(for: disk)
            guard let left = try LeftDisk(disk, connection, of: replicator) else { throw VaultError.fenced(text) }
            try replicator.catalogue.setTakenOver(left.failure.message, of: disk)
            // Taken back, it is claimed anew.
            publisher = nil
            throw left.failure
        } catch let error as VaultError where error.showsLoss {
            // What the target had once it may have no more.
            try replicator.catalogue.doubtChunks(vault: disk.vaultID)
            throw error
        }
    }

    /// A disk that another host has at one target is not sent to the others from here: its newer points there would be of a disk that guests have left.
    private func refuseWhileTakenOver(_ disk: ProtectedDisk) throws {
        guard disk.targetCount > 1, let other = try replicator.catalogue.targets(ofDisk: disk.name).first(where: { $0.vaultID != disk.vaultID && $0.takenOver != nil }) else { return }
        let message = "nothing of \(disk.name) is sent to \(disk.vaultURL), because another host has it at \(other.vaultURL): \(other.takenOver ?? "")"
        throw AttemptFailure(
            .mayPass, message, remedy: "docs/operating/failover.md; it goes on when \(other.vaultURL) takes the disk from here again, or is no target any more: farshore target remove \(disk.name) --vault \(other.vaultURL)",
            cause: VaultError.fenced(message))
    }

    /// What is in the way may be of another uploader that took the disk over: the newest head says so.
    private func attemptOrFenced(_ disk: ProtectedDisk) throws -> Bool {
        do { return try attemptNow(disk) } catch VaultError.conflict(let place) {
            publisher?.heads.doubt()
            try publisher?.heads.refreshIfNeeded()
            throw VaultError.conflict(chain: place)
        }
    }

    private func attemptNow(_ disk: ProtectedDisk) throws -> Bool {
        let connection = try replicator.connections.connection(for: disk)
        try connection.refreshIfOld()
        let hadPublisher = publisher != nil
        let publisher = try currentPublisher(disk, connection)
        // Before anything is sent; each claim asks again.
        if publisher.head?.document.lifeCycle?.lets(publisher.heads.hostID) == false { throw VaultError.fenced("\(disk.name): guests do not write on this host any more") }
        if disk.takenOver != nil {
            // This target has said otherwise. Only then the others count: were two that are marked to wait for each other, none would ever be asked.
            try replicator.catalogue.setTakenOver(nil, of: disk)
            try refuseWhileTakenOver(disk)
        }
        try watchContent(of: disk)
        let folder = LogFolder(disk.logFolder)
        let relation = LineageRelation(local: try folder.readState().lineages, vault: publisher.state?.current)
        // A new target holds nothing back in the log until it has its first state: its file stays as it is.
        let due = publisher.state?.current == nil ? .none : try dueResynchronisation(disk, folder)
        if relation == .unrelated, publisher.state?.current == nil {
            try replicateInitially(disk, connection, publisher, folder)
        } else if due == .waits {
            return false
        } else if relation == .unrelated, due == .none, hadPublisher {
            publisher.heads.doubt()
            self.publisher = nil
            return try attemptNow(disk)
        } else if relation == .unrelated, due == .none {
            throw Self.otherHistory("the vault's history of \(disk.name) is not that of this log: another host has replicated a copy of this disk, or one of this host's logs is lost", disk, publisher)
        } else {
            if case .branches(let sequence) = relation { try follow(at: sequence, disk, publisher, folder) }
            if due == .isDue { try resynchronise(disk, connection, publisher, folder) } else if case .continues = relation { try settleMark(disk, publisher, folder) }
        }
        if try folder.readFreeze() != nil { try replicator.holds.letGo(disk, replicator.owner(disk)) }
        try replicateDelta(disk, connection, publisher, folder)
        // Where nothing is written it is calm too.
        if watch.isRaised { try look(at: ContentMap.Change(), after: publisher.state?.current?.sequence ?? 0, disk, publisher) }
        // It has all that was there when the attempt began.
        try publisher.join()
        try publisher.heads.acknowledge()
        try placement(connection).releaseStrangers(publisher.heads, group: try replicator.catalogue.consistencyGroup(ofDisk: disk.name))
        return true
    }

    /// The log has begun a new history, which shares the vault's up to `sequence`.
    private func follow(at sequence: UInt64, _ disk: ProtectedDisk, _ publisher: Publisher, _ folder: LogFolder) throws {
        try refuseLost(after: sequence, disk, publisher, folder)
        try refuseUsedNumbers(after: sequence, disk, publisher, folder)
        let lineage = try folder.readState().lineage
        try publisher.branch(to: lineage.vaultID, at: sequence)
        try replicator.catalogue.record(.warning, of: disk, "the log began a new history at sequence \(sequence); replication follows it")
        try noteProven(disk, publisher, folder)
    }

    /// What the vault got was durable here, so no power loss takes it: log and image were put back to an older state while they were in use, and
    /// the next boot took that for one. The log of another host's recovery disk has no mark of what the vault has.
    private func refuseLost(after sequence: UInt64, _ disk: ProtectedDisk, _ publisher: Publisher, _ folder: LogFolder) throws {
        guard let current = publisher.state?.current, sequence < current.sequence,
            try folder.readMark(target: disk.vaultID)?.lineage.vaultID == current.id
        else { return }
        throw Self.otherHistory(
            "the log of \(disk.name) has nothing of what came after sequence \(sequence), but the vault has it up to \(current.sequence): an older copy of log and image was put back",
            disk, publisher)
    }

    /// What is written on a history that goes on below what the vault has is numbered above all of it (a failover to an older point). Where it is
    /// not, the site's directory was put back to an older state too.
    private func refuseUsedNumbers(after sequence: UInt64, _ disk: ProtectedDisk, _ publisher: Publisher, _ folder: LogFolder) throws {
        guard let highest = publisher.state?.highestSequence, highest > sequence else { return }
        if try firstNumber(after: sequence, folder) == nil { try replicator.owner(disk).cut() }
        guard let first = try firstNumber(after: sequence, folder), first <= highest else { return }
        throw Self.otherHistory(
            "the log of \(disk.name) has lost what came after sequence \(sequence) and gives numbers from \(first) on a second time, but the vault has it up to \(highest): an older copy of log and image was put back",
            disk, publisher)
    }

    private func firstNumber(after sequence: UInt64, _ folder: LogFolder) throws -> UInt64? {
        var first: UInt64?
        let reader = try LogReader(folder)
        let note = { (record: RecordHeader) in first = min(first ?? .max, record.sequence) }
        // Where the log begins later, nothing is said of who gave the numbers before.
        do { try reader.headers(after: sequence, note) } catch LogError.recycled(_, _, let oldest) { try reader.headers(after: oldest, note) }
        return first
    }

    /// A mark that a crash came before is set; one that somebody else overtook is an alarm.
    func settleMark(_ disk: ProtectedDisk, _ publisher: Publisher, _ folder: LogFolder) throws {
        guard let current = publisher.state?.current else { return }
        let mark = try folder.readMark(target: disk.vaultID)
        if mark?.sequence == current.sequence { return }
        let marked = try mark?.sequence(in: folder.readState().lineages) ?? 0
        let shared = SharedHistory(vault: publisher.vault, disk: publisher.disk, reader: try LogReader(folder))
        guard try marked >= current.sequence || folder.publishing(target: disk.vaultID) == current.newest.hash.description || isShared(shared, current, after: marked) else {
            throw Self.otherHistory("the vault's history of \(disk.name) after sequence \(marked) is not that of this log: another host has replicated a copy of this disk", disk, publisher)
        }
        try noteProven(disk, publisher, folder)
    }

    /// Not where the log lost the records that would show it.
    private func isShared(_ shared: SharedHistory, _ current: LineageState, after marked: UInt64) throws -> Bool {
        do { return try shared.includes(current, after: marked) } catch LogError.recycled { return false }
    }

    /// Never mended by itself: which of the two is right, a person knows.
    static func otherHistory(_ message: String, _ disk: ProtectedDisk, _ publisher: Publisher) -> AttemptFailure {
        AttemptFailure(
            .forGood, message,
            remedy: "unprotect the copy that is wrong; if this one is right: copy its disk.raw out of the mount first, for its newest writes may be in the log alone, then farshore unmount DIR, farshore accept \(disk.name) --discard-log, and farshore resync \(disk.commandName) --now",
            cause: VaultError.fenced("heads/\(publisher.disk) was continued by another host"))
    }

    /// The publisher of this run, which keeps the writer epoch. After a failed attempt it reads the head again, and stops
    /// for good when another uploader took over meanwhile.
    private func currentPublisher(_ disk: ProtectedDisk, _ connection: VaultConnection) throws -> Publisher {
        let group = try replicator.catalogue.consistencyGroup(ofDisk: disk.name)
        // A disk protected anew under the same name is another disk, maybe of another vault; and its group may be another.
        if let publisher, publisher.disk.description == disk.id, publisher.heads.vault === connection.vault {
            try publisher.heads.refreshIfNeeded()
            if publisher.heads.group.description == group.id, machine == disk.machine { return publisher }
        }
        guard let id = VaultID(disk.id) else {
            throw SiteError(.catalogueDamaged, "the disk \(disk.name) has the impossible id \(disk.id)", remedy: "protect the disk again")
        }
        let lane = UploadLane(disk, replicator.limits)
        let made = Publisher(disk: id, heads: try placement(connection).heads(of: disk, in: group), vault: lane.vault(connection.vault), limits: replicator.history) { newest in
            do throws(SystemError) { try LogFolder(disk.logFolder).notePublishing(manifest: newest.hash.description, target: disk.vaultID) } catch {
                // Then the records tell, as long as the log has them; the mark that follows is written to the same folder, and its failure is told.
            }
        }
        try made.heads.refreshIfNeeded()
        (publisher, self.lane, machine) = (made, lane, disk.machine)
        return made
    }

    private func placement(_ connection: VaultConnection) -> Placement {
        Placement(connection: connection, catalogue: replicator.catalogue, host: replicator.host)
    }

    // MARK: Initial replication

    private func replicateInitially(_ disk: ProtectedDisk, _ connection: VaultConnection, _ publisher: Publisher, _ folder: LogFolder) throws {
        let job = try replicator.catalogue.beginJob(.initialReplication, disk: disk.name, vault: disk.namedVaultURL, steps: ["freeze", "send", "publish", "release"])
        do {
            try setPhase(.initial, disk)
            try goingOnWithLaterStates { try carryOutInitial(job, disk, connection, publisher, folder) }
            try job.succeed()
            try setPhase(.delta, disk)
            try replicator.catalogue.record(.information, of: disk, "initial replication finished")
        } catch {
            try fail(job, error, disk, folder)
            throw error
        }
    }

    /// What stopped it is no failure of the disk where a person did.
    func fail(_ job: RunningJob, _ error: any Error, _ disk: ProtectedDisk, _ folder: LogFolder) throws {
        if error is Stopped { return try job.fail("the uploader was stopped", remedy: "farshore upload") }
        if error is Paused { return try job.fail("\(error)", remedy: "farshore resume \(disk.commandName)") }
        let failure = AttemptFailure(error)
        try job.fail(failure.message, remedy: failure.remedy)
        try letGoOfImage(disk, folder)
    }

    private func carryOutInitial(
        _ job: RunningJob, _ disk: ProtectedDisk, _ connection: VaultConnection, _ publisher: Publisher, _ folder: LogFolder
    ) throws {
        try connection.refuseMisplaced(publisher.disk, in: publisher.heads.group)
        // While the catalogue says that it is replicated for the first time, the epoch stays: what was sent before an interruption counts.
        let epoch = try publisher.heads.making { epoch throws(VaultError) in epoch }
        try setPhase(.initial, under: epoch, publisher, disk)
        var sequence: UInt64 = 0
        var frozenAt: UInt64 = 0
        try job.step("freeze") {
            sequence = try replicator.holds.hold(disk, replicator.owner(disk))
            frozenAt = try folder.freezeTime() ?? Clock.wallNanoseconds()
            return "image held at sequence \(sequence)"
        }
        var root: MapRoot?
        var sizeBytes: UInt64 = 0
        try job.step("send") {
            try connection.settleDoubtsOnce()
            root = try FrozenImage(disk: disk, owner: replicator.owner(disk), folder: folder, sequence: sequence).read { image in
                sizeBytes = image.sizeBytes
                return try InitialReplication(
                    vault: publisher.vault, ledger: connection.ledger, epoch: epoch,
                    work: ChunkWork(image: image, threads: ReplicationLimits.chunkThreads, stop: replicator.stop, progress: throttledProgress(job, disk), seen: learning)
                ).run()
            }
            return nil
        }
        try job.step("publish") {
            guard let root else { return nil }
            try connection.refuseMisplaced(publisher.disk, in: publisher.heads.group)
            // Read while frozen: a power loss before the freeze began a lineage that is the current one now.
            let lineage = try folder.readState().lineage
            try beginningAnew(disk) {
                try publisher.publishing(madeUnder: epoch) { () throws(VaultError) in
                    try publisher.publishInitial(lineage: lineage.vaultID, sequence: sequence, sizeBytes: sizeBytes, root: root, timeMicros: frozenAt / 1000)
                }
            }
            try noteProven(disk, publisher, folder)
            return "point #\(sequence)"
        }
        try job.step("release") {
            // Before the image is let go of: from there on the log keeps for this target what comes after.
            try endResynchronisation(disk, folder)
            try replicator.holds.letGo(disk, replicator.owner(disk))
            return nil
        }
    }

    func throttledProgress(_ job: RunningJob, _ disk: ProtectedDisk) -> @Sendable (UInt64, UInt64) throws -> Void {
        let gate = ProgressGate()
        return { [progress = replicator.progress, holds = replicator.holds, catalogue = replicator.catalogue] done, total in
            if try !holds.isHeld(by: disk) { throw ImageWanted() }
            progress(disk.name, done, total)
            guard gate.opens(isLast: done == total) else { return }
            try job.progress(doneBytes: done, totalBytes: total)
            // At its end it is shorter to go on.
            if done < total, try catalogue.findDisk(disk.name, at: disk.vaultID)?.isPaused == true { throw Paused() }
        }
    }

    /// A state that an earlier attempt made of the image at the same sequence, and no head names, may be in the way for ever: then the
    /// image is let go of, and the next attempt takes a later sequence.
    func beginningAnew(_ disk: ProtectedDisk, _ publish: () throws -> Void) throws {
        do { try publish() } catch VaultError.conflict(let place) where place.contains("/manifests/") {
            try replicator.holds.letGo(disk, replicator.owner(disk))
            try replicator.owner(disk).cut()
            throw AttemptFailure(
                .mayPass, "\(place) holds what an earlier attempt made otherwise; it begins anew at a later sequence, and sends no chunk again",
                remedy: "it is tried again by itself", cause: VaultError.conflict(chain: place))
        }
    }

    /// What was sent under the epoch of another phase is not known to stay.
    func setPhase(_ phase: ReplicationState.Phase, _ disk: ProtectedDisk) throws(SiteError) {
        try change(disk) { state in
            guard state.phase != phase else { return }
            (state.phase, state.keptEpoch) = (phase, nil)
        }
    }

    /// From here on, also over a restart, the group's heads acknowledge no later epoch until what is sent now was published.
    func setPhase(_ phase: ReplicationState.Phase, under epoch: UInt32, _ publisher: Publisher, _ disk: ProtectedDisk) throws(SiteError) {
        try change(disk) { ($0.phase, $0.keptEpoch) = (phase, ReplicationState.KeptEpoch(epoch: epoch, group: publisher.heads.group.description)) }
    }

    private func change(_ disk: ProtectedDisk, _ change: (inout ReplicationState) -> Void) throws(SiteError) {
        let found = try replicator.catalogue.replication(ofDisk: disk.name, at: disk.vaultID)
        var state = found
        change(&state)
        if state != found { try replicator.catalogue.setReplication(state, ofDisk: disk.name, at: disk.vaultID) }
    }

    // MARK: Delta replication

    private func replicateDelta(_ disk: ProtectedDisk, _ connection: VaultConnection, _ publisher: Publisher, _ folder: LogFolder) throws {
        var through = try replicator.owner(disk).makeDurable()
        guard let current = publisher.state?.current else { return }
        guard through >= current.sequence else {
            throw AttemptFailure(
                .forGood, "the log of \(disk.name) ends at sequence \(through), but the vault has it up to \(current.sequence): an older copy of log and image was put back",
                remedy: "if this copy is the one that counts: farshore unmount DIR, farshore accept \(disk.name) --discard-log, and farshore resync \(disk.commandName) --now; the points stay in the vault",
                cause: VaultError.rolledBack(disk.name))
        }
        var after = current.sequence
        if after < through { try refuseUsedNumbers(after: after, disk, publisher, folder) }
        var tries = 0
        while after < through {
            if replicator.stop.isOver { throw Stopped() }
            let reader = try LogReader(folder)
            let delta = DeltaUpload(
                vault: publisher.vault, disk: publisher.disk, lineage: current.id, reader: reader, pace: pace,
                stop: replicator.stop, seen: { self.note($0, $1) }, sent: { self.noteSent($0, current.id, disk, folder) })
            let addition: Publisher.Addition
            do {
                guard let sent = try sending(disk, publisher, folder, { try delta.send(after: after, through: through, try: tries) }) else { return }
                if let rate = pace.bytesPerSecond { lane?.note(bytesPerSecond: rate) }
                try publisher.keepCopies { try connection.ledger.holds($0) }
                try publisher.publish(sent, sizes: reader.state)
                addition = sent
            } catch VaultError.conflict(let place) where place.hasPrefix("disks/") && tries < ReplicationLimits.mergedTriesMax {
                if try reader.merged().isEmpty {
                    guard place.contains("/manifests/") else { throw VaultError.conflict(chain: place) }
                    // An earlier attempt made a full one of this state that no head names, its map naming other copies of the same blocks, or
                    // made under another epoch. A later state has a name of its own.
                    try replicator.owner(disk).cut()
                    through = try replicator.owner(disk).makeDurable()
                }
                tries += 1
                continue
            }
            try noteMerged(addition.merged, disk)
            try noteProven(disk, publisher, folder)
            try look(at: unwatched, after: after, disk, publisher)
            unwatched = ContentMap.Change()
            after = addition.sequence
        }
        content?.storeIfOld(replicator.clock.now())
    }

    private func noteMerged(_ merged: [MergedInterval], _ disk: ProtectedDisk) throws {
        guard !merged.isEmpty else { return }
        let text = merged.map(\.description).joined(separator: ", ")
        try replicator.catalogue.record(.information, disk: disk.name, "the vault has the end of what the log had merged: \(text); no point lies between them")
    }

    // MARK: Anomalies

    private func watchContent(of disk: ProtectedDisk) throws {
        guard disk.policy.anomaly != .off else {
            content = nil
            if try replicator.catalogue.warnings(ofDisk: disk.name, at: disk.vaultID).contains(where: { $0.kind == .anomaly }) { try replicator.catalogue.takeAway(.anomaly, of: disk) }
            return
        }
        guard content?.disk != disk.id || content?.diskBytes != disk.sizeBytes else { return }
        do {
            content = try ContentWatch(disk, replicator.catalogue.site)
            isUnwatchedTold = false
        } catch {
            // Replication goes on without it, and the next attempt tries again.
            content = nil
            guard !isUnwatchedTold else { return }
            isUnwatchedTold = true
            try replicator.catalogue.record(.warning, of: disk, "encryption would not be noticed: \(error)")
        }
        watch = try resumedWatch(of: disk)
        unwatched = ContentMap.Change()
    }

    var learning: (@Sendable (UInt64, UnsafeRawBufferPointer) -> Void)? {
        guard let map = content?.map else { return nil }
        return { offset, bytes in _ = map.write(bytes, at: offset) }
    }

    private func note(_ record: RecordHeader, _ payload: UnsafeRawBufferPointer) {
        switch record.kind {
        case .write: if let content { unwatched.add(content.map.write(payload, at: record.diskOffset)) }
        case .zero, .discard: content?.map.clear(at: record.diskOffset, length: record.length)
        case .point, .void: break
        }
    }

    /// For writes that wait for room.
    private func noteSent(_ sequence: UInt64, _ lineage: VaultID, _ disk: ProtectedDisk, _ folder: LogFolder) {
        guard let lineage = LogID(hex: lineage.description) else { return }
        do throws(SystemError) { try folder.noteSending(ReplicatedMark(sequence: sequence, lineage: lineage), target: disk.vaultID) } catch {
            // The objects are there all the same; the mark that follows is written to the same folder, and its failure is told.
        }
    }

    /// What the head that was just read back proves: noted for `status`, and in the log so that its owner may recycle.
    func noteProven(_ disk: ProtectedDisk, _ publisher: Publisher, _ folder: LogFolder) throws {
        guard let head = publisher.head, let current = publisher.state?.current, let lineage = LogID(hex: current.id.description) else { return }
        // The name may be another disk's by now, with a log in the same folder.
        guard try replicator.catalogue.disk(named: disk.name, at: disk.vaultID).id == disk.id else {
            throw SiteError(.diskNotFound, "\(disk.name) was released while it was replicated", remedy: "farshore status")
        }
        try folder.storeMark(ReplicatedMark(sequence: current.sequence, lineage: lineage), target: disk.vaultID)
        var state = try replicator.catalogue.replication(ofDisk: disk.name, at: disk.vaultID)
        state.phase = .delta
        state.lineage = current.id.description
        state.provenSequence = current.sequence
        state.provenAtNanoseconds = Clock.wallNanoseconds()
        state.headNumber = head.document.number
        state.writerEpoch = head.document.writer.epoch
        try replicator.catalogue.setReplication(state, ofDisk: disk.name, at: disk.vaultID)
    }
}

extension VaultError {
    /// The target does not have what it had.
    fileprivate var showsLoss: Bool {
        switch self {
        case .rolledBack, .missing: true
        default: false
        }
    }
}
