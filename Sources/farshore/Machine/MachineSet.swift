// `farshore machine set`: how a machine is started elsewhere, which of its disks are left out, and how it comes to rest for a point.

import ArgumentParser
import Failover
import Replication
import Site
import Vault

struct MachineOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("The machine's name at the target.", valueName: "name"))
    var targetName: String?

    @Option(name: .long, help: "Processors.")
    var cpus: Int?

    @Option(name: .long, help: ArgumentHelp("Memory, such as 4GiB.", valueName: "bytes"))
    var memory: String?

    @Option(name: .long, help: ArgumentHelp("bios or uefi.", valueName: "firmware"))
    var firmware: String?

    @Option(name: .long, help: ArgumentHelp("A network adapter: network=NAME[,ip=A][,test=NAME][,test-ip=A][,mac=M]; may be repeated, the first is the default one. Replaces those there were.", valueName: "adapter"))
    var nic: [String] = []

    @Option(name: .long, help: ArgumentHelp("A disk in its place: NAME[,serial=S][,excluded=SIZE]; may be repeated, replaces those there were. An excluded one is not replicated and comes up empty.", valueName: "disk"))
    var disk: [String] = []

    @Option(name: .long, help: ArgumentHelp("Starts the machine.", valueName: "command"))
    var start: String?

    @Option(name: .long, help: ArgumentHelp("Shuts the machine down; returns when it is off.", valueName: "command"))
    var stop: String?

    @Option(name: .long, help: ArgumentHelp("Succeeds when the machine does its work.", valueName: "command"))
    var check: String?

    @Option(name: .long, help: ArgumentHelp("How long each of the three may take (default: 5m).", valueName: "span"))
    var commandTimeout: String?

    @Option(name: .long, help: ArgumentHelp("The socket of the machine's QEMU guest agent.", valueName: "path"))
    var agent: String?

    @Option(name: .long, help: ArgumentHelp("Runs before an app-consistent point.", valueName: "command"))
    var beforePoint: String?

    @Option(name: .long, help: ArgumentHelp("Runs after it, also where it failed.", valueName: "command"))
    var afterPoint: String?

    @Option(name: .long, help: ArgumentHelp("Runs when the guest agent does not let the machine run on in time.", valueName: "command"))
    var rescue: String?

    @Option(name: .long, help: ArgumentHelp("The machine runs on after that time at the latest, 2s to 2m (default: 10s).", valueName: "span"))
    var freezeTimeout: String?

    /// `none` takes a value away.
    func change(_ settings: inout MachineSettings) throws {
        func text(_ value: String?, _ place: inout String?) { if let value { place = value == "none" ? nil : value } }
        text(targetName, &settings.targetName)
        text(start, &settings.start)
        text(stop, &settings.stop)
        text(check, &settings.check)
        settings.cpus = cpus ?? settings.cpus
        if let memory {
            guard let bytes = Quantity.bytes(memory) else { throw ValidationError("\(memory.debugDescription) is no amount of memory: write 4GiB") }
            settings.memoryBytes = bytes
        }
        if let firmware {
            guard let known = MachineSettings.Firmware(rawValue: firmware) else { throw ValidationError("--firmware is bios or uefi, not \(firmware.debugDescription)") }
            settings.firmware = known
        }
        if let commandTimeout { settings.commandSeconds = try Self.seconds(commandTimeout) }
        if !nic.isEmpty { settings.adapters = nic == ["none"] ? nil : try nic.map(Self.adapter) }
        if !disk.isEmpty { settings.disks = disk == ["none"] ? nil : try disk.map(Self.disk) }
        var freeze = settings.freeze ?? MachineSettings.Freeze()
        text(agent, &freeze.agent)
        text(beforePoint, &freeze.before)
        text(afterPoint, &freeze.after)
        text(rescue, &freeze.rescue)
        if let freezeTimeout { freeze.seconds = try Self.seconds(freezeTimeout) }
        settings.freeze = freeze == MachineSettings.Freeze() ? nil : freeze
    }

    private static func seconds(_ text: String) throws -> Int {
        guard let seconds = Quantity.seconds(text).flatMap({ Int(exactly: $0) }) else { throw ValidationError("\(text.debugDescription) is no span of time: write 30s, 5m, 2h or 15d") }
        return seconds
    }

    private static func adapter(_ text: String) throws -> MachineSettings.Adapter {
        var values = try pairs(text, known: ["network", "ip", "test", "test-ip", "mac"])
        guard let network = values.removeValue(forKey: "network") else { throw ValidationError("--nic \(text.debugDescription) lacks network=NAME") }
        return MachineSettings.Adapter(network: network, testNetwork: values["test"], address: values["ip"], testAddress: values["test-ip"], mac: values["mac"])
    }

    private static func disk(_ text: String) throws -> MachineSettings.Disk {
        let name = text.prefix { $0 != "," }
        let values = try pairs(String(text.dropFirst(name.count + 1)), known: ["serial", "excluded"])
        let size = try values["excluded"].map { size in
            guard let bytes = Quantity.bytes(size) else { throw ValidationError("\(size.debugDescription) is no size: write 4GiB") }
            return bytes
        }
        return MachineSettings.Disk(name: String(name), serial: values["serial"], excludedSizeBytes: size)
    }

    private static func pairs(_ text: String, known: Set<String>) throws -> [String: String] {
        var found: [String: String] = [:]
        for part in text.split(separator: ",") {
            let words = part.split(separator: "=", maxSplits: 1).map(String.init)
            guard words.count == 2, known.contains(words[0]), found.updateValue(words[1], forKey: words[0]) == nil else {
                throw ValidationError("\(part.debugDescription) is none of \(known.sorted().map { "\($0)=…" }.joined(separator: ", "))")
            }
        }
        return found
    }
}

