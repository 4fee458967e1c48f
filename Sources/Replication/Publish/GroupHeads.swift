// The heads of one group, written by this process: shared by the threads of all disks of the group, so that a group has
// one writer epoch and what several disks publish at the same time goes into one head. A head is read back before it
// counts; nothing is replicated before.

package import Vault
import Synchronization

package final class GroupHeads: Sendable {
    typealias Change = @Sendable (inout Head) -> Void

    package let vault: Vault
    package let group: VaultID
    /// Named in the heads; free text.
    let host: String

    private struct State {
        /// The newest head as it was last read from the vault.
        var head: Published<Head>?
        /// Set by the first publication.
        var claimed: Head?
        /// Something failed since `head` was read.
        var isDoubtful = false
    }

    /// A change that waits for its head.
    private final class Ticket: Sendable {
        let change: Change
        let result = Mutex<Result<Void, VaultError>?>(nil)

        init(_ change: @escaping Change) { self.change = change }
    }

    private let state: Mutex<State>
    private let waiting = Mutex<[Ticket]>([])
    /// One thread publishes at a time; it takes along what the others wait with.
    private let turn = Mutex<Void>(())

    init(vault: Vault, group: VaultID, host: String) throws(VaultError) {
        self.vault = vault
        self.group = group
        self.host = host
        state = Mutex(State(head: try vault.heads(group: group).newest()))
    }

    package var head: Published<Head>? { state.withLock { $0.head } }
    package var writerEpoch: UInt64? { state.withLock { $0.claimed?.writer.epoch } }

    /// After a failure: reads the head again. Fenced when another uploader took the group over meanwhile.
    func refreshIfNeeded() throws(VaultError) {
        try turn.withLock { (_) throws(VaultError) in
            guard state.withLock({ $0.isDoubtful }) else { return }
            let newest = try vault.heads(group: group).newest()
            if let epoch = writerEpoch, newest?.document.writer.epoch != epoch {
                throw .fenced("heads/\(group) has writer epoch \(newest?.document.writer.epoch ?? 0) of \(newest?.document.writer.host ?? "nobody"); this uploader has epoch \(epoch)")
            }
            state.withLock { state in
                state.head = newest
                state.isDoubtful = false
            }
        }
    }

    /// Raises the writer epoch with the first thing this uploader publishes: that fences the uploader before it. Only
    /// then, so that a look at an idle disk writes nothing. Returns the collection epoch it acknowledges.
    @discardableResult
    func claim() throws(VaultError) -> UInt32 {
        try turn.withLock { (_) throws(VaultError) in
            if let claimed = state.withLock({ $0.claimed }) { return claimed.collectionEpoch }
            let seen = head?.document.disks ?? []
            let published = try vault.heads(group: group).claim(host: host)
            state.withLock { $0.head = published }
            // What another uploader changed since it was looked at must be looked at first.
            guard published.document.disks.allSatisfy(seen.contains) else { throw .conflict(chain: "heads/\(group)") }
            state.withLock { $0.claimed = published.document }
            return published.document.collectionEpoch
        }
    }

    /// Returns when a head with the change in it was read back from the vault.
    func publish(_ change: @escaping Change) throws(VaultError) {
        try claim()
        let ticket = Ticket(change)
        waiting.withLock { $0.append(ticket) }
        try turn.withLock { (_) throws(VaultError) in
            if let result = ticket.result.withLock({ $0 }) { return try result.get() }
            let batch = waiting.withLock { waiting in
                defer { waiting = [] }
                return waiting
            }
            try publish(batch)
        }
    }

    private func publish(_ batch: [Ticket]) throws(VaultError) {
        let outcome: Result<Void, VaultError>
        state.withLock { $0.isDoubtful = true }
        do throws(VaultError) {
            let head = try vault.heads(group: group).update(epoch: writerEpoch ?? 0) { head in for ticket in batch { ticket.change(&head) } }
            state.withLock { state in
                state.head = head
                state.isDoubtful = false
            }
            outcome = .success(())
        } catch {
            outcome = .failure(error)
        }
        for ticket in batch { ticket.result.withLock { $0 = outcome } }
        try outcome.get()
    }
}
