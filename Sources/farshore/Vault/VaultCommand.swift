// `farshore vault …`: make a vault, check it, copy it, collect what is not needed, forget a disk, keep its keys.

import ArgumentParser

struct VaultCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vault",
        abstract: "Create, check, copy and clean vaults, forget disks, export keys.",
        subcommands: [VaultCreate.self, VaultCheckCommand.self, VaultCopyCommand.self, VaultAdopt.self, VaultCollect.self, VaultForget.self, VaultKeyCommand.self])
}