extension MachineSettings {
    /// Disks are those of the machine, or are left out of replication.
    func refuseForeignDisks(known: Set<String>) throws {
        for disk in disks ?? [] where (disk.excludedSizeBytes == nil) != known.contains(disk.name) {
            throw Failure(
                .notFound, known.contains(disk.name) ? "the disk \(disk.name) is replicated; an excluded one is not" : "the machine \(name) has no disk named \(disk.name)",
                try: known.contains(disk.name) ? "farshore unprotect \(disk.name) first, or leave excluded= out" : "farshore machine show \(name); an excluded disk needs excluded=SIZE")
        }
    }
}

struct MachineSet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set",
        abstract: "Say how a machine is started elsewhere and how it comes to rest for a point.",
        discussion: """
            What is not given stays; `none` takes a text away. The vault has the settings with the next upload, so that a host
            that recovers the machine needs nothing else. The commands are run by /bin/sh with the settings in the
            environment (docs/operating/machines.md). --vault changes them in the vault, on a host that recovers the machine:
            what is wrong there does not keep it from starting. The host that protects it keeps its own, and gives them
            to the vault again only when they are changed there.

            Example:
              farshore machine set web1 --cpus 4 --memory 8GiB --firmware uefi --nic network=lan,ip=10.1.0.5,test=isolated
              farshore machine set web1 --agent /run/web1-agent.sock --rescue "rescue-thaw web1"
              farshore machine set web1 --disk web1-root,serial=A1 --disk web1-swap,excluded=8GiB
              farshore machine set web1 --nic network=lan,ip=10.1.0.6 --vault s3://backup/vault --key-file vault.key
            """)

    @Argument(help: "The machine.")
    var machine: String

    @OptionGroup(title: "Settings") var options: MachineOptions

    @Flag(name: .long, help: "Forget all settings there are first.")
    var reset = false

    @Option(name: .long, help: ArgumentHelp("Change the settings in this vault, on a host that does not protect the machine.", valueName: "url"))
    var vault: String?

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard vault != nil || (key.keyFile == nil && key.passphraseFile == nil) else { throw ValidationError("a key is of use only with --vault") }
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let role = try catalogue.disks().first { $0.machine == machine }?.role
        if let vault {
            guard role != .source else { throw Failure(.failed, "this site protects \(machine), and gives the vault its settings", try: "the same without --vault, then farshore upload --once") }
            return try change(in: try openVault(url: vault, key: key, site: site), catalogue)
        }
        guard role == .source || role == nil else { throw Failure(.failed, "\(machine) was failed over to this host; its settings are in the vault", try: "the same with --vault URL") }
        let known = try catalogue.machine(named: machine)
        let before = reset ? MachineSettings(name: machine) : try catalogue.settings(ofMachine: machine)
        var settings = before
        try options.change(&settings)
        try settings.refuseForeignDisks(known: Set(known.disks.map(\.name)))
        guard reset || settings != before else { throw ValidationError("nothing to change is given") }
        try catalogue.set(settings)
        try catalogue.record(.information, disk: nil, "settings of the machine \(machine) changed")
        try output.print(try MachineDocument(known, catalogue), text: \.text)
    }

    private func change(in vault: Vault, _ catalogue: Catalogue) throws {
        let catalog = try vault.catalog().document
        let disks = catalog.disks.filter { $0.machineName == machine }.map(\.name).sorted()
        guard !disks.isEmpty else { throw Failure(.notFound, "the vault has no machine named \(machine)", try: "farshore point list --vault URL") }
        let before = reset ? nil : catalog.settings(ofMachine: machine)
        var settings = before ?? MachineSettings(name: machine)
        try options.change(&settings)
        try settings.refuseForeignDisks(known: Set(disks))
        if let flaw = settings.flaw { throw Failure(.failed, "the settings of \(machine) would have \(flaw)", try: "farshore machine set --help") }
        guard reset || settings != before else { throw ValidationError("nothing to change is given") }
        let changed = settings
        try vault.updateCatalog { $0.set(changed) }
        try catalogue.record(.information, disk: nil, "settings of the machine \(machine) changed in the vault")
        try output.print(MachineDocument(machine: machine, disks: disks, settings: settings), text: \.text)
    }
}
