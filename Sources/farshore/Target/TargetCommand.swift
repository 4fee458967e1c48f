// `farshore target`: the vaults a disk is replicated to.

import ArgumentParser
import Site

struct TargetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "target",
        abstract: "Replicate disks to further vaults, each with its own policy.",
        subcommands: [TargetAdd.self, TargetRemove.self, TargetList.self])
}

/// What `target` prints for each disk.
struct DiskTargets: Encodable {
    let disk: String
    let targets: [TargetReport]

    init(_ disk: String, _ sharing: ConsistencyGroup, _ catalogue: Catalogue, isUploading: Bool) throws {
        self.disk = disk
        targets = try TargetReport.all(ofDisk: disk, sharing, catalogue, isUploading: isUploading).reports
    }

    static func all(of group: ConsistencyGroup, _ site: SiteOptions, _ catalogue: Catalogue) throws -> [DiskTargets] {
        let isUploading = try SiteLock.isTaken(site.directory.uploadLockPath)
        return try group.diskNames.map { try DiskTargets($0, group, catalogue, isUploading: isUploading) }
    }

    static func text(_ disks: [DiskTargets]) -> String {
        tableText([["DISK", "VAULT", "POLICY", "HEALTH", "REPLICATION"]] + disks.flatMap { disk in
            disk.targets.map { [disk.disk, $0.vault, $0.policy, $0.health, $0.replicationText] }
        })
    }
}

extension Catalogue {
    /// All disks that share points with one another under that name: a disk, machine or replication group. A part of such a unit is refused.
    func sharing(named name: String) throws -> ConsistencyGroup {
        let groups = try consistencyGroups()
        if let found = groups.first(where: { $0.name == name }) { return found }
        if let larger = groups.first(where: { $0.disks.contains { $0.name == name || $0.machine == name } }) {
            throw Failure(
                .inUse, "\(name) shares recovery points with all of \(larger.name) (\(larger.diskNames.joined(separator: ", "))), which have their targets together", try: "name \(larger.name)")
        }
        throw Failure(.notFound, "this site protects no disk, machine or group named \(name)", try: "farshore status")
    }
}

struct TargetList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the targets of a disk, machine or group, or of all disks.", discussion: "Example:\n  farshore target list db1")

    @Argument(help: "The disk, machine or replication group; none means all.")
    var unit: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        let isUploading = try SiteLock.isTaken(site.directory.uploadLockPath)
        let disks = try catalogue.consistencyGroups().flatMap { group in
            try group.disks.filter { unit == nil || [group.name, $0.machine, $0.name].contains(unit) }.map { try DiskTargets($0.name, group, catalogue, isUploading: isUploading) }
        }
        if let unit, disks.isEmpty { throw Failure(.notFound, "this site protects no disk, machine or group named \(unit)", try: "farshore status") }
        try output.print(disks.sorted { $0.disk < $1.disk }) { $0.isEmpty ? "no disk is protected on this site" : DiskTargets.text($0) }
    }
}
