// `farshore group …`: replication groups, machines that share recovery points.

import ArgumentParser
import Site
import Vault

struct GroupCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "group",
        abstract: "Replication groups: machines that share recovery points.",
        subcommands: [GroupCreate.self, GroupList.self, GroupShow.self, GroupAdd.self, GroupRemove.self, GroupDelete.self])
}

struct GroupDocument: Encodable {
    let group: String
    let id: String
    let machines: [String]
    let disks: [String]

    init(_ group: ReplicationGroup) {
        self.group = group.name
        id = group.id
        machines = group.machines.map(\.name)
        disks = group.disks.map(\.name)
    }

    var text: String { "\(group): " + (machines.isEmpty ? "no machine yet" : "machines \(machines.joined(separator: ", ")); disks \(disks.joined(separator: ", "))") }
}

extension Catalogue {
    /// The id of the site's group of that name, when it has one.
    func vaultID(ofGroup name: String) throws(SiteError) -> VaultID? { try groups().first { $0.name == name }.flatMap { VaultID($0.id) } }
}

/// The vaults of the machines' disks have no group of that name with disks of another host.
func refuseTaken(_ group: String, machines: [String], _ site: SiteOptions) throws {
    let catalogue = try site.catalogue()
    var seen: Set<String> = []
    for machine in machines {
        guard let first = try catalogue.machine(named: machine).disks.first else { continue }
        for disk in try catalogue.targets(ofDisk: first.name) where seen.insert(disk.vaultID).inserted {
            try site.openVault(of: disk).catalog().document.refuseTaken(group, for: try catalogue.vaultID(ofGroup: group), own: Set(try catalogue.disks().map(\.id)))
        }
    }
}

struct GroupCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Make a replication group.",
        discussion: """
            All its disks are on this host and have the same targets. A group with disks of another host is refused.

            Example:
              farshore group create shop web1 db1
            """)

    @Argument(help: "The group's name: 1 to 64 of letters, digits, . _ -")
    var group: String

    @Argument(help: "Machines of this site.")
    var machines: [String] = []

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard Catalog.isValidName(group) else { throw ValidationError("\(group.debugDescription) cannot name a group: use 1 to 64 of letters, digits, . _ -, not starting with . or -") }
    }

    func run() throws {
        let catalogue = try site.catalogue()
        try refuseTaken(group, machines: machines, site)
        try catalogue.addGroup(named: group, machines: machines)
        try catalogue.record(.information, disk: nil, "replication group \(group) made" + (machines.isEmpty ? "" : " of \(machines.joined(separator: ", "))"))
        try output.print(GroupDocument(try catalogue.group(named: group)), text: \.text)
    }
}

struct GroupList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the replication groups of this site.",
        discussion: "Example:\n  farshore group list --json")

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.print(try site.catalogue().groups().map(GroupDocument.init)) { groups in
            guard !groups.isEmpty else { return "no replication groups" }
            return tableText([["GROUP", "MACHINES", "DISKS"]] + groups.map { [$0.group, $0.machines.joined(separator: ", "), $0.disks.joined(separator: ", ")] })
        }
    }
}

struct GroupShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show one replication group.",
        discussion: "Example:\n  farshore group show shop")

    @Argument(help: "The group.")
    var group: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws { try output.print(GroupDocument(try site.catalogue().group(named: group)), text: \.text) }
}

struct GroupAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Put machines into a replication group.",
        discussion: """
            A running mount takes it up at its next point. Points cut before have only the disks there were; once the vault has all
            of the new disks, points are listed when they are there for these too.

            Example:
              farshore group add shop cache1
            """)

    @Argument(help: "The group.")
    var group: String

    @Argument(help: "Machines of this site.")
    var machines: [String]

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        _ = try catalogue.group(named: group)
        try refuseTaken(group, machines: machines, site)
        try catalogue.put(machines: machines, inGroup: group)
        try catalogue.record(.information, disk: nil, "\(machines.joined(separator: ", ")) put into the replication group \(group)")
        try output.print(GroupDocument(try catalogue.group(named: group)), text: \.text)
    }
}

struct GroupRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Take machines out of a replication group.",
        discussion: """
            They stay protected, with all their points, and get points of their own from now on.

            Example:
              farshore group remove shop cache1
            """)

    @Argument(help: "The group.")
    var group: String

    @Argument(help: "Machines of the group.")
    var machines: [String]

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        _ = try catalogue.group(named: group)
        try catalogue.take(machines: machines, outOfGroup: group)
        try catalogue.record(.information, disk: nil, "\(machines.joined(separator: ", ")) taken out of the replication group \(group)")
        try output.print(GroupDocument(try catalogue.group(named: group)), text: \.text)
    }
}

struct GroupDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete",
        abstract: "Dissolve a replication group; its machines stay protected, each on its own.",
        discussion: "Example:\n  farshore group delete shop")

    @Argument(help: "The group.")
    var group: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        let document = GroupDocument(try catalogue.group(named: group))
        try catalogue.remove(group: group)
        try catalogue.record(.information, disk: nil, "replication group \(group) dissolved")
        try output.print(document) { "\($0.group): dissolved" }
    }
}
