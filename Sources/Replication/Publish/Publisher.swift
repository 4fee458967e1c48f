// Publishes what was uploaded of one disk: a step of its history, then the group's head that names it, each verified by
// reading it back. Nothing counts as replicated before. One a disk and run of the uploader, used by the disk's thread only.

package import ChangeLog
import Synchronization
package import Vault

package final class Publisher {
    /// What one publication adds: all after the state's sequence.
    package struct Addition: Equatable, Sendable {
        package var segments: [SegmentEntry] = []
        package var points: [RecoveryPoint] = []
        /// What the log has the end of only.
        package var merged: [MergedInterval] = []
        /// All records up to here are in `segments`.
        package var sequence: UInt64

        package var payloadBytes: UInt64 { segments.reduce(0) { $0 + $1.payloadBytes } }
        package var records: UInt64 { segments.reduce(0) { $0 + $1.records } }
    }

    package let disk: VaultID
    package let heads: GroupHeads
    let vault: Vault
    private let history: HistoryWriter
    private let cleaning: Cleaning
    private let announce: (ManifestRef) -> Void

    /// `vault` is that of the heads, as the disk's data goes into it. `announce` is told of the newest manifest before a head that names it is put.
    init(
        disk: VaultID, heads: GroupHeads, vault: Vault, limits: HistoryWriter.Limits = HistoryWriter.Limits(), announce: @escaping (ManifestRef) -> Void
    ) {
        self.announce = announce
        self.disk = disk
        self.heads = heads
        self.vault = vault
        history = HistoryWriter(vault: vault, disk: disk, limits: limits)
        cleaning = Cleaning(vault: vault, disk: disk)
        heads.cleanings.withLock { $0[disk] = cleaning }
    }

    /// The newest head as it was last read from the vault.
    package var head: Published<Head>? { heads.head }
    package var state: DiskState? { head?.document.state(of: disk) }
    package var writerEpoch: UInt64? { heads.writerEpoch }

    /// Publishes what was made under the collection epoch `epoch`. When a newer one was acknowledged meanwhile, a collection may have
    /// deleted some of it: then nothing is published, and it is made again.
    package func publishing(madeUnder epoch: UInt32, _ body: () throws(VaultError) -> Void) throws(VaultError) {
        // No epoch is acknowledged until this returns.
        try heads.making { current throws(VaultError) in
            guard current == epoch else { throw .conflict(chain: "heads/\(heads.group)") }
            try body()
        }
    }

    /// The first state of a disk, or of a history that shares nothing with those in the vault: they stay readable.
    package func publishInitial(lineage: VaultID, sequence: UInt64, sizeBytes: UInt64, root: MapRoot, timeMicros: UInt64) throws(VaultError) {
        let found = state
        if let newest = found?.highestSequence, newest >= sequence {
            throw .refused("the vault has the disk \(disk) up to sequence \(newest), and its log is at \(sequence): sequences are never used twice")
        }
        let point = RecoveryPoint(sequence: sequence, timeMicros: timeMicros, kind: .crash, tag: nil)
        var next = try history.start(lineage: lineage, sequence: sequence, sizeBytes: sizeBytes, root: root, point: point)
        if var before = found {
            before.noteSize(sizeBytes, after: [])
            next.grown = before.grown
            next.lineages.insert(contentsOf: before.lineages, at: 0)
            next.oldestSequence = before.oldestSequence
        }
        announceNewest(of: next)
        let since = heads.group == disk ? nil : DiskState.notYet
        try heads.publish { [disk, next] (head) throws(VaultError) in
            var state = head.state(of: disk) ?? next
            try head.refuseUnless(state, follows: found?.current, or: next)
            state.follow(next)
            state.since = since
            state.movedTo = nil
            head.replicate(state)
        }
    }

    /// Begins `lineage` with the state of the current one at `sequence`.
    package func branch(to lineage: VaultID, at sequence: UInt64) throws(VaultError) {
        try heads.making { epoch throws(VaultError) in
            guard let state else { throw .refused("the disk \(disk) has no state in the vault to branch from") }
            try publish(try history.branch(state, to: lineage, at: sequence, epoch: epoch), after: state.current)
        }
    }

    /// Copies that cleaning made are named only where the target has them still.
    func keepCopies(where holds: (ChunkRef) throws -> Bool) throws { try cleaning.keep(where: holds) }

    /// `log` knows since when the disk has which size.
    package func publish(_ addition: Addition, sizes log: LogState) throws(VaultError) {
        try heads.making { epoch throws(VaultError) in
            guard var state else { throw .refused("the disk \(disk) has no initial state in the vault") }
            state.noteSizes(of: log, through: addition.sequence)
            let moved = cleaning.ready
            let next = try history.extend(
                state, through: addition.sequence, segments: addition.segments, points: addition.points,
                merged: addition.merged.map { Manifest.MergedInterval(after: $0.after, through: $0.through) }, moved: moved, epoch: epoch)
            try publish(next, after: state.current)
            cleaning.note(fullness: history.fullness(of: next), moved: next.current?.full == state.current?.full ? 0 : moved.count)
        }
    }

    /// The map of the newest state in the vault, and the size of that.
    func newestMap(epoch: UInt32) throws(VaultError) -> (root: MapRoot, sizeBytes: UInt64)? {
        guard let state, state.current != nil else { return nil }
        return (try history.newestMap(of: state, epoch: epoch), state.sizeBytes)
    }

    /// Whether the newest state in the vault is the one that was made from the image at `sequence`.
    func isWhole(at sequence: UInt64) throws(VaultError) -> Bool { try state.map { state throws(VaultError) in try history.isWhole(state, at: sequence) } ?? false }

    /// The state at `sequence`, whose map was found by comparing; the history goes on, the points of the group go on without the disk until
    /// it has caught up.
    func publishResynchronised(sequence: UInt64, root: MapRoot, timeMicros: UInt64, sizes log: LogState) throws(VaultError) {
        guard var state else { throw .refused("the disk \(disk) has no state in the vault to go on from") }
        let before = state.current
        state.noteSizes(of: log, through: sequence)
        var next = try history.resynchronise(state, to: RecoveryPoint(sequence: sequence, timeMicros: timeMicros, kind: .crash, tag: nil), root: root)
        next.since = heads.group == disk ? nil : DiskState.notYet
        announceNewest(of: next)
        try heads.publish { [next] (head) throws(VaultError) in
            guard var state = head.state(of: next.disk) else { return }
            try head.refuseUnless(state, follows: before, or: next)
            state.follow(next)
            state.since = next.since
            head.replicate(state)
        }
    }

    /// The disk has caught up: from now on the points of its group need it.
    func join() throws(VaultError) {
        guard state?.since == DiskState.notYet else { return }
        try heads.publish { [disk] in $0.join(disk) }
    }

    private func announceNewest(of next: DiskState) {
        if let current = next.current { announce(current.newest) }
    }

    /// `before`: what `next` was made from. The head that was read last may be a later one by now: other disks of the group are published too.
    private func publish(_ next: DiskState, after before: LineageState?) throws(VaultError) {
        announceNewest(of: next)
        try heads.publish { (head) throws(VaultError) in
            guard var state = head.state(of: next.disk) else { return }
            try head.refuseUnless(state, follows: before, or: next)
            state.follow(next)
            head.replicate(state)
        }
    }
}

extension Head {
    /// The writer epoch tells uploaders apart, not two that run on from one memory (a host resumed from a snapshot, or cloned): of these the later
    /// one would take back what the earlier one published. `next` itself is there already where the answer to its head was lost.
    fileprivate func refuseUnless(_ found: DiskState, follows before: LineageState?, or next: DiskState) throws(VaultError) {
        // The newest manifest says which state it is; retention may change the rest meanwhile.
        let newest = found.current?.newest.hash
        guard newest == before?.newest.hash || newest == next.current?.newest.hash else { throw .conflict(chain: "heads/\(group)") }
    }

    fileprivate mutating func replicate(_ state: DiskState) {
        set(state)
        lifeCycle?.noteReplicated(state.disk)
    }
}

extension DiskState {
    /// The log knows since when the disk has which size.
    fileprivate mutating func noteSizes(of log: LogState, through sequence: UInt64) {
        let earlier = log.growths.filter { $0.through >= newestSequence && $0.through < sequence }
        noteSize(log.diskBytes(at: sequence), after: earlier.map { GrownSize(through: $0.through, sizeBytes: $0.diskBytes) })
    }
}
