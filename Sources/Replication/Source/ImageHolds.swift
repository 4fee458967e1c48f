// Which lanes of a disk need its image held still: several targets may be replicated to for the first time, or resynchronised,
// at once. They share one freeze, and the last one lets go. What is kept here begins anew with each run of the uploader, from the
// phases in the catalogue.

import ChangeLog
import Site
import Synchronization

final class ImageHolds: Sendable {
    private final class Disk: Sendable {
        /// One at a time asks the log's owner to freeze or let go.
        let turn = Mutex<Void>(())
        let vaults: Mutex<Set<String>>

        init(_ vaults: Set<String>) { self.vaults = Mutex(vaults) }
    }

    private let catalogue: Catalogue
    private let disks = Mutex<[String: Disk]>([:])

    init(catalogue: Catalogue) { self.catalogue = catalogue }

    /// The sequence that the image is held at: that of another lane, where one holds it.
    func hold(_ disk: ProtectedDisk, _ owner: any DiskOwner) throws -> UInt64 {
        let held = try found(disk)
        // Noted before, so that no other lane lets go, or waits, while the owner merges the log.
        held.vaults.withLock { _ = $0.insert(disk.vaultID) }
        do { return try held.turn.withLock { _ in try owner.freeze() } } catch {
            held.vaults.withLock { _ = $0.remove(disk.vaultID) }
            throw error
        }
    }

    /// This lane needs it no more. A disk that is not frozen is left alone.
    func letGo(_ disk: ProtectedDisk, _ owner: any DiskOwner) throws {
        let held = try found(disk)
        held.vaults.withLock { _ = $0.remove(disk.vaultID) }
        if try isNeeded(held, disk) { return }
        try held.turn.withLock { _ in if try !isNeeded(held, disk) { try owner.unfreeze() } }
    }

    func isHeld(by disk: ProtectedDisk) throws -> Bool { try found(disk).vaults.withLock { $0.contains(disk.vaultID) } }

    /// A target that was removed needs nothing.
    private func isNeeded(_ held: Disk, _ disk: ProtectedDisk) throws -> Bool {
        let vaults = held.vaults.withLock { $0 }
        if vaults.isEmpty { return false }
        return try !vaults.isDisjoint(with: catalogue.targets(ofDisk: disk.name).map(\.vaultID))
    }

    private func found(_ disk: ProtectedDisk) throws -> Disk {
        if let known = disks.withLock({ $0[disk.id] }) { return known }
        var vaults: Set<String> = []
        if try LogFolder(disk.logFolder).readFreeze() != nil {
            for target in try catalogue.targets(ofDisk: disk.name) {
                let phase = try catalogue.replication(ofDisk: disk.name, at: target.vaultID).phase
                if phase == .initial || phase == .resynchronisation { vaults.insert(target.vaultID) }
            }
        }
        return disks.withLock { disks in
            let held = disks[disk.id] ?? Disk(vaults)
            disks[disk.id] = held
            return held
        }
    }
}
