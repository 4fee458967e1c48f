// The vaults this uploader has open: one connection a vault and key, shared by the threads of all its disks, so that
// content two disks have in common is sent once.

package import Site
import Synchronization
package import Vault

package final class VaultConnection: Sendable {
    package let vault: Vault
    package let ledger: ChunkLedger
    private let areDoubtsSettled = Mutex(false)
    private let placing = Mutex<Void>(())
    /// As it was last read.
    private let newestCatalog: Mutex<Catalog>
    /// As long as the thread of one of the group's disks uses them.
    private let groups = Mutex<[VaultID: WeakHeads]>([:])

    private struct WeakHeads {
        weak var heads: GroupHeads?
    }

    init(vault: Vault, catalogue: Catalogue) throws(VaultError) {
        self.vault = vault
        ledger = ChunkLedger(catalogue: catalogue, vault: vault.id)
        newestCatalog = Mutex(try Self.usable(vault.catalog().document))
    }

    private static func usable(_ catalog: Catalog) throws(VaultError) -> Catalog {
        guard (catalog.condemned ?? []).isEmpty else {
            throw .refused("the vault holds condemned objects of a collection, which this version does not know how to leave out")
        }
        return catalog
    }

    private func remember(_ catalog: Catalog) throws(VaultError) {
        let usable = try Self.usable(catalog)
        newestCatalog.withLock { $0 = usable }
    }

    /// The catalog as it was last read.
    func catalogRead() -> Catalog { newestCatalog.withLock { $0 } }

    /// What the catalog said of the disk when it was last read.
    func known(_ disk: VaultID) -> Catalog.Disk? { catalogRead().disks.first { $0.id == disk } }

    /// What the catalog says of the disk now.
    func entry(of disk: VaultID) throws(VaultError) -> Catalog.Disk {
        guard let entry = try find(disk) else { throw .notFound("the vault \(vault.id) does not know the disk \(disk): it was forgotten there") }
        return entry
    }

    /// The same, nil for a disk that was forgotten.
    func find(_ disk: VaultID) throws(VaultError) -> Catalog.Disk? {
        try remember(try vault.catalog().document)
        return known(disk)
    }

    /// One at a time: the threads of many disks that join a group would else overtake each other again and again.
    func place(_ disk: VaultID, in group: VaultID, named name: String?, machine: String) throws(VaultError) {
        try placing.withLock { (_) throws(VaultError) in try remember(try vault.place(disk, in: group, named: name, machine: machine).document) }
    }

    /// The one publisher of the group in this process.
    func heads(_ group: VaultID, host: String) throws(VaultError) -> GroupHeads {
        try groups.withLock { groups throws(VaultError) in
            if let known = groups[group]?.heads { return known }
            let made = try GroupHeads(vault: vault, group: group, host: host)
            groups[group] = WeakHeads(heads: made)
            return made
        }
    }

    /// The epoch for chunks sent now. Read anew for each initial replication: `vault forget` raises it and deletes the
    /// chunks of the epochs before. A disk that was forgotten has no place in the vault any more, and one that another
    /// uploader placed in another group is not ours to publish.
    func collectionEpoch(for disk: VaultID, in group: VaultID) throws(VaultError) -> UInt32 {
        guard try entry(of: disk).group == group else { throw .conflict(chain: "heads/\(group)") }
        return catalogRead().collectionEpoch
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
