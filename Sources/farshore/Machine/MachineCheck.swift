// `farshore machine check`: could a machine be started on this host now, as its settings say?

import ArgumentParser
import Failover
import Site
import Vault

struct MachineCheck: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check on the target whether a machine can be started there: its settings, its addresses.",
        discussion: """
            Reads the settings from the vault, as a failover does. An IP address that somebody has now is an obstacle, and stops
            a failover. Exits 1 when there is one.

            Example:
              farshore machine check web1 --vault s3://backup/vault --key-file vault.key --test
            """)

    struct Document: Encodable {
        let machine: String
        let hasSettings: Bool
        let isTest: Bool
        let disks: [String]
        let obstacles: [String]
    }

    @Argument(help: "The machine.")
    var machine: String

    @Flag(name: .long, help: "As in a test failover: with the test networks and addresses.")
    var test = false

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalog = try vault.open(site).catalog().document
        let disks = catalog.disks.filter { $0.machineName == machine }.map(\.name)
        guard !disks.isEmpty else { throw Failure(.notFound, "the vault has no machine named \(machine)", try: "farshore point list --vault \(vault.url)") }
        let settings = catalog.settings(ofMachine: machine)
        let document = Document(
            machine: machine, hasSettings: settings != nil, isTest: test, disks: disks.sorted() + (settings?.excluded.map(\.name) ?? []),
            obstacles: settings?.obstacles(isTest: test) ?? [])
        try output.print(document) { document in
            let lines = document.obstacles.map { "  \($0)" }
            return ([document.machine + (document.hasSettings ? "" : ": no settings in the vault") + (lines.isEmpty ? ": nothing stands against it" : ": cannot be started here")] + lines).joined(separator: "\n")
        }
        if let first = document.obstacles.first { throw Failure(.failed, first, try: "free the address, or farshore machine set \(machine) --nic …") }
    }
}
