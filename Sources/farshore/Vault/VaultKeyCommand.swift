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
        discussion: """
            OPENS says what for: all data, or only what was written before the last rotation; a question mark where the key given does not open all data itself.

            Example:
              farshore vault key list file:///backup/vault --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        let number: Int
        let kind: String
        let label: String
        let created: String
        /// False: only what was written before the last rotation. Absent: the key given does not tell.
        let opensNewData: Bool?

        var opens: String { opensNewData.map { $0 ? "all data" : "data before the last rotation" } ?? "?" }
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let vault = try openVault(url: url, key: key, site: site)
        let keys = try vault.keyDescriptions().map {
            Document(number: $0.number, kind: $0.kind, label: $0.label, created: timeText(nanoseconds: $0.createdMicros.multipliedReportingOverflow(by: 1000).partialValue),
                opensNewData: $0.opensNewData)
        }
        try output.print(keys) { keys in
            keys.isEmpty ? "This vault is not encrypted." : tableText([["NUMBER", "KIND", "LABEL", "CREATED", "OPENS"]] + keys.map { ["\($0.number)", $0.kind, $0.label, $0.created, $0.opens] })
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
