// `farshore host join`: this host becomes one of a vault's, by a registration key.

import ArgumentParser
import BlockIO
import Foundation
import Glibc
import ObjectStore
import Site
import Vault

struct HostJoinCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "join",
        abstract: "Join a vault with a registration key: get its key, note it on this site, and be listed there.",
        discussion: """
            The registration key is read from a file, or from standard input with -; never given on the command line, where others could see it. The vault's key is written to
            --key-file (0600, a new file), which from then on opens the vault here. The same command again ends what a killed one began.
            Refused: a key that has expired, was used by another host, is for another vault, or was removed. `farshore upload` then keeps this host in contact with the vault,
            and tells when another host is silent, though no disk is protected here.
            The host needs the right to write below hosts/ and catalog/ of the vault: examples/least-privilege has it for uploaders.

            Example:
              farshore host join --registration-key registration.txt --key-file /etc/farshore/vault.key
            """)

    @Argument(help: ArgumentHelp("The vault, where this host reaches it by another URL than the registration key says.", valueName: "url"))
    var url: String?

    @Option(name: .long, help: ArgumentHelp("The file with the registration key, - for standard input.", valueName: "file"))
    var registrationKey: String

    @Option(name: .long, help: ArgumentHelp("Where the vault's key goes: a new file. Not needed for a vault that is not encrypted.", valueName: "file"))
    var keyFile: String?

    @Option(name: .long, help: "What the vault calls this host (default: its host name).")
    var name: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let vault: String
        let url: String
        let host: String
        let name: String
        let keyFile: String?
    }

    func validate() throws {
        if let name, !Catalog.isValidName(name) { throw ValidationError("--name is 1 to 64 of letters, digits, . _ -, not starting with . or -") }
    }

    func run() throws {
        let text = try text()
        let registration = try advised { try Registration(text) }
        let catalogue = try site.catalogue()
        guard let host = VaultID(try site.directory.hostID()) else { throw Failure(.failed, "\(site.directory.path)/host-id holds no host id", try: "restore it from a backup") }
        let url = url ?? registration.url
        let store = try openStore(url: url)
        // Told before the registration is used up.
        if try Vault.isEncrypted(store), keyFile == nil { throw Failure(.usage, "the vault is encrypted: its key needs a place", try: "--key-file with a new file") }
        let kit = try advised { try Vault.join(registration, store: store, host: host) }
        let file = kit.isEncrypted ? keyFile.map(absolutePath) : nil
        if let file { try keep(kit, in: file) }
        let files = KeyFiles(keyFile: file, passphraseFile: nil)
        let vault = try Vault.open(store: store, key: try files.read(), memory: headMemory(site), keyFiles: files)
        try catalogue.join(VaultPlace(id: vault.id.description, url: url, keyFile: file, passphraseFile: nil))
        let called = name ?? ProcessInfo.processInfo.hostName
        try vault.list(host: host, name: called, role: .target)
        try catalogue.record(.information, disk: nil, "this host joined the vault \(vault.id) at \(url) as \(called)")
        try output.print(Document(vault: vault.id.description, url: url, host: host.description, name: called, keyFile: file)) {
            "joined \($0.url) as \($0.name)" + ($0.keyFile.map { "; its key is in \($0)" } ?? "") + "\nNext: farshore upload, which keeps the contact"
        }
    }

    private func advised<Value>(_ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as VaultError {
            guard case .refused = error else { throw error }
            throw Failure(.failed, "\(error)", try: "farshore host key URL --out FILE on a host that has the vault's key makes a new one")
        }
    }

    private func text() throws -> String {
        if registrationKey == "-" { return readLine() ?? "" }
        guard let bytes = try DurableFile.read(absolutePath(registrationKey), limitBytes: 65_536) else {
            throw Failure(.notFound, "\(registrationKey) is not there", try: "--registration-key with the file that farshore host key URL wrote")
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// As a kit, which opens the vault by itself. What a killed call wrote is replaced; another file is not.
    private func keep(_ kit: RecoveryKit, in file: String) throws {
        if access(file, F_OK) == 0 {
            guard case .kit(let found) = try KeySource.keyFile(path: file), found.vault == kit.vault else {
                throw Failure(.inUse, "\(file) is there already and is not this vault's key", try: "--key-file with a new file, and the same registration key")
            }
        }
        if let folder = Directory.parent(of: file) { try Directory.create(folder, mode: 0o700) }
        try DurableFile.replace(file, with: Array(kit.text.utf8))
    }
}
