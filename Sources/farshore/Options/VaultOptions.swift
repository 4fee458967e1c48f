// Which vault a command works with and what opens it; and what the vault's errors mean to the person at the terminal.

import ArgumentParser
import BlockIO
import Foundation
import Glibc
import ObjectStore
import Site
import Vault

struct KeyOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("A key file (32 bytes, hex or base64) or a recovery kit that opens the vault.", valueName: "file"))
    var keyFile: String?

    @Option(name: .long, help: ArgumentHelp("A file that holds the vault's passphrase.", valueName: "file"))
    var passphraseFile: String?

    func validate() throws {
        guard keyFile == nil || passphraseFile == nil else { throw ValidationError("give --key-file or --passphrase-file, not both") }
    }

    var files: KeyFiles { KeyFiles(keyFile: keyFile, passphraseFile: passphraseFile) }

    var isGiven: Bool { keyFile != nil || passphraseFile != nil }

    func source() throws(VaultError) -> KeySource { try files.read() }
}

struct VaultOptions: ParsableArguments {
    @Option(name: .customLong("vault"), help: ArgumentHelp("The vault: file:///dir, s3://bucket/prefix?endpoint=…&region=… or azblob://account/container/prefix", valueName: "url"))
    var url: String

    @OptionGroup var key: KeyOptions

    func open(_ site: SiteOptions) throws -> Vault {
        try openVault(url: url, key: key, site: site)
    }
}

/// Opens the vault at `url`, remembering in the site directory what was seen of it.
func openVault(url: String, key: KeyOptions, site: SiteOptions) throws -> Vault {
    try Vault.open(store: openStore(url: url), key: try key.source(), memory: headMemory(site), keyFiles: key.files)
}

/// The same by the key that this site opens that vault with, where none was given and it knows one. For commands that keep no note of the key.
func openKnownVault(url: String, key: KeyOptions, site: SiteOptions) throws -> Vault {
    guard !key.isGiven, let place = site.vaultPlace(at: url) else { return try openVault(url: url, key: key, site: site) }
    return try openVault(at: place, site: site.directory)
}

extension SiteOptions {
    /// Where there is no catalogue, or it cannot be read (a rescue), nothing is known, and a key has to be given.
    fileprivate func vaultPlace(at url: String) -> VaultPlace? {
        access(directory.cataloguePath, F_OK) == 0 ? try? catalogue().vaultPlace(at: url) : nil
    }
}

/// Where a site directory cannot be made (a rescue system), the vault still opens, without protection against rollback.
func headMemory(_ site: SiteOptions) -> HeadMemory {
    do {
        try site.directory.create()
        return HeadMemory(folder: site.directory.headsFolder)
    } catch {
        printError("farshore: warning: an older state of the vault will not be noticed: \(error)")
        return HeadMemory(folder: nil)
    }
}

extension Failure {
    init(_ error: VaultError) {
        switch error {
        case .unknownKey: self.init(.wrongKey, error.description, try: "give the key file or passphrase of the last `farshore vault key rotate`, or the recovery kit that it printed")
        case .wrongKey: self.init(.wrongKey, error.description, try: "give the key file or passphrase this vault was made with, or its recovery kit as --key-file")
        case .incomplete:
            self.init(
                .integrityDamage, error.description,
                try: "bring these objects there from the vault it was copied from, each at its key (farshore vault check URL names them all), or copy that vault to an empty place: farshore vault copy FROM --to URL --create")
        case .missing where error.lacksKeys:
            self.init(
                .wrongKey, "the vault is encrypted, but none of its key objects is there (keys/1 is missing): no key file or passphrase opens it",
                try: "the recovery kit as --key-file, which needs no key objects; farshore vault key add URL --key-file KIT --new-key-file FILE makes one again")
        case .damaged, .missing:
            self.init(.integrityDamage, error.description, try: "run `farshore vault check URL --read-data` to see which points are affected")
        case .rolledBack:
            self.init(.integrityDamage, error.description, try: "ask who operates the target; only if the vault was restored on purpose, remove the file for this chain in the site's heads folder")
        case .notKept:
            self.init(.integrityDamage, error.description, try: "ask who operates the target, then run the command again")
        case .fenced: self.init(.fenced, error.description, try: "stop this uploader: another host replicates this disk now")
        case .conflict: self.init(.failed, error.description, try: "run the command again")
        case .unsupportedVersion: self.init(.failed, error.description, try: "use a newer version of farshore")
        case .noVault: self.init(.notFound, error.description, try: "check the URL, its prefix too; a farshore.json that was deleted comes back from a copy of the vault, or an older version of it; `farshore vault create` is for an empty place only")
        case .alreadyExists: self.init(.inUse, error.description, try: "use another name or location")
        case .notFound: self.init(.notFound, error.description, try: "`farshore point list DISK --vault URL` shows what is there")
        case .noKeyFile(let path): self.init(.notFound, error.description, try: "bring \(path) back from a copy; where the command takes --key-file, the recovery kit opens the vault too")
        case .refused(_, let remedy): self.init(.failed, error.description, try: remedy ?? "what the message says; until then the same command is refused again")
        case .store(let error): self.init(error)
        case .memory(let cause):
            let failure = Failure(cause)
            self.init(failure.status, error.description, try: failure.remedy)
        }
    }

    /// Where the command was given a key, the commands that it tells to try get it too.
    func repeatingKey(of words: [String]) -> Failure {
        guard !remedy.contains("-file "), let key = Self.key(in: words) else { return self }
        let opening = #/farshore (?:vault (?:check|undo|lock|key list)|point list [^ `;,)]+ --vault) [^ `;,)]+/#
        return Failure(status, message, try: remedy.replacing(opening) { "\($0.output) \(key)" })
    }

    private static func key(in words: [String]) -> String? {
        for option in ["--key-file", "--passphrase-file"] {
            if let place = words.firstIndex(of: option), place + 1 < words.count { return "\(option) \(shellWord(words[place + 1]))" }
            if let word = words.first(where: { $0.hasPrefix(option + "=") }) { return "\(option) \(shellWord(String(word.dropFirst(option.count + 1))))" }
        }
        return nil
    }

    init(_ error: StoreError) {
        let status: ExitStatus =
            switch error.code {
            case .unreachable, .timedOut, .throttled, .serverFault, .corruptResponse, .redirected, .bucketMissing, .untrusted: .targetUnreachable
            case .credentialsRefused, .credentialsExpired, .accessDenied, .clockSkew: .credentialsRefused
            case .notEnoughSpace: .notEnoughSpace
            case .notFound: .notFound
            case .badLocation: .usage
            case .alreadyExists, .outOfRange, .unsupported, .heldBack: .failed
            }
        self.init(status, error.message, try: error.remedy)
    }
}
