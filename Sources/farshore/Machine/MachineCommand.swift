// `farshore machine list|show|edit|set`: which disks belong to one machine, which always share recovery points, and its settings.

import ArgumentParser
import Foundation
import Replication
import Site
import Vault

struct MachineCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "machine",
        abstract: "Machines: disks that are protected together and share recovery points.",
        subcommands: [MachineList.self, MachineShow.self, MachineEdit.self, MachineSet.self, MachineCheck.self])
}

struct MachineDocument: Encodable {
    let machine: String
    let group: String?
    let disks: [String]
    /// Absent where none were given.
    let settings: MachineSettings?

    init(_ machine: Machine, _ catalogue: Catalogue) throws {
        self.machine = machine.name
        group = machine.group
        disks = machine.disks.map(\.name)
        let known = try catalogue.settings(ofMachine: machine.name)
        settings = known == MachineSettings(name: machine.name) ? nil : known
    }

    init(machine: String, disks: [String], settings: MachineSettings) {
        self.machine = machine
        group = nil
        self.disks = disks
        self.settings = settings
    }

    var text: String { (["\(machine): \(disks.joined(separator: ", "))" + (group.map { "  (group \($0))" } ?? "")] + (settings?.lines ?? [])).joined(separator: "\n") }
}

extension MachineSettings {
    /// For people, those that are set.
    var lines: [String] {
        var lines: [String] = []
        func add(_ name: String, _ value: String?) { if let value { lines.append("  " + name.padding(toLength: 12, withPad: " ", startingAt: 0) + value) } }
        add("target name", targetName)
        add("processors", cpus.map { "\($0)" })
        add("memory", memoryBytes.map(Quantity.bytesText))
        add("firmware", firmware?.rawValue)
        for (number, adapter) in (adapters ?? []).enumerated() { add("network \(number)", adapter.text) }
        for (number, disk) in (disks ?? []).enumerated() { add("disk \(number)", disk.text) }
        add("start", start)
        add("stop", stop)
        add("check", check)
        if let seconds = commandSeconds { add("commands", "at most \(Quantity.spanText(seconds: UInt64(seconds))) each") }
        guard let freeze else { return lines }
        add("agent", freeze.agent)
        add("before point", freeze.before)
        add("after point", freeze.after)
        add("rescue", freeze.rescue)
        add("at rest", "at most \(Quantity.spanText(seconds: UInt64(freeze.seconds)))")
        return lines
    }
}

extension MachineSettings.Adapter {
    fileprivate var text: String {
        let test = testNetwork.map { "; in a test \($0), \(testAddress ?? "DHCP")" } ?? "; left out of a test"
        return "\(network), \(address ?? "DHCP")" + (mac.map { ", \($0)" } ?? "") + test
    }
}

extension MachineSettings.Disk {
    fileprivate var text: String {
        name + (serial.map { ", serial \($0)" } ?? "") + (excludedSizeBytes.map { ", not replicated, comes up empty with \(Quantity.bytesText($0))" } ?? "")
    }
}

struct MachineList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the machines of this site.",
        discussion: "A disk that was protected without --machine is a machine of its own.\n\nExample:\n  farshore machine list")

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.print({ catalogue in try catalogue.machines().map { try MachineDocument($0, catalogue) } }(site.catalogue())) { machines in
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

    func run() throws {
        let catalogue = try site.catalogue()
        try output.print(try MachineDocument(catalogue.machine(named: machine), catalogue), text: \.text)
    }
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
        try output.print(try MachineDocument(catalogue.machine(named: machine), catalogue), text: \.text)
    }
}
