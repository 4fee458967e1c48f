// What all disks of an uploader share: the catalogue, the open vaults, and how to reach the owner of a disk's log.

package import Site
package import Vault

/// One disk at one of its targets.
struct LaneKey: Hashable {
    let disk: String
    let vault: String

    init(_ disk: ProtectedDisk) { (self.disk, vault) = (disk.name, disk.vaultID) }
}

package struct Replicator: Sendable {
    package typealias Progress = @Sendable (_ disk: String, _ doneBytes: UInt64, _ totalBytes: UInt64) -> Void

    let catalogue: Catalogue
    let connections: VaultConnections
    /// Who owns the disk's log at this moment; asked anew for every step, for mounts come and go.
    let owner: @Sendable (ProtectedDisk) throws -> any DiskOwner
    /// Named in the vault's heads.
    let host: String
    let stop: StopFlag
    let clock: UploadClock
    let limits: SendingLimits
    let holds: ImageHolds
    let progress: Progress
    /// When full manifests are due; smaller in tests.
    let history: HistoryWriter.Limits

    package init(
        catalogue: Catalogue, host: String, stop: StopFlag, catalogAgeSecondsMax: UInt64 = ReplicationLimits.catalogAgeSecondsMax,
        clock: UploadClock = .system, history: HistoryWriter.Limits = HistoryWriter.Limits(), openVault: @escaping VaultConnections.Open,
        owner: @escaping @Sendable (ProtectedDisk) throws -> any DiskOwner, progress: @escaping Progress
    ) {
        self.catalogue = catalogue
        self.host = host
        self.stop = stop
        self.clock = clock
        self.history = history
        self.owner = owner
        self.progress = progress
        holds = ImageHolds(catalogue: catalogue)
        limits = SendingLimits(catalogue: catalogue, stop: stop)
        connections = VaultConnections(catalogue: catalogue, catalogAgeSecondsMax: catalogAgeSecondsMax, open: openVault)
    }
}
