// Where a group stands between protection, failover and failback: `lifeCycle` of its newest head (docs/formats/vault.md
// section 8). In the vault, because the site that is left must know it without the one that is gone.

package struct LifeCycle: Codable, Equatable, Sendable {
    package enum State: String, Codable, Sendable, CaseIterable {
        /// `active` writes, its uploader replicates.
        case replicating
        /// `active` was shut down for a planned failover and has sent everything: `points`.
        case prepared
        /// `target` has claimed the group and makes the recovery disks.
        case failingOver
        /// Guests write on `active`, which is the target now; another point can still be chosen.
        case failedOver
        /// As before, for good. Not replicated until it is reprotected.
        case committed
    }

    /// Stands for a host that uploaded before heads named their writer's id.
    package static let unknownHost = VaultID(high: 0, low: 0)

    package enum Kind: String, Codable, Sendable { case planned, unplanned }

    /// The state of one disk that a failover begins with.
    package struct Point: Codable, Equatable, Sendable {
        package let disk: VaultID
        package let lineage: VaultID
        package let sequence: UInt64

        package init(disk: VaultID, lineage: VaultID, sequence: UInt64) {
            self.disk = disk
            self.lineage = lineage
            self.sequence = sequence
        }
    }

    package var state: State
    /// The host on which guests write.
    package var active: VaultID
    /// The host on which the group was first protected: what failback goes to.
    package var home: VaultID
    package var target: VaultID?
    /// From `failingOver` on: the host on which guests wrote before.
    package var former: VaultID?
    /// The random id of the failover that is going on, or was the last one.
    package var run: VaultID?
    package var kind: Kind?
    package var points: [Point]?
    /// Of the last change; a label.
    package var timeMicros: UInt64

    package init(
        state: State, active: VaultID, home: VaultID, target: VaultID? = nil, former: VaultID? = nil, run: VaultID? = nil, kind: Kind? = nil, points: [Point]? = nil,
        timeMicros: UInt64
    ) {
        self.former = former
        self.state = state
        self.active = active
        self.home = home
        self.target = target
        self.run = run
        self.kind = kind
        self.points = points
        self.timeMicros = timeMicros
    }

    /// The disk's uploader goes on from the state that its failover began with.
    package mutating func noteReplicated(_ disk: VaultID) {
        guard state == .replicating else { return }
        let left = (points ?? []).filter { $0.disk != disk }
        points = left.isEmpty ? nil : left
    }

    /// Whether the uploader of that host may publish.
    package func lets(_ host: VaultID?) -> Bool { (state == .replicating || state == .prepared) && host == active }
}
