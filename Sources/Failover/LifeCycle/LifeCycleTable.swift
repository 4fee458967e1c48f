// The life cycle of a machine or replication group as a pure state machine: which command may run in which state on which host, what
// follows, and why not. docs/operating/failover.md shows the same table cell by cell; a test compares them. I/O is elsewhere.

package import Vault

package enum LifeCycleCommand: String, CaseIterable, Sendable {
    case prepare = "failover prepare"
    case run = "failover run"
    case runPlanned = "failover run --planned"
    case changePoint = "failover change-point"
    case commit = "failover commit"
    case cancel = "failover cancel"
    /// The host that failed over is lost for good.
    case cancelLost = "failover cancel --lost"
    case reprotect = "reprotect"
    case failbackStart = "failback start"
    case failbackComplete = "failback complete"
    case failbackCancel = "failback cancel"
    case release = "failover release"
    case test = "failover test"
}

/// What the host a command runs on is to the unit.
package enum LifeCyclePlace: String, CaseIterable, Sendable {
    /// Guests write here (replicating), or did until it was shut down for a failover (prepared).
    case active
    /// Where the unit was first protected, while guests write elsewhere.
    case home
    /// Where the failover goes or went.
    case target
    /// Where guests wrote before the failover.
    case former
    case other

    /// Those a state knows.
    package static func all(in state: LifeCycle.State) -> [LifeCyclePlace] {
        switch state {
        case .replicating, .prepared: [.active, .home, .other]
        case .failingOver, .failedOver, .committed: [.target, .former, .other]
        }
    }

    /// `protectsHere`: this host has the unit's disks as their source, which decides where the vault does not name hosts.
    package init(of host: VaultID, in lifeCycle: LifeCycle?, protectsHere: Bool) {
        guard let lifeCycle else {
            self = protectsHere ? .active : .other
            return
        }
        let isHome = lifeCycle.home == host || (lifeCycle.home == LifeCycle.unknownHost && protectsHere)
        switch lifeCycle.state {
        case .replicating, .prepared:
            self = lifeCycle.active == host ? .active : isHome ? .home : .other
        case .failingOver, .failedOver, .committed:
            self = lifeCycle.target == host ? .target : lifeCycle.former == host || (lifeCycle.former == LifeCycle.unknownHost && protectsHere) ? .former : .other
        }
    }
}

/// Why a command is refused, and what to do. The names stand in the cells of the table.
package enum LifeCycleRefusal: String, CaseIterable, Sendable {
    case notActive = "not active"
    case isActive = "is active"
    case notPrepared = "not prepared"
    case nothingFailedOver = "nothing failed over"
    case notHome = "not home"
    case isStopped = "is stopped"
    case underWay = "under way"
    case otherTarget = "other target"
    case notYetOver = "not yet over"
    case notCommitted = "not committed"
    case notReprotected = "not reprotected"
    case isCommitted = "is committed"
    case isTarget = "is target"

    package var reason: String {
        switch self {
        case .notActive: "guests write on another host"
        case .isActive: "guests write on this host"
        case .notPrepared: "the active host was not shut down and did not say that it has sent everything"
        case .nothingFailedOver: "nothing is failed over"
        case .notHome: "this host was not the one that first protected it"
        case .isStopped: "the active host is shut down for a planned failover"
        case .underWay: "a failover is under way"
        case .otherTarget: "another host has failed it over"
        case .notYetOver: "the failover has not ended yet"
        case .notCommitted: "the failover is not committed"
        case .notReprotected: "the failover is committed, but nothing is replicated from the new side yet"
        case .isCommitted: "the failover is committed: that cannot be taken back"
        case .isTarget: "this is the host that failed it over, and it is not lost"
        }
    }

    package func remedy(_ unit: String) -> String {
        switch self {
        case .notActive: "run it on the active host: farshore failover show \(unit) names it"
        case .isActive: "run it on the host that takes over"
        case .notPrepared: "farshore failover prepare \(unit) on the active host; where that is lost: farshore failover run \(unit) without --planned, on the home host after farshore failover release \(unit)"
        case .nothingFailedOver: "farshore failover run \(unit)"
        case .notHome: "run it on the home host, or fail over here: farshore failover run \(unit)"
        case .isStopped: "farshore failback complete \(unit) goes on, farshore failover cancel \(unit) on the active host takes it back"
        case .underWay: "wait for it, or on the host that it goes to: farshore failover run \(unit) continues, farshore failover cancel \(unit) takes it back"
        case .otherTarget: "run it there (farshore failover show \(unit) names it); if that host is lost for good: farshore failover cancel \(unit) --lost"
        case .notYetOver: "farshore failover run \(unit) continues it"
        case .notCommitted: "farshore failover commit \(unit), then farshore reprotect \(unit)"
        case .notReprotected: "farshore reprotect \(unit) on the host that it was failed over to"
        case .isCommitted: "farshore reprotect \(unit), then farshore failback start \(unit) on the home host"
        case .isTarget: "farshore failover cancel \(unit)"
        }
    }
}

