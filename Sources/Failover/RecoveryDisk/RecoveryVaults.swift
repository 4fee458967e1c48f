// Opens the images of protected disks, recovery disks over what their vaults have of their points. One connection a vault, shared by all disks of
// a process. A vault is opened when something is first read of it: a disk is served while its vault is away. Used by the mount's worker, and by
// commands that own a disk for a moment.

import BlockIO
import ChangeLog
package import DiskImage
import Glibc
import RecoveryPoints
import Replication
package import Site
import Synchronization
package import Vault

package final class RecoveryVaults: Sendable {
    private struct Key: Hashable {
        let url: String
        let keyFile: String?
        let passphraseFile: String?
    }

    private let openVault: @Sendable (ProtectedDisk) throws -> Vault
    private let waits: @Sendable (Bool) -> Void
    private let log: @Sendable (String) -> Void
    private let sources = Mutex<[Key: PointSources]>([:])

    /// `waits` is told when a guest's read begins (true) and ends to wait for a vault.
    package init(
        openVault: @escaping @Sendable (ProtectedDisk) throws -> Vault, waits: @escaping @Sendable (Bool) -> Void = { _ in },
        log: @escaping @Sendable (String) -> Void
    ) {
        self.openVault = openVault
        self.waits = waits
        self.log = log
    }

    package func close() { for sources in sources.withLock({ Array($0.values) }) { sources.close() } }

    /// The image of `disk` as its owner uses it: for a disk that is being filled a `RecoveryImage`.
    package func openImage(of disk: ProtectedDisk, locked lock: borrowing ImageLock, parentLocks: ParentLocks) throws -> any ImageFile {
        let folder = LogFolder(disk.logFolder)
        // From here on it may hold what guests wrote: it is not made again from its beginning.
        if access(folder.makingFile, F_OK) == 0 { try DurableFile.remove(folder.makingFile) }
        guard let base = try RecoveryBase.load(folder.baseFile) else {
            if access(folder.presenceFile, F_OK) == 0 { try DurableFile.remove(folder.presenceFile) }
            return try disk.openImage(locked: lock, parentLocks: parentLocks)
        }
        guard base.disk.description == disk.id, base.vault.description == disk.vaultID else {
            throw SiteError(.refused, "\(folder.baseFile) is of another disk or vault than \(disk.name)", remedy: "bring the log folder of \(disk.name) back to its place")
        }
        let local = try disk.openImageFile(locked: lock, access: .readWrite)
        guard local.sizeBytes >= base.sizeBytes else {
            throw SiteError(.refused, "\(disk.imagePath) has \(local.sizeBytes) bytes, less than the \(base.sizeBytes) of its recovery point", remedy: "bring the image back that was there")
        }
        let source = RecoverySource(name: disk.name, open: { [self] in try reader(disk, base) }, waits: waits, log: log)
        return RecoveryImage(local: local, base: base, presence: try PresenceMap(folder.presenceFile, for: base), source: source)
    }

    private func reader(_ disk: ProtectedDisk, _ base: RecoveryBase) throws -> PointReader {
        let sources = try sources(disk)
        let vault = sources.vault
        guard vault.id == base.vault else { throw VaultError.refused("\(disk.vaultURL) holds the vault \(vault.id) now, but the image of \(disk.name) is filled from the vault \(base.vault)") }
        guard let history = try DiskHistory.newest(vault, try vault.disk(base.disk.description)) else {
            throw VaultError.notFound("nothing of the disk \(disk.name) is in the vault any more")
        }
        let reader = try PointReader(sources, disk: base.disk, plan: try history.plan(at: base.sequence))
        guard reader.sizeBytes == base.sizeBytes else { throw VaultError.refused("the point #\(base.sequence) has \(reader.sizeBytes) bytes, but the image is filled from one of \(base.sizeBytes)") }
        return reader
    }

    private func sources(_ disk: ProtectedDisk) throws -> PointSources {
        let key = Key(url: disk.vaultURL, keyFile: disk.keyFile, passphraseFile: disk.passphraseFile)
        return try sources.withLock { sources in
            if let known = sources[key] { return known }
            let opened = PointSources(vault: try openVault(disk))
            sources[key] = opened
            return opened
        }
    }
}
