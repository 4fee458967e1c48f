// `farshore target add`: one more vault for disks that are protected already.

import ArgumentParser
import BlockIO
import ChangeLog
import Failover
import Replication
import Site
import Vault

struct TargetAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Replicate a disk, machine or group to one more vault.",
        discussion: """
            The uploader sends all of it there while it goes on at the other targets; neither waits for the other, and the log keeps nothing for the new one
            until it has its first state. Disks that share points have their targets together. Each target has its own policy: farshore policy assign NAME DISK --vault URL.

            Example:
              farshore target add db1 --vault 's3://offsite/vault?region=eu-west-1' --key-file /etc/farshore/offsite.key --policy hourly
            """)

    @Argument(help: "The disk, machine or replication group: with all that shares points.")
    var unit: String

    @OptionGroup var vault: VaultOptions

    @Option(name: .long, help: "The replication policy at this target.")
    var policy = Policy.defaultName

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        let group = try catalogue.sharing(named: unit)
        let lock = try site.alone(with: group)
        defer { withExtendedLifetime(lock) {} }
        for disk in group.disks { try refuseUnfit(disk) }
        _ = try catalogue.policy(named: policy)
        let opened = try vault.open(site)
        try opened.refuseCopy()
        let known = try check(group, opened, catalogue)
        let target = NewTarget(
            url: vault.url, vaultID: opened.id.description, keyFile: vault.key.keyFile.map(absolutePath), passphraseFile: vault.key.passphraseFile.map(absolutePath), policy: policy)
        for disk in group.disks { try prepare(disk, opened, isKnown: known.contains(disk.name)) }
        // Last: from here on the uploader replicates to it. What a kill before leaves holds nothing back, and the same command ends it.
        try catalogue.addTarget(target, toDisks: group.diskNames, resynchronised: known)
        for name in group.diskNames { try catalogue.record(.information, disk: name, vault: vault.url, "a target from now on, with the policy \(policy)") }
        try output.print(try DiskTargets.all(of: try catalogue.sharing(named: unit), site, catalogue), text: DiskTargets.text)
    }

    private func refuseUnfit(_ disk: ProtectedDisk) throws {
        guard disk.state == .protected else { throw disk.releasingFailure }
        guard disk.role == .source else { throw Failure(.failed, "\(disk.name) is a recovery disk, which is not replicated", try: "farshore reprotect \(disk.machine) first") }
        try disk.refuseWhileFilled()
        try LogFolder(disk.logFolder).refuseDuringFailback()
    }

    /// The disks whose history the vault has from before.
    private func check(_ group: ConsistencyGroup, _ opened: Vault, _ catalogue: Catalogue) throws -> Set<String> {
        for disk in group.disks where try catalogue.targets(ofDisk: disk.name).contains(where: { $0.vaultID == opened.id.description }) {
            throw Failure(.inUse, "\(disk.name) is replicated to the vault \(opened.id) already", try: "farshore target list \(disk.name)")
        }
        var known: Set<String> = []
        let catalog = try opened.catalog().document
        for disk in group.disks {
            let checks = ProtectionChecks(catalogue: catalogue, name: disk.name, site: site.directory)
            try checks.place(of: opened, url: vault.url)
            for warning in try checks.vault(opened, own: disk.id) { printError("farshore: warning: \(warning)") }
            if let entry = catalog.disks.first(where: { $0.id.description == disk.id }), try DiskHistory.newest(opened, entry)?.state.current != nil { known.insert(disk.name) }
        }
        if group.kind == .group { try catalog.refuseTaken(group.name, for: VaultID(group.id), own: Set(try catalogue.disks().map(\.id))) }
        return known
    }

    /// The log lets go for the new target before it has one.
    private func prepare(_ disk: ProtectedDisk, _ opened: Vault, isKnown: Bool) throws {
        guard let id = VaultID(disk.id) else { throw Failure(.failed, "impossible disk id", try: "farshore doctor") }
        if try !opened.catalog().document.disks.contains(where: { $0.id == id }) {
            _ = try opened.register(disk: id, name: disk.name, sizeBytes: disk.sizeBytes, machine: disk.machine)
        }
        let folder = LogFolder(disk.logFolder)
        let target = opened.id.description
        try folder.release(target: target)
        try setTargets(try folder.readState().targets.filter { $0 != target } + [target], of: disk, site.directory)
    }
}

extension SiteOptions {
    /// Nobody else adds or removes targets of what shares points meanwhile, who would read the log's before this is done, nor fails it over or back.
    func alone(with group: ConsistencyGroup) throws -> SiteLock {
        if let lock = try SiteLock.tryTake(directory.failoverLockPath(group: group.id)) { return lock }
        throw Failure(
            .inUse, "another command changes the targets of \(group.name), or prepares, fails over or brings it back, on this host", try: "wait until it ends (farshore job list), then the same command again")
    }
}

/// The log's owner takes it up: the running mount, or this process where nobody serves the disk.
func setTargets(_ names: [String], of disk: ProtectedDisk, _ site: SiteDirectory) throws {
    do {
        _ = try ControlClient(site: site).demand(.setTargets(disk: disk.name, targets: names), timeoutSeconds: 120)
        return
    } catch {
        guard error.code == .mountAway || error.code == .diskNotFound else { throw error }
    }
    let folder = LogFolder(disk.logFolder)
    let lock = try waitingForUploader(of: site) { try OwnerLock.acquire(folder) }
    try folder.setTargets(names, holding: lock)
}
