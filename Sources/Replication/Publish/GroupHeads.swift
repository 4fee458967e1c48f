// The heads of one group, written by this process: shared by the threads of all disks of the group, so that a group has
// one writer epoch and what several disks publish at the same time goes into one head. A head is read back before it
// counts; nothing is replicated before.

import Glibc
import Synchronization
package import Vault

package final class GroupHeads: Sendable {
    typealias Change = @Sendable (inout Head) throws(VaultError) -> Void

    package let vault: Vault
    package let group: VaultID
    /// Named in the heads; free text.
    let host: String
    /// Of the same host: a group that is failed over to another one is not published here.
    let hostID: VaultID

    /// The catalog's collection epoch as it was last read.
    private let catalogEpoch: @Sendable () -> UInt32
    /// A disk of the group is being replicated for the first time, or resynchronised, under that epoch.
    private let keepsEpoch: @Sendable (UInt32) -> Bool

    private struct State {
        /// How many are making something under the epoch acknowledged now; changed while it is `turn` only, so that no
        /// head raises it meanwhile.
        var makers = 0
        /// The newest head as it was last read from the vault.
        var head: Published<Head>?
        /// Set by the first publication.
        var claimed: Head?
        /// Something failed since `head` was read.
        var isDoubtful = false
    }

    /// A change that waits for its head.
    private final class Ticket: Sendable {
        private let change: Change
        let result = Mutex<Result<Void, VaultError>?>(nil)

        init(_ change: @escaping Change) { self.change = change }

        /// One that cannot be made of this head keeps no other from it.
        func make(_ head: inout Head) {
            var changed = head
            do throws(VaultError) {
                try change(&changed)
                head = changed
                result.withLock { $0 = .success(()) }
            } catch {
                result.withLock { $0 = .failure(error) }
            }
        }
    }

    /// Of the group's disks that are published here; the cleaning's thread carries them on.
    let cleanings = Mutex<[VaultID: Cleaning]>([:])

    private let state: Mutex<State>
    private let waiting = Mutex<[Ticket]>([])
    /// One thread publishes at a time; it takes along what the others wait with.
    private let turn = Mutex<Void>(())

    init(
        vault: Vault, group: VaultID, host: String, hostID: VaultID, catalogEpoch: @escaping @Sendable () -> UInt32, keepsEpoch: @escaping @Sendable (UInt32) -> Bool
    ) throws(VaultError) {
        self.catalogEpoch = catalogEpoch
        self.keepsEpoch = keepsEpoch
        self.vault = vault
        self.group = group
        self.host = host
        self.hostID = hostID
        state = Mutex(State(head: try vault.heads(group: group).newest()))
    }

    package var head: Published<Head>? { state.withLock { $0.head } }
    package var writerEpoch: UInt64? { state.withLock { $0.claimed?.writer.epoch } }

    /// After a failure, also of an uploader of this host before: reads the head again. Fenced when another uploader took the group over meanwhile.
    /// Afterwards nothing that is put can take the place of what a head names whose answer was lost.
    func refreshIfNeeded() throws(VaultError) {
        try readAgainIfNeeded()
        if writerEpoch == nil, let number = head?.document.number, try vault.heads(group: group).isUnsettled(after: number) { try claim() }
    }

    private func readAgainIfNeeded() throws(VaultError) {
        try turn.withLock { (_) throws(VaultError) in
            guard state.withLock({ $0.isDoubtful }) else { return }
            let heads = vault.heads(group: group)
            let newest = if let epoch = writerEpoch { try heads.settled(epoch: epoch) } else { try heads.newest() }
            if let epoch = writerEpoch, newest?.document.writer.epoch != epoch, !isOwnLifeCycle(newest?.document.writer) {
                throw .fenced("heads/\(group) has writer epoch \(newest?.document.writer.epoch ?? 0) of \(newest?.document.writer.host ?? "nobody"); this uploader has epoch \(epoch)")
            }
            state.withLock { state in
                state.head = newest
                state.isDoubtful = false
            }
        }
    }

    /// A command of the life cycle on this host raised the epoch and let go of it (a failback that ended): no other uploader did. The group
    /// is claimed anew.
    private func isOwnLifeCycle(_ writer: Head.Writer?) -> Bool {
        guard let writer, writer.id == hostID, writer.isReleased != nil else { return false }
        state.withLock { $0.claimed = nil }
        return true
    }

    /// What was read last may be old: guests may have gone to another host and come back since.
    func doubt() { state.withLock { $0.isDoubtful = true } }

    /// Raises the writer epoch with the first thing this uploader publishes: that fences the uploader before it. Only
    /// then, so that a look at an idle disk writes nothing.
    func claim() throws(VaultError) {
        try turn.withLock { (_) throws(VaultError) in
            guard state.withLock({ $0.claimed }) == nil else { return }
            // What is being made under the epoch acknowledged before must not be named under a later one.
            guard state.withLock({ $0.makers }) == 0 else { throw .conflict(chain: "heads/\(group)") }
            let seen = head?.document.disks ?? []
            let published = try vault.heads(group: group).claim(host: host, id: hostID, keepsEpoch: keepsEpoch) { head throws(VaultError) in
                if head.lifeCycle?.lets(hostID) == false { throw .fenced("heads/\(group): guests do not write on this host any more") }
            }
            state.withLock { $0.head = published }
            // What another uploader changed since it was looked at must be looked at first.
            guard published.document.disks.allSatisfy(seen.contains) else { throw .conflict(chain: "heads/\(group)") }
            state.withLock { $0.claimed = published.document }
        }
    }

    // MARK: Collection epochs

    /// How long one who is about to make something waits for the others, so that a newer epoch can be acknowledged.
    private static let makersWaitMilliseconds = 2_000

    /// Claims the group and runs `body`, which may name in a head what it made under the epoch it is given: that epoch is
    /// acknowledged until it returns.
    func making<Value>(_ body: (UInt32) throws(VaultError) -> Value) throws(VaultError) -> Value {
        try claim()
        var waited = 0
        while try !acknowledge(), waited < Self.makersWaitMilliseconds, !keepsEpoch(head?.document.collectionEpoch ?? 0) {
            usleep(20_000)
            waited += 20
        }
        let epoch = turn.withLock { _ in
            state.withLock { state in
                state.makers += 1
                return state.head?.document.collectionEpoch ?? 1
            }
        }
        defer { turn.withLock { _ in state.withLock { $0.makers -= 1 } } }
        return try body(epoch)
    }

    /// Publishes a head that acknowledges the catalog's epoch, unless something is being made under the one before; false
    /// when it is not acknowledged. Only a group that this uploader, or one of this host before it, writes.
    @discardableResult
    func acknowledge() throws(VaultError) -> Bool {
        let epoch = catalogEpoch()
        guard let head = head?.document, head.collectionEpoch < epoch else { return true }
        guard head.writer.host == host || writerEpoch != nil else { return true }
        try claim()
        return try turn.withLock { (_) throws(VaultError) in
            let (acknowledged, makers) = state.withLock { ($0.head?.document.collectionEpoch ?? 0, $0.makers) }
            if acknowledged >= epoch { return true }
            guard makers == 0, !keepsEpoch(acknowledged) else { return false }
            try publish([Ticket { $0.collectionEpoch = max($0.collectionEpoch, epoch) }])
            return true
        }
    }

    /// Returns when a head with the change in it was read back from the vault.
    func publish(_ change: @escaping Change) throws(VaultError) {
        try claim()
        let ticket = Ticket(change)
        waiting.withLock { $0.append(ticket) }
        try turn.withLock { (_) throws(VaultError) in
            if ticket.result.withLock({ $0 }) == nil {
                let batch = waiting.withLock { waiting in
                    defer { waiting = [] }
                    return waiting
                }
                try publish(batch)
            }
            try ticket.result.withLock { $0 }?.get()
        }
    }

    private func publish(_ batch: [Ticket]) throws(VaultError) {
        state.withLock { $0.isDoubtful = true }
        do throws(VaultError) {
            let heads = vault.heads(group: group)
            let head = try heads.update(epoch: writerEpoch ?? 0) { head in for ticket in batch { ticket.make(&head) } }
            // One that changed nothing took no number: what was in doubt still is.
            let isDoubtful = try heads.isUnsettled(after: head.document.number)
            state.withLock { state in
                state.head = head
                state.isDoubtful = isDoubtful
            }
        } catch {
            for ticket in batch { ticket.result.withLock { $0 = .failure(error) } }
            throw error
        }
    }
}
