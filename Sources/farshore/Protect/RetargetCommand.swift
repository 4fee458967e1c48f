// `farshore retarget`: the vault that disks of this site are replicated to has come to another place.

import ArgumentParser
import ChangeLog
import Site
import Vault

struct RetargetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retarget",
        abstract: "Go on replicating to a vault at the place where it is now: after a copy of it was adopted, or it was moved.",
        discussion: """
            All disks of this site that are replicated to that vault go on there with what is new; nothing is sent again. Stop the uploader first.
            Refused: another vault, one that lacks something this host has seen in the vault before, and a copy that was not adopted.
            The vault at the old place must not be used any more: it would be another history of the same disks.

            Example:
              farshore upload --stop
              farshore retarget 's3://second/vault?region=eu-west-1' --key-file /etc/farshore/vault.key
            """)

    @Argument(help: ArgumentHelp("The vault, where it is now.", valueName: "url"))
    var url: String

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let vault: String
        let url: String
        let disks: [String]
    }

    func run() throws {
        let catalogue = try site.catalogue()
        guard let lock = try SiteLock.tryTake(site.directory.uploadLockPath) else {
            throw Failure(.inUse, "the uploader of this site is running", try: "farshore upload --stop")
        }
        // With the site's memory, which is of the vault wherever it is: one that is older than what was seen is refused.
        let vault = try openVault(url: url, key: key, site: site)
        let disks = try catalogue.disksAtTargets().filter { $0.vaultID == vault.id.description }
        guard !disks.isEmpty else {
            throw Failure(.notFound, "no disk of this site is replicated to the vault \(vault.id), which is at \(url)", try: "farshore status")
        }
        try vault.refuseCopy()
        for disk in disks { try check(disk, vault, catalogue) }
        try catalogue.retarget(
            vault: vault.id.description, url: url, keyFile: key.keyFile.map(absolutePath), passphraseFile: key.passphraseFile.map(absolutePath))
        for disk in disks {
            try catalogue.record(.information, of: disk, "replicated to \(url) from now on, before to \(disk.vaultURL)")
            try catalogue.requestAttempt(ofDisk: disk.name)
        }
        withExtendedLifetime(lock) {}
        try output.print(Document(vault: vault.id.description, url: url, disks: disks.map(\.name))) { "\($0.disks.joined(separator: ", ")): replicated to \($0.url) from now on" }
    }

    /// The log has let go of what the vault had proven: a vault without it could not go on.
    private func check(_ disk: ProtectedDisk, _ vault: Vault, _ catalogue: Catalogue) throws {
        let found = try DiskHistory.newest(vault, try vault.disk(disk.id))?.newestSequence ?? 0
        let proven = max(try catalogue.replication(ofDisk: disk.name, at: disk.vaultID).provenSequence ?? 0, try LogFolder(disk.logFolder).readMark(target: disk.vaultID)?.sequence ?? 0)
        guard found > 0 else {
            throw Failure(.failed, "the vault at \(url) has no state of \(disk.name) yet", try: "end its initial replication to \(disk.vaultURL) first, and copy the vault again")
        }
        guard found >= proven else {
            throw Failure(
                .integrityDamage, "the vault at \(url) has \(disk.name) up to sequence \(found), but \(proven) was proven at \(disk.vaultURL)",
                try: "farshore vault copy \(disk.vaultURL) --to URL once more")
        }
    }
}
