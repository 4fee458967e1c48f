// The vaults this uploader has open: one connection a vault and key, shared by the threads of all its disks, so that
// content two disks have in common is sent once.

import BlockIO
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
    private let readAt = Mutex(Clock.monotonicNanoseconds())
    private let catalogue: Catalogue
    private let catalogAgeSecondsMax: UInt64
    /// As long as the thread of one of the group's disks uses them.
    private let groups = Mutex<[VaultID: WeakHeads]>([:])

    private struct WeakHeads {
        weak var heads: GroupHeads?
    }

    init(vault: Vault, catalogue: Catalogue, catalogAgeSecondsMax: UInt64) throws(VaultError) {
        self.vault = vault
        self.catalogAgeSecondsMax = catalogAgeSecondsMax
        ledger = ChunkLedger(catalogue: catalogue, vault: vault.id) { try vault.hasChunk($0) }
        self.catalogue = catalogue
        newestCatalog = Mutex(try vault.catalog().document)
    }

    func remember(_ catalog: Catalog) {
        readAt.withLock { $0 = Clock.monotonicNanoseconds() }
        // Threads may come here in another order than they read.
        newestCatalog.withLock { if catalog.number >= $0.number { $0 = catalog } }
    }

    /// Reads the catalog when it was not for an hour: a collection waits until all uploaders have seen its epoch.
    func refreshIfOld() throws(VaultError) {
        let now = Clock.monotonicNanoseconds()
        guard readAt.withLock({ now - min(now, $0) }) > catalogAgeSecondsMax * 1_000_000_000 else { return }
        remember(try vault.catalog().document)
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
        remember(try vault.catalog().document)
        return known(disk)
    }

    /// One at a time: the threads of many disks that join a group would else overtake each other again and again.
    func place(_ disk: VaultID, in group: VaultID, named name: String?, machine: String) throws(VaultError) {
        try placing.withLock { (_) throws(VaultError) in remember(try vault.place(disk, in: group, named: name, machine: machine).document) }
    }

    /// The one publisher of the group in this process.
    func heads(_ group: VaultID, host: String) throws(VaultError) -> GroupHeads {
        try groups.withLock { groups throws(VaultError) in
            if let known = groups[group]?.heads { return known }
            // The heads keep the connection, which keeps them weakly.
            let made = try GroupHeads(
                vault: vault, group: group, host: host, hostID: try hostID(), catalogEpoch: { self.catalogRead().collectionEpoch }, keepsEpoch: { self.keeps($0, of: group) })
            groups[group] = WeakHeads(heads: made)
            return made
        }
    }

    private func hostID() throws(VaultError) -> VaultID {
        let text: String
        do { text = try catalogue.site.hostID() } catch let error as SystemError { throw .memory(error) } catch { throw .refused("\(error)") }
        guard let id = VaultID(text) else { throw .refused("\(catalogue.site.path)/host-id holds no host id") }
        return id
    }

    /// Those of groups that this process writes.
    var claimedHeads: [GroupHeads] { groups.withLock { $0.values.compactMap(\.heads) }.filter { $0.writerEpoch != nil } }

    /// As the catalogue has it, so that it holds over a restart: only the epoch and the group that were noted with the phase, for a group that
    /// was out of the catalog was waited for by no collection. False when that cannot be asked: then more is sent than needs be.
    private func keeps(_ epoch: UInt32, of group: VaultID) -> Bool {
        do throws(SiteError) {
            for disk in try catalogue.consistencyGroups().first(where: { $0.id == group.description })?.disks ?? [] {
                // At another target a disk may stand elsewhere.
                let state = try catalogue.replication(ofDisk: disk.name, at: vault.id.description)
                if [.initial, .resynchronisation].contains(state.phase), state.keptEpoch == ReplicationState.KeptEpoch(epoch: epoch, group: group.description) { return true }
            }
            return false
        } catch {
            return false
        }
    }

    /// A disk that was forgotten has no place in the vault any more, and one that another uploader placed in another group is
    /// not ours to publish.
    func refuseMisplaced(_ disk: VaultID, in group: VaultID) throws(VaultError) {
        guard try entry(of: disk).group == group else { throw .conflict(chain: "heads/\(group)") }
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
    private let catalogAgeSecondsMax: UInt64
    private let openVault: Open
    private let places = Mutex<[Key: Place]>([:])

    /// A vault may take minutes to say that it does not answer: who opens it holds up nobody but who wants the same one.
    private final class Place: Sendable {
        let opening = Mutex<Void>(())
        let connection = Mutex<VaultConnection?>(nil)
    }

    package init(catalogue: Catalogue, catalogAgeSecondsMax: UInt64 = ReplicationLimits.catalogAgeSecondsMax, open: @escaping Open) {
        self.catalogue = catalogue
        self.catalogAgeSecondsMax = catalogAgeSecondsMax
        openVault = open
    }

    var open: [VaultConnection] { places.withLock { Array($0.values) }.compactMap { $0.connection.withLock { $0 } } }

    package func connection(for disk: ProtectedDisk) throws -> VaultConnection {
        let key = Key(url: disk.vaultURL, vaultID: disk.vaultID, keyFile: disk.keyFile, passphraseFile: disk.passphraseFile)
        let place = places.withLock { places in
            let place = places[key] ?? Place()
            places[key] = place
            return place
        }
        return try place.opening.withLock { _ in
            if let known = place.connection.withLock({ $0 }) { return known }
            let vault = try openVault(disk)
            guard vault.id.description == disk.vaultID else {
                throw VaultError.refused("\(disk.vaultURL) holds the vault \(vault.id) now, but \(disk.name) is protected to the vault \(disk.vaultID)")
            }
            let connection = try VaultConnection(vault: vault, catalogue: catalogue, catalogAgeSecondsMax: catalogAgeSecondsMax)
            place.connection.withLock { $0 = connection }
            return connection
        }
    }
}
