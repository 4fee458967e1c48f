// A disk whose group was failed over to another host while this one, its source, may still have it: nothing more is published from
// here. What the other host lacks is counted and said; which side is right, a person knows (docs/operating/failover.md).

import BlockIO
import ChangeLog
import Foundation
import Site
import Vault

struct LeftDisk {
    let failure: AttemptFailure

    /// Nil where the newest head lets this host publish.
    init?(_ disk: ProtectedDisk, _ connection: VaultConnection, of replicator: Replicator) throws {
        guard let id = VaultID(disk.id) else { return nil }
        let heads = try connection.heads(try connection.entry(of: id).group, host: replicator.host)
        guard let head = try connection.vault.heads(group: heads.group).newest()?.document, let lifeCycle = head.lifeCycle, !lifeCycle.lets(heads.hostID) else { return nil }
        let folder = LogFolder(disk.logFolder)
        let reader = try LogReader(folder)
        let known = head.state(of: id).map { Self.sequence(of: $0, sharedWith: reader.state.lineages) } ?? 0
        let lag = try? ReplicationLag.measure(reader, provenSequence: known)
        let catalog = connection.catalogRead()
        let entry = try connection.entry(of: id)
        let unit = catalog.group(entry.group)?.name ?? entry.machineName
        let now = "farshore failover show \(unit) says how it stands now"
        if lifeCycle.target == heads.hostID {
            let message = "\(disk.name) came back to this host, and nothing is replicated from here until that is settled"
            let settling = lifeCycle.state == .committed ? "" : "farshore failover commit \(unit), then "
            failure = AttemptFailure(.forGood, message, remedy: "\(settling)farshore reprotect \(unit); \(now)", cause: VaultError.fenced(message))
            return
        }
        let isReplicated = lifeCycle.state == .replicating || lifeCycle.state == .prepared
        let writing = (isReplicated ? lifeCycle.active : lifeCycle.target) ?? lifeCycle.active
        let host = catalog.hosts?.first { $0.id == writing }?.name ?? (head.writer.id == writing ? head.writer.host : writing.description)
        let time = Date(timeIntervalSince1970: Double(lifeCycle.timeMicros) / 1e6).formatted(.iso8601)
        let point = lifeCycle.points?.first { $0.disk == id }.map { " from point #\($0.sequence)" } ?? ""
        let missing = lag.map { "\($0.records) records (\($0.bytes) bytes) of this host's log are not in the vault" } ?? "how much of this host's log is not in the vault cannot be counted"
        let message = isReplicated
            ? "guests write \(disk.name) on \(host), which replicates it since \(time); nothing is replicated from here. \(missing)"
            : "\(disk.name) was failed over to \(host)\(point) at \(time)\(lifeCycle.state == .committed ? " and that was committed" : ""); nothing is replicated from here. \(missing)"
        let home = "farshore failback start \(unit) here brings it home, and asks before it gives up what is only here; farshore failover release \(unit) takes it out of this site"
        let remedy =
            switch lifeCycle.state {
            case .replicating, .prepared: home
            case .committed: "farshore reprotect \(unit) on \(host), then \(home)"
            case .failingOver, .failedOver: "farshore failover cancel \(unit) on \(host) takes it back, then farshore resume \(disk.name); once it is committed and reprotected there: \(home)"
            }
        failure = AttemptFailure(.forGood, message, remedy: "\(remedy); \(now) (docs/operating/failover.md)", cause: VaultError.fenced(message))
    }

    /// Up to where the vault has the history in the log: of its own lineage, or where another one branched off it.
    private static func sequence(of state: DiskState, sharedWith local: [LogState.Lineage]) -> UInt64 {
        for lineage in local.reversed() {
            if let known = state.lineages.first(where: { $0.id.description == lineage.id.description }) { return known.sequence }
            if let child = state.lineages.first(where: { $0.parent?.description == lineage.id.description }) { return child.branchSequence ?? 0 }
        }
        return 0
    }
}
