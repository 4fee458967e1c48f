// `farshore machine list|show|edit`: which disks belong to one machine. They always share recovery points.

import ArgumentParser
import Site

struct MachineCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "machine",
        abstract: "Machines: disks that are protected together and share recovery points.",
        subcommands: [MachineList.self, MachineShow.self, MachineEdit.self])
}

struct MachineDocument: Encodable {
    let machine: String
    let group: String?
    let disks: [String]

    init(_ machine: Machine) {
        self.machine = machine.name
        group = machine.group
        disks = machine.disks.map(\.name)
    }

    var text: String { "\(machine): \(disks.joined(separator: ", "))" + (group.map { "  (group \($0))" } ?? "") }
}

struct MachineList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the machines of this site.",
        discussion: "A disk that was protected without --machine is a machine of its own.\n\nExample:\n  farshore machine list")

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.print(try site.catalogue().machines().map(MachineDocument.init)) { machines in
            guard !machines.isEmpty else { return "no disk is protected on this site" }
            return tableText([["MACHINE", "GROUP", "DISKS"]] + machines.map { [$0.machine, $0.group ?? "-", $0.disks.joined(separator: ", ")] })
        }
    }
}

struct MachineShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show one machine.",
        discussion: "Example:\n  farshore machine show web1")

    @Argument(help: "The machine.")
    var machine: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws { try output.print(MachineDocument(try site.catalogue().machine(named: machine)), text: \.text) }
}

struct MachineEdit: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "edit",
        abstract: "Add disks to a machine or take them out.",
        discussion: """
            A running mount takes it up at its next point. The points there are stay with the disks they have; from the moment the
            vault has all of a disk that was added, points are listed when they are there for it too. A disk that is taken out is a
            machine of its own again.

            Example:
              farshore machine edit web1 --add-disk web1-data --remove-disk web1-scratch
            """)

    @Argument(help: "The machine.")
    var machine: String

    @Option(name: .long, help: ArgumentHelp("A disk of this site that becomes one of the machine; may be repeated.", valueName: "disk"))
    var addDisk: [String] = []

    @Option(name: .long, help: ArgumentHelp("A disk of the machine that becomes a machine of its own; may be repeated.", valueName: "disk"))
    var removeDisk: [String] = []

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard !addDisk.isEmpty || !removeDisk.isEmpty else { throw ValidationError("give --add-disk or --remove-disk") }
    }

    func run() throws {
        let catalogue = try site.catalogue()
        if !removeDisk.isEmpty { try catalogue.take(disks: removeDisk, outOfMachine: machine) }
        if !addDisk.isEmpty { try catalogue.put(disks: addDisk, inMachine: machine) }
        for (disks, what) in [(removeDisk, "is a machine of its own again"), (addDisk, "is a disk of the machine \(machine) now")] {
            for disk in disks { try catalogue.record(.information, disk: disk, "\(disk) \(what)") }
        }
        try output.print(MachineDocument(try catalogue.machine(named: machine)), text: \.text)
    }
}
