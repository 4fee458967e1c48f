// `farshore vault …`: make a vault, check it, copy it, collect what is not needed, lock the rest, bring back what was destroyed, forget a disk, keep its keys.

import ArgumentParser

struct VaultCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vault",
        abstract: "Create, check, copy, clean and lock vaults, bring objects back, forget disks, export keys.",
        subcommands: [VaultCreate.self, VaultCheckCommand.self, VaultCopyCommand.self, VaultAdopt.self, VaultCollect.self, VaultLockCommand.self, VaultUndoCommand.self, VaultForget.self, VaultKeyCommand.self])
}