package enum LifeCycleDecision: Equatable, Sendable {
    /// Allowed; the state when it is done. The same state: it can be repeated, or changes nothing in the vault.
    case next(LifeCycle.State)
    case refused(LifeCycleRefusal)

    /// A cell of the table.
    package var text: String {
        switch self {
        case .next(let state): state.rawValue
        case .refused(let refusal): "no: \(refusal.rawValue)"
        }
    }

    /// `place` is one that the state knows. A run passes through `failingOver`.
    package init(_ command: LifeCycleCommand, in state: LifeCycle.State, on place: LifeCyclePlace) {
        switch state {
        case .replicating: self = Self.whileReplicating(command, place)
        case .prepared: self = Self.whilePrepared(command, place)
        case .failingOver: self = Self.whileFailingOver(command, place)
        case .failedOver: self = Self.whenFailedOver(command, place)
        case .committed: self = Self.whenCommitted(command, place)
        }
    }

    private static func whileReplicating(_ command: LifeCycleCommand, _ place: LifeCyclePlace) -> LifeCycleDecision {
        let isActive = place == .active
        return switch command {
        case .prepare: isActive ? .next(.prepared) : .refused(.notActive)
        case .run: isActive ? .refused(.isActive) : .next(.failedOver)
        case .runPlanned: .refused(isActive ? .isActive : .notPrepared)
        // Undoes what an interrupted prepare, run or cancel left on this host.
        case .cancel, .test: .next(.replicating)
        case .changePoint, .commit, .cancelLost: .refused(.nothingFailedOver)
        // Ends one that was interrupted.
        case .reprotect: isActive ? .next(.replicating) : .refused(.notActive)
        case .failbackStart: isActive ? .refused(.isActive) : place == .home ? .next(.replicating) : .refused(.notHome)
        case .failbackComplete: .refused(isActive ? .isActive : place == .home ? .notPrepared : .notHome)
        case .failbackCancel: isActive ? .refused(.isActive) : place == .home ? .next(.replicating) : .refused(.notHome)
        case .release: isActive ? .refused(.isActive) : .next(.replicating)
        }
    }

    private static func whilePrepared(_ command: LifeCycleCommand, _ place: LifeCyclePlace) -> LifeCycleDecision {
        let isActive = place == .active
        return switch command {
        case .prepare: isActive ? .next(.prepared) : .refused(.notActive)
        case .run, .runPlanned: isActive ? .refused(.isActive) : .next(.failedOver)
        case .cancel: isActive ? .next(.replicating) : .refused(.notActive)
        case .test: .next(.prepared)
        case .changePoint, .commit, .cancelLost, .reprotect: .refused(.nothingFailedOver)
        case .failbackStart: .refused(isActive ? .isActive : place == .home ? .isStopped : .notHome)
        case .failbackComplete: isActive ? .refused(.isActive) : place == .home ? .next(.failedOver) : .refused(.notHome)
        case .failbackCancel: isActive ? .refused(.isActive) : place == .home ? .next(.prepared) : .refused(.notHome)
        case .release: .refused(.isStopped)
        }
    }

    private static func whileFailingOver(_ command: LifeCycleCommand, _ place: LifeCyclePlace) -> LifeCycleDecision {
        let isTarget = place == .target
        return switch command {
        case .run, .runPlanned, .changePoint, .failbackComplete: isTarget ? .next(.failedOver) : .refused(.otherTarget)
        case .cancel: isTarget ? .next(.replicating) : .refused(.otherTarget)
        case .cancelLost: isTarget ? .refused(.isTarget) : .next(.replicating)
        case .commit, .reprotect: .refused(isTarget ? .notYetOver : .otherTarget)
        case .prepare, .failbackStart, .release: .refused(.underWay)
        // What a home began before somebody else took over. On the target `failover cancel` is before it.
        case .failbackCancel: isTarget ? .refused(.isTarget) : .next(.failingOver)
        case .test: .next(.failingOver)
        }
    }

    private static func whenFailedOver(_ command: LifeCycleCommand, _ place: LifeCyclePlace) -> LifeCycleDecision {
        let isTarget = place == .target
        return switch command {
        // Makes and starts what an error of one machine left out.
        case .run, .runPlanned, .changePoint: isTarget ? .next(.failedOver) : .refused(.otherTarget)
        case .failbackComplete: isTarget ? .next(.failedOver) : .refused(.otherTarget)
        case .commit: isTarget ? .next(.committed) : .refused(.otherTarget)
        case .cancel: isTarget ? .next(.replicating) : .refused(.otherTarget)
        case .cancelLost: isTarget ? .refused(.isTarget) : .next(.replicating)
        case .prepare, .reprotect: .refused(isTarget ? .notCommitted : .otherTarget)
        case .failbackStart, .release: .refused(.notCommitted)
        // What a home began before somebody else took over. On the target `failover cancel` is before it.
        case .failbackCancel: isTarget ? .refused(.isTarget) : .next(.failedOver)
        case .test: .next(.failedOver)
        }
    }

    private static func whenCommitted(_ command: LifeCycleCommand, _ place: LifeCyclePlace) -> LifeCycleDecision {
        let isTarget = place == .target
        return switch command {
        case .run, .runPlanned, .changePoint, .cancel, .failbackComplete: .refused(isTarget ? .isCommitted : .otherTarget)
        case .commit: isTarget ? .next(.committed) : .refused(.otherTarget)
        case .cancelLost: isTarget ? .refused(.isTarget) : .next(.replicating)
        case .reprotect: isTarget ? .next(.replicating) : .refused(.otherTarget)
        case .prepare: .refused(isTarget ? .notReprotected : .otherTarget)
        case .failbackStart, .release: .refused(.notReprotected)
        case .failbackCancel: isTarget ? .refused(.isCommitted) : .next(.committed)
        case .test: .next(.committed)
        }
    }
}
