// `farshore vault forget`: removes a disk and its points from a vault.

import ArgumentParser
import Site
import Vault

struct VaultForget: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forget",
        abstract: "Remove a disk, all its recovery points and its data from a vault.",
        discussion: """
            There is no way back. Chunks and map pages are removed when no other disk is left in the vault that could share them;
            else they stay until collection. Points that it shares with other disks stay, for these disks only. Stop the disk's protection first (`farshore unprotect DISK`).

            Example:
              farshore vault forget old-db --vault file:///backup/vault --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        let disk: String
        let id: String
        let deletedObjects: UInt64
        let contentDeleted: Bool
        /// Disks of its group: they keep their points.
        let others: [String]
    }

    @Argument(help: "The disk's name, or its id to finish an interrupted run.")
    var disk: String

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let opened = try vault.open(site)
        if let own = try site.catalogue().disksAtTargets().first(where: { ($0.name == disk || $0.id == disk) && $0.vaultID == opened.id.description }) {
            throw Failure(.inUse, "this site still protects \(own.name) with that vault", try: own.targetCount > 1 ? "farshore target remove \(own.name) --vault \(own.vaultURL)" : "farshore unprotect \(own.name)")
        }
        let forgotten = try opened.forget(disk)
        let document = Document(
            disk: forgotten.disk.name, id: forgotten.disk.id.description, deletedObjects: forgotten.deletedObjects, contentDeleted: forgotten.isContentDeleted,
            others: forgotten.others.map(\.name))
        try output.print(document) { document in
            "Forgot \(document.disk): \(document.deletedObjects) objects deleted" + (document.contentDeleted ? "" : "; chunks that other disks may share stay")
                + (document.others.isEmpty ? "" : ". The points it shared stay for \(document.others.joined(separator: ", "))")
        }
    }
}
