// `farshore vault key list|export`: which keys open the vault, and its recovery kit once more. VaultKeyChange.swift has the rest.

import ArgumentParser
import Foundation
import Vault

struct VaultKeyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key", abstract: "List, add, rotate and remove the keys of a vault, print its recovery kit.",
        subcommands: [VaultKeyList.self, VaultKeyAdd.self, VaultKeyRotate.self, VaultKeyRemove.self, VaultKeyExport.self])
}

struct VaultKeyList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the passphrases and key files that open the vault.",
        discussion: "Example:\n  farshore vault key list file:///backup/vault --key-file /etc/farshore/vault.key")

    struct Document: Encodable {
        let number: Int
        let kind: String
        let label: String
        let created: String
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let vault = try openVault(url: url, key: key, site: site)
        let keys = try vault.keyDescriptions().map {
            Document(number: $0.number, kind: $0.kind, label: $0.label, created: timeText(nanoseconds: $0.createdMicros.multipliedReportingOverflow(by: 1000).partialValue))
        }
        try output.print(keys) { keys in
            keys.isEmpty ? "This vault is not encrypted." : tableText([["NUMBER", "KIND", "LABEL", "CREATED"]] + keys.map { ["\($0.number)", $0.kind, $0.label, $0.created] })
        }
    }
}

struct VaultKeyExport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Print the recovery kit again.",
        discussion: "Example:\n  farshore vault key export file:///backup/vault --key-file /etc/farshore/vault.key > kit.txt")

    struct Document: Encodable {
        let vault: String
        let recoveryKit: String
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let kit = try openVault(url: url, key: key, site: site).recoveryKit()
        try output.print(Document(vault: kit.vault.description, recoveryKit: kit.text)) { $0.recoveryKit }
    }
}
