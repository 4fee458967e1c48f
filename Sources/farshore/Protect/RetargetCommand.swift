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
            Refused: another vault, one that lacks something this host has seen in the vault before, a copy that was not adopted, and one that has not all objects that
            the disks' newest states need. Each object is asked for, eight at a time, which takes a while for many TiB; what older points lack is a warning.
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
        var newest: [String: UInt64] = [:]
        for disk in disks { newest[disk.name] = try check(disk, vault, catalogue) }
        try refuseMissing(newest, Set(disks.compactMap { VaultID($0.id) }), vault)
        try catalogue.retarget(
            vault: vault.id.description, url: url, keyFile: key.keyFile.map(absolutePath), passphraseFile: key.passphraseFile.map(absolutePath))
        for disk in disks {
            try catalogue.record(.information, of: disk, "replicated to \(url) from now on, before to \(disk.vaultURL)")
            try catalogue.requestAttempt(ofDisk: disk.name)
        }
        withExtendedLifetime(lock) {}
        try output.print(Document(vault: vault.id.description, url: url, disks: disks.map(\.name))) { "\($0.disks.joined(separator: ", ")): replicated to \($0.url) from now on" }
    }

    /// What is new would be laid over what is not there. `newest`: by the disk's name.
    private func refuseMissing(_ newest: [String: UInt64], _ disks: Set<VaultID>, _ vault: Vault) throws {
        printError("farshore: the vault at \(url) is asked for each object that points of \(newest.keys.sorted().joined(separator: ", ")) need")
        let progress = CountProgress()
        let findings = try VaultCheck(vault: vault, readData: false, disks: disks, progress: progress.note).run().findings
        progress.finish()
        let fatal = findings.spoiling(newest: newest)
        guard fatal.isEmpty else {
            throw Failure(
                .integrityDamage, "the vault at \(url) is not whole: \(fatal.summary)",
                try: "bring these objects there from where the vault was, each at its key; farshore vault check URL names them all")
        }
        if !findings.isEmpty { printError("farshore: warning: older points at \(url) are not whole: \(findings.summary)") }
    }

    /// The log has let go of what the vault had proven: a vault without it could not go on. Returns how far the vault has the disk.
    private func check(_ disk: ProtectedDisk, _ vault: Vault, _ catalogue: Catalogue) throws -> UInt64 {
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
        return found
    }
}
