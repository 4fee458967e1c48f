// Up to where a log's history and what a vault has of the disk are the same: the state from which the image can be brought to any
// other by writing what differs. Where that cannot be told for sure it is nil, and the whole image is compared.

package import ChangeLog
import Replication
package import Vault

extension DiskState {
    /// Where the current history left that of `state`, and not above it.
    func partedSequence(from state: RefreshMark.State) -> UInt64 {
        var parted = state.sequence
        var lineage = current
        while let child = lineage, child.id != state.lineage, let parent = child.parent {
            parted = min(parted, child.branchSequence ?? parted)
            lineage = lineages.first { $0.id == parent }
        }
        return parted
    }
}

extension DiskHistory {
    /// Whether `plan(at:)` of the sequence gives the state of that lineage: one that is no longer listed may have ended below.
    package func tells(_ state: RefreshMark.State) throws(VaultError) -> Bool {
        if state.sequence < self.state.oldestSequence { return try keptPoints().contains { $0.sequence == state.sequence } }
        guard let reaching = self.state.lineages.first(where: { $0.sequence >= state.sequence }) else { return false }
        return reaching.id == state.lineage || (reaching.parent == state.lineage && reaching.branchSequence ?? 0 >= state.sequence)
    }

    /// The last state of the log's history that the vault has too. `local`: the log's lineages; `newest`: its last sequence; `proven`: what
    /// the vault was proven to have of this very log, for another host may have written under the same lineage since it was copied.
    package func common(with local: [LogState.Lineage], newest: UInt64, proven: UInt64) throws(VaultError) -> RefreshMark.State? {
        var end = min(newest, proven)
        for lineage in local.reversed() {
            guard end > lineage.branchSequence else { continue }
            let id = lineage.id.vaultID
            let listed = state.lineages.first { $0.id == id }?.sequence
            // One that ended where the next began is told by that.
            let told = listed ?? state.lineages.filter { $0.parent == id }.compactMap(\.branchSequence).max()
            if let told, told > lineage.branchSequence {
                let common = RefreshMark.State(lineage: id, sequence: min(told, end))
                return try tells(common) ? common : nil
            }
            end = min(end, lineage.branchSequence)
        }
        return nil
    }
}
