// `farshore vault key add|rotate|remove`: who can open a vault from now on. No data is sealed again.

import ArgumentParser
import Vault

/// The passphrase or key file that a key object is made for.
struct NewKeyOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("The new key file; made (mode 0600) when it does not exist.", valueName: "file"))
    var newKeyFile: String?

    @Option(name: .long, help: ArgumentHelp("A file that holds the new passphrase.", valueName: "file"))
    var newPassphraseFile: String?

    @Option(name: .long, help: "What you call this key.")
    var label: String?

    func validate() throws {
        guard newKeyFile == nil || newPassphraseFile == nil else { throw ValidationError("give --new-key-file or --new-passphrase-file, not both") }
        guard (label ?? "").utf8.count <= 200 else { throw ValidationError("a label has at most 200 bytes") }
    }

    /// Nil when none is named.
    func source() throws -> KeySource? {
        guard newKeyFile != nil || newPassphraseFile != nil else { return nil }
        if let newKeyFile { try makeKeyFileIfMissing(newKeyFile) }
        return try KeyFiles(keyFile: newKeyFile, passphraseFile: newPassphraseFile).read()
    }
}

struct VaultKeyAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Let another passphrase or key file open the vault.",
        discussion: "Example:\n  farshore vault key add file:///backup/vault --key-file vault.key --new-passphrase-file ops.txt --label operations")

    struct Document: Encodable {
        let number: Int
        let label: String
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @OptionGroup var key: KeyOptions
    @OptionGroup var newKey: NewKeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard newKey.newKeyFile != nil || newKey.newPassphraseFile != nil else { throw ValidationError("give --new-key-file or --new-passphrase-file") }
    }

    func run() throws {
        let vault = try openVault(url: url, key: key, site: site)
        guard let source = try newKey.source() else { return }
        let label = newKey.label ?? "added"
        let document = Document(number: try vault.addKey(source, label: label), label: label)
        try output.print(document) { "The key \($0.number) (\($0.label)) opens the vault too." }
    }
}

struct VaultKeyRotate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rotate",
        abstract: "Seal what is written from now on with a new key.",
        discussion: """
            The key given, or the new one named, opens everything, older points too; all other keys of the vault and the recovery kits
            printed before do not open it any more. Add those that shall go on with `farshore vault key add`, keep the new recovery kit, and bring
            a new key file to every host that uses the vault, at the path that the old one has: a running uploader takes it from there.

            Example:
              farshore vault key rotate file:///backup/vault --key-file vault.key --new-key-file vault-2027.key
            """)

    struct Document: Encodable {
        let number: Int
        let generation: Int
        let recoveryKit: String
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @OptionGroup var key: KeyOptions
    @OptionGroup var newKey: NewKeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let vault = try openVault(url: url, key: key, site: site)
        let source = try newKey.source() ?? key.source()
        let rotated = try vault.rotateKeys(to: source, label: newKey.label ?? "rotated")
        let document = Document(number: rotated.number, generation: try Int(vault.catalog().document.keyGeneration), recoveryKit: rotated.kit.text)
        try output.print(document) { document in
            """
            New objects are sealed with key generation \(document.generation), which key \(document.number) opens. Other keys and older kits do not open the vault any more.

            \(document.recoveryKit)
            """
        }
    }
}

struct VaultKeyRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Remove a key of the vault; give one that stays.",
        discussion: """
            Who had the key removed can still open what was sealed before the last rotation, if he kept a copy of the key's object: rotate too.

            Example:
              farshore vault key remove file:///backup/vault 1 --key-file vault-2027.key
            """)

    struct Document: Encodable {
        let removed: Int
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @Argument(help: "Its number in `farshore vault key list`.")
    var number: Int

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let vault = try openVault(url: url, key: key, site: site)
        do {
            try vault.removeKey(number, keeping: try key.source())
        } catch {
            guard case .notFound(let text) = error else { throw error }
            throw Failure(.notFound, text, try: "`farshore vault key list URL` shows those it has")
        }
        try output.print(Document(removed: number)) { "Removed the key \($0.removed)." }
    }
}
