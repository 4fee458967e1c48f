// Publishes what was uploaded of one disk: a step of its history, then the head that names it, each verified by reading
// it back. Nothing counts as replicated before. One a disk and run of the uploader, used by the disk's thread only.

package import Vault

package final class Publisher {
    /// What one publication adds: all after the state's sequence.
    package struct Addition: Equatable, Sendable {
        package var segments: [SegmentEntry] = []
        package var points: [RecoveryPoint] = []
        /// All records up to here are in `segments`.
        package var sequence: UInt64

        package var payloadBytes: UInt64 { segments.reduce(0) { $0 + $1.payloadBytes } }
        package var records: UInt64 { segments.reduce(0) { $0 + $1.records } }
    }

    let vault: Vault
    package let disk: VaultID
    /// Named in the head; free text.
    private let host: String
    private let history: HistoryWriter
    private var claimed: Head?
    /// Something failed since `head` was read.
    private var isDoubtful = false
    /// The newest head as it was last read from the vault.
    package private(set) var head: Published<Head>?

    package init(vault: Vault, disk: VaultID, host: String) throws(VaultError) {
        self.vault = vault
        self.disk = disk
        self.host = host
        history = HistoryWriter(vault: vault, disk: disk)
        head = try vault.heads(group: disk).newest()
    }

    package var state: DiskState? { head?.document.state(of: disk) }
    package var writerEpoch: UInt64? { claimed?.writer.epoch }

    /// After a failure: reads the head again. Fenced when another uploader took the disk over meanwhile.
    package func refreshIfNeeded() throws(VaultError) {
        guard isDoubtful else { return }
        let newest = try vault.heads(group: disk).newest()
        if let claimed, newest?.document.writer.epoch != claimed.writer.epoch {
            throw .fenced("heads/\(disk) has writer epoch \(newest?.document.writer.epoch ?? 0) of \(newest?.document.writer.host ?? "nobody"); this uploader has epoch \(claimed.writer.epoch)")
        }
        head = newest
        isDoubtful = false
    }

    /// The first state of a disk, or of a history that shares nothing with those in the vault: they stay readable.
    package func publishInitial(lineage: VaultID, sequence: UInt64, sizeBytes: UInt64, root: MapRoot, timeMicros: UInt64) throws(VaultError) {
        let point = RecoveryPoint(sequence: sequence, timeMicros: timeMicros, kind: .crash, tag: nil)
        var next = try history.start(lineage: lineage, sequence: sequence, sizeBytes: sizeBytes, root: root, point: point)
        if let before = state {
            next.lineages.insert(contentsOf: before.lineages, at: 0)
            next.oldestSequence = before.oldestSequence
        }
        try publish(next)
    }

    /// Begins `lineage` with the state of the current one at `sequence`.
    package func branch(to lineage: VaultID, at sequence: UInt64) throws(VaultError) {
        let epoch = try claim().collectionEpoch
        guard let state else { throw .refused("the disk \(disk) has no state in the vault to branch from") }
        try publish(try history.branch(state, to: lineage, at: sequence, epoch: epoch))
    }

    package func publish(_ addition: Addition) throws(VaultError) {
        let epoch = try claim().collectionEpoch
        guard let state else { throw .refused("the disk \(disk) has no initial state in the vault") }
        try publish(try history.extend(state, through: addition.sequence, segments: addition.segments, points: addition.points, epoch: epoch))
    }

    private func publish(_ next: DiskState) throws(VaultError) {
        let writer = try claim().writer
        isDoubtful = true
        head = try vault.heads(group: disk).update(epoch: writer.epoch) { $0.set(next) }
        isDoubtful = false
    }

    /// Raises the writer epoch with the first thing this uploader publishes: that fences the uploader before it. Only
    /// then, so that a look at an idle disk writes nothing.
    private func claim() throws(VaultError) -> Head {
        if let claimed { return claimed }
        let seen = state
        let published = try vault.heads(group: disk).claim(host: host)
        head = published
        guard published.document.state(of: disk) == seen else {
            throw .conflict(chain: "heads/\(disk)")
        }
        claimed = published.document
        return published.document
    }
}
