// The vaults this uploader has open: one connection a vault and key, shared by the threads of all its disks, so that
// content two disks have in common is sent once.

package import Site
import Synchronization
package import Vault

package final class VaultConnection: Sendable {
    package let vault: Vault
    package let ledger: ChunkLedger
    private let areDoubtsSettled = Mutex(false)

    init(vault: Vault, catalogue: Catalogue) throws(VaultError) {
        self.vault = vault
        ledger = ChunkLedger(catalogue: catalogue, vault: vault.id)
        _ = try catalog()
    }

    private func catalog() throws(VaultError) -> Catalog {
        let catalog = try vault.catalog().document
        guard (catalog.condemned ?? []).isEmpty else {
            throw .refused("the vault holds condemned objects of a collection, which this version does not know how to leave out")
        }
        return catalog
    }

    /// The epoch for chunks sent now. Read anew for each initial replication: `vault forget` raises it and deletes the
    /// chunks of the epochs before. A disk that was forgotten has no place in the vault any more.
    func collectionEpoch(for disk: VaultID) throws(VaultError) -> UInt32 {
        let catalog = try catalog()
        guard catalog.disks.contains(where: { $0.id == disk }) else {
            throw .notFound("the vault \(vault.id) does not know the disk \(disk): it was forgotten there")
        }
        return catalog.collectionEpoch
    }

    /// Before the first chunk is sent: what an earlier process left in doubt. Holds the lock meanwhile, for a chunk that
    /// another thread has in flight now is not in doubt.
    func settleDoubtsOnce() throws {
        try areDoubtsSettled.withLock { isDone in
            if isDone { return }
            try ledger.settleDoubts { try vault.holdsChunk($0) }
            isDone = true
        }
    }
}

package final class VaultConnections: Sendable {
    package typealias Open = @Sendable (ProtectedDisk) throws -> Vault

    private struct Key: Hashable {
        let url: String
        /// A vault that was made again at the same URL is another one.
        let vaultID: String
        let keyFile: String?
        let passphraseFile: String?
    }

    private let catalogue: Catalogue
    private let open: Open
    private let connections = Mutex<[Key: VaultConnection]>([:])

    package init(catalogue: Catalogue, open: @escaping Open) {
        self.catalogue = catalogue
        self.open = open
    }

    package func connection(for disk: ProtectedDisk) throws -> VaultConnection {
        let key = Key(url: disk.vaultURL, vaultID: disk.vaultID, keyFile: disk.keyFile, passphraseFile: disk.passphraseFile)
        return try connections.withLock { connections in
            if let known = connections[key] { return known }
            let vault = try open(disk)
            guard vault.id.description == disk.vaultID else {
                throw VaultError.refused("\(disk.vaultURL) holds the vault \(vault.id) now, but \(disk.name) is protected to the vault \(disk.vaultID)")
            }
            let connection = try VaultConnection(vault: vault, catalogue: catalogue)
            connections[key] = connection
            return connection
        }
    }
}
