// `farshore target remove`: a vault that disks are not replicated to any more. What it has stays there.

import ArgumentParser
import ChangeLog
import Foundation
import Site
import Vault

struct TargetRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Stop replicating a disk, machine or group to one of its vaults.",
        discussion: """
            The log lets go of what was kept for that target only. Its points stay in the vault until farshore vault forget; added again, it is resynchronised.
            The target need not be there. The last one stays: farshore unprotect ends protection.

            Example:
              farshore target remove db1 --vault 's3://offsite/vault?region=eu-west-1'
            """)

    @Argument(help: "The disk, machine or replication group: with all that shares points.")
    var unit: String

    @Option(name: .long, help: ArgumentHelp("The vault, as farshore target list names it.", valueName: "url"))
    var vault: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let vault: String
        let disks: [String]
        /// Collections of the vault wait for this host until it is named there.
        let holdsUpCollections: Bool
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let group = try catalogue.sharing(named: unit)
        let lock = try site.alone(with: group)
        defer { withExtendedLifetime(lock) {} }
        let disks = try group.diskNames.map { try catalogue.disk(named: $0, vault: vault) }
        if let last = disks.first(where: { $0.targetCount == 1 }) {
            throw Failure(.failed, "\(vault) is the only target of \(last.name)", try: "farshore target add \(unit) --vault URL with another vault first, or farshore unprotect \(last.name)")
        }
        guard let id = disks.first?.vaultID else { throw Failure(.notFound, "\(unit) has no disk", try: "farshore status") }
        let epochs = try disks.map { try catalogue.replication(ofDisk: $0.name, at: id).writerEpoch }
        // The log first: killed after it, the same command goes on; the other way round a log would keep everything for a target that nobody sends to.
        for disk in disks { try setTargets(try LogFolder(disk.logFolder).readState().targets.filter { $0 != id }, of: disk, site.directory) }
        try catalogue.removeTarget(vault: id, ofDisks: group.diskNames)
        for disk in disks {
            try LogFolder(disk.logFolder).forget(target: id)
            // Another host may have had it there.
            try catalogue.requestAttempt(ofDisk: disk.name)
            try catalogue.record(.information, disk: disk.name, vault: vault, "no target any more")
        }
        let isTold = try zip(disks, epochs).map { try site.letGo(of: $0, writerEpoch: $1, catalogue) }.allSatisfy { $0 }
        try output.print(Document(vault: vault, disks: group.diskNames, holdsUpCollections: !isTold)) { document in
            "\(document.disks.joined(separator: ", ")): no longer replicated to \(document.vault). The points stay there."
                + (document.holdsUpCollections ? "\nThe vault could not be told: collections wait for this host until farshore vault collect \(document.vault) --retire \(group.name)" : "")
        }
    }
}

extension SiteOptions {
    /// No collection of the disk's vault is to wait for this host, which goes on there with no disk of the group. Where it goes on
    /// with others its uploader moves the disk out of the group, and lets go of it there; a group that another host took over is
    /// none of ours. False when the vault could not be told.
    func letGo(of disk: ProtectedDisk, writerEpoch: UInt64?, _ catalogue: Catalogue) throws -> Bool {
        guard let writerEpoch else { return true }
        let own = Set(try catalogue.disksAtTargets().filter { $0.vaultID == disk.vaultID }.map(\.id))
        do {
            let vault = try openVault(of: disk)
            guard let entry = try vault.catalog().document.disks.first(where: { $0.id.description == disk.id }),
                let head = try vault.heads(group: entry.group).newest()?.document
            else { return true }
            if head.disks.contains(where: { $0.movedTo == nil && own.contains($0.disk.description) }) { return true }
            let host = ProcessInfo.processInfo.hostName
            // A head that only takes note of a collection raises the epoch too; only writers that had no id are told by it.
            if let writer = head.writer.id?.description {
                guard writer == (try directory.hostID()) else { return true }
            } else if head.writer.host != host || head.writer.epoch != writerEpoch {
                return head.writer.isReleased != nil || head.writer.host != host
            }
            try vault.release(writerOf: disk.id, host: host)
            return true
        } catch {
            printError("farshore: warning: the vault \(disk.vaultURL) cannot be told that \(disk.name) is no longer replicated to it: \(error)")
            return false
        }
    }
}
