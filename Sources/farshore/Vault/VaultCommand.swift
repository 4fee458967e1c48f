// `farshore vault …`: make a vault, check it, forget a disk, keep its keys.

import ArgumentParser

struct VaultCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vault",
        abstract: "Create and check vaults, forget disks, export keys.",
        subcommands: [VaultCreate.self, VaultCheckCommand.self, VaultForget.self, VaultKeyCommand.self])
}
