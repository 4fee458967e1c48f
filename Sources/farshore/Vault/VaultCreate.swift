// `farshore vault create`: makes a vault and prints its recovery kit.

import ArgumentParser
import BlockIO
import ObjectStore
import Vault

struct VaultCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Make a vault in an empty directory, or an empty prefix of a bucket or container, and print its recovery kit.",
        discussion: """
            With --key-file a file that does not exist is made (mode 0600). Keep the recovery kit where the vault is not: it opens
            the vault when key file and passphrase are lost.

            Example:
              farshore vault create file:///backup/vault --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        let vault: String
        let url: String
        let encrypted: Bool
        /// Absent when the vault is not encrypted.
        let recoveryKit: String?
    }

    @Argument(help: ArgumentHelp("file:///dir, s3://bucket/prefix?endpoint=…&region=… or azblob://account/container/prefix", valueName: "url"))
    var url: String

    @Option(name: .long, help: ArgumentHelp("Keep chunks, the bulk of the data, at this other place; logs, maps and heads stay at the first. The URL printed names both.", valueName: "url"))
    var chunksAt: String?

    @OptionGroup var key: KeyOptions

    @Flag(name: .long, help: "Store everything readable for whoever can read the target.")
    var noEncryption = false

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard [key.keyFile != nil, key.passphraseFile != nil, noEncryption].count(where: { $0 }) == 1 else {
            throw ValidationError("give one of --key-file, --passphrase-file, --no-encryption")
        }
    }

    func run() throws {
        let url = chunksAt.map { SplitURL.joined(self.url, chunks: $0) } ?? self.url
        let store = try openStore(url: url, createDirectory: true)
        if let path = key.keyFile { try makeKeyFileIfMissing(path) }
        let (vault, kit) = try Vault.create(store: store, protection: try key.source(), memory: headMemory(site))
        let document = Document(vault: vault.id.description, url: url, encrypted: kit.isEncrypted, recoveryKit: kit.isEncrypted ? kit.text : nil)
        try output.print(document) { document in
            "Created the vault \(document.vault) at \(document.url)\n\n\(kit.text)"
        }
    }
}

func makeKeyFileIfMissing(_ path: String) throws {
    guard try DurableFile.read(path, limitBytes: 1 << 16) == nil else { return }
    try DurableFile.replace(path, with: Array(KeySource.newKeyFileText().utf8), mode: 0o600)
}
