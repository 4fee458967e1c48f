// How the history in a disk's log relates to what the vault has of it: decides where replication goes on. Pure.

package import ChangeLog
package import Vault

enum LineageRelation: Equatable {
    /// The vault has nothing that this history could continue.
    case unrelated
    /// The vault's current lineage is the one being written; it has everything up to `after`.
    case continues(after: UInt64)
    /// The log has a newer lineage, which shares the vault's up to `at` (power loss, restore).
    case branches(at: UInt64)

    /// `local` oldest first, the last one being written now.
    init(local: [LogState.Lineage], vault: LineageState?) {
        guard let vault, let place = local.firstIndex(where: { $0.id.description == vault.id.description }) else {
            self = .unrelated
            return
        }
        let later = local[(place + 1)...]
        self = later.isEmpty ? .continues(after: vault.sequence) : .branches(at: later.reduce(vault.sequence) { min($0, $1.branchSequence) })
    }
}

extension LogID {
    package var vaultID: VaultID { VaultID(high: high, low: low) }
}
