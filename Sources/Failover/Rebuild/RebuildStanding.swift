// What a disk found again is on this host, by the life cycle in the vault's newest head: its source, one that stays shut down because guests
// write elsewhere, or a recovery disk of a failover to here. Pure.

import Replication
package import Site
package import Vault

package enum RebuildStanding: Equatable, Sendable {
    /// `held`: why the mount does not serve it.
    case source(held: String?)
    /// Made by a failover. It is still to be committed or taken back while `isOpen`.
    case recovery(isOpen: Bool)
    /// The vault alone does not tell.
    case unclear(String)

    /// `role`: of the disk as its log's folder says it; nil where that says nothing.
    package init(_ lifeCycle: LifeCycle?, host: VaultID, unit: String, role: ProtectedDisk.Role?) {
        let place = LifeCyclePlace(of: host, in: lifeCycle, protectsHere: true)
        switch (lifeCycle?.state ?? .replicating, place) {
        case (.replicating, .active): self = .source(held: nil)
        case (.prepared, .active): self = .source(held: "it was shut down for a failover; farshore failover cancel \(unit) takes that back")
        case (let state, .target):
            switch role {
            case .recovery: self = .recovery(isOpen: state != .committed)
            case .source where state == .failingOver: self = .source(held: "its failback is under way; farshore failback complete \(unit) continues it")
            case .source: self = .source(held: nil)
            case .test, nil: self = .unclear("\(unit) was failed over to this host, and the log's folder does not say whether this disk is the one that was made for it")
            }
        default:
            self = .source(held: "guests write on another host; farshore failover show \(unit) says where, farshore failback start \(unit) brings this disk up to date")
        }
    }

    /// The disk stays shut down, and `failover cancel` may let it go on.
    package var isHeld: Bool {
        if case .source(.some) = self { return true }
        return false
    }
}
