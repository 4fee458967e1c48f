// `farshore host list` and `host remove`: the hosts of a vault as it tells of them now.

import ArgumentParser
import BlockIO
import Foundation
import Replication
import Site
import Vault

/// The vault given, or those that this site knows: where its disks go, or that it joined.
struct HostVaultOptions: ParsableArguments {
    @Option(name: .customLong("vault"), help: ArgumentHelp("The vault (default: those this site's disks go to, and those it joined).", valueName: "url"))
    var url: String?

    @OptionGroup var key: KeyOptions

    func validate() throws {
        guard url != nil || !key.isGiven else { throw ValidationError("a key is of use only with --vault") }
    }

    func open(_ site: SiteOptions) throws -> [(url: String, vault: Vault)] {
        if let url { return [(url, try openKnownVault(url: url, key: key, site: site))] }
        let places = try site.catalogue().vaultPlaces()
        guard !places.isEmpty else { throw Failure(.notFound, "this site knows no vault", try: "--vault URL --key-file FILE") }
        return try places.map { ($0.url, try openVault(at: $0, site: site.directory)) }
    }
}

func openVault(at place: VaultPlace, site: SiteDirectory) throws -> Vault {
    try openVault(url: place.url, files: KeyFiles(keyFile: place.keyFile, passphraseFile: place.passphraseFile), site: site)
}

struct HostListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the hosts of a vault: role, version, last contact, lag, and the disks each one writes.",
        discussion: """
            Read from the vault at each call. A host is in contact while its uploader runs, busy or idle; the time of a contact is that host's clock, its age is taken by the
            target's clock where it tells one. The lag is what the host itself measured at that contact. `never`: it joined, or wrote as an older version, and was not in contact yet.

            Example:
              farshore host list
            """)

    @OptionGroup var vault: HostVaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let vault: String
        let url: String
        let hosts: [HostReport]
    }

    func run() throws {
        let own = try site.directory.knownHostID().flatMap { VaultID($0) }
        let silent = access(site.directory.cataloguePath, F_OK) == 0 ? try site.catalogue().silentHosts() : []
        let documents = try vault.open(site).map { url, vault in
            Document(vault: vault.id.description, url: url, hosts: try HostReport.all(of: vault, own: own, silent: silent.filter { $0.vault == vault.id.description }))
        }
        try output.print(documents) { documents in
            documents.map { document in
                let rows = [["HOST", "NAME", "ROLE", "VERSION", "LAST CONTACT", "LAG", "DISKS"]] + document.hosts.map(\.row)
                return "\(document.url)\n\(document.hosts.isEmpty ? "no host is known" : tableText(rows))"
            }.joined(separator: "\n\n")
        }
    }
}

struct HostReport: Encodable {
    struct Disk: Encodable {
        let disk: String
        let sequence: UInt64
        /// When the vault got its newest head.
        let written: String
    }

    let host: String
    let name: String
    let isThisHost: Bool
    let role: String
    let version: String?
    let lastContact: String?
    let contactSeconds: UInt64?
    let isSilent: Bool
    let lagSeconds: UInt64?
    let disks: [Disk]

    static func all(of vault: Vault, own: VaultID?, silent: [SilentHost]) throws -> [HostReport] {
        let catalog = try vault.catalog().document
        let heads = try Set(catalog.disks.map(\.group)).compactMap { try vault.heads(group: $0).newest()?.document }
        var names: [VaultID: String] = [:]
        for head in heads { if let id = head.writer.id { names[id] = head.writer.host } }
        for host in catalog.hosts ?? [] { names[host.id] = host.name }
        let now = Vault.micros(at: vault.store)
        return try names.sorted { ($0.value, $0.key.description) < ($1.value, $1.key.description) }.map { id, name in
            let contact = try HostContactChain(vault, of: id).newest()
            let written = heads.filter { $0.writer.id == id && $0.lifeCycle?.lets(id) != false }
            let age = contact.map { (now - min(now, $0.timeMicros)) / 1_000_000 }
            let limit = max(UInt64(ContactSettings.silentSecondsDefault), 3 * (contact?.everySeconds ?? 0))
            return HostReport(
                host: id.description, name: name, isThisHost: id == own, role: written.isEmpty ? contact?.role.rawValue ?? HostContact.Role.target.rawValue : HostContact.Role.source.rawValue,
                version: contact?.version, lastContact: contact.map { timeText(nanoseconds: $0.timeMicros * 1_000) }, contactSeconds: age,
                isSilent: silent.contains { $0.host == id.description } || age.map { $0 > limit } == true, lagSeconds: contact?.lagSeconds,
                disks: written.flatMap { head in
                    catalog.disks(inGroup: head.group).compactMap { disk in
                        head.state(of: disk.id).map { Disk(disk: disk.name, sequence: $0.newestSequence, written: timeText(nanoseconds: head.timeMicros * 1_000)) }
                    }
                }.sorted { $0.disk < $1.disk })
        }
    }

    var row: [String] {
        let contact = contactSeconds.map { "\(durationText(seconds: Double($0))) ago" + (isSilent ? ", SILENT" : "") } ?? "never"
        return [
            String(host.prefix(8)), name + (isThisHost ? " (this host)" : ""), role, version ?? "-", contact, lagSeconds.map { durationText(seconds: Double($0)) } ?? "-",
            disks.isEmpty ? "-" : disks.map(\.disk).joined(separator: ", "),
        ]
    }
}

struct HostRemoveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Take a host that is gone for good off a vault's list; nobody waits for its contact any more.",
        discussion: """
            Its disks and points stay in the vault. A host that is still there, or comes back, puts itself on the list again. It keeps the vault's key:
            `farshore vault key rotate` makes new objects unreadable to it.

            Example:
              farshore host remove old-server
            """)

    @Argument(help: "Its name, id, or the first digits of that.")
    var host: String

    @OptionGroup var vault: HostVaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let vault: String
        let host: String
        let name: String
    }

    func run() throws {
        let found = try vault.open(site).flatMap { _, vault in
            try (vault.catalog().document.hosts ?? []).filter { $0.name == host || (host.count >= 8 && $0.id.description.hasPrefix(host)) }.map { (vault: vault, host: $0) }
        }
        guard let one = found.first else { throw Failure(.notFound, "no vault of this site lists a host \(host)", try: "farshore host list") }
        guard found.count == 1 else {
            throw Failure(.usage, "there are several: \(found.map { "\($0.host.id) (\($0.host.name))" }.joined(separator: ", "))", try: "farshore host remove HOST with the id, and --vault")
        }
        try one.vault.unlist(host: one.host.id)
        try output.print(Document(vault: one.vault.id.description, host: one.host.id.description, name: one.host.name)) { "\($0.name): taken off the list" }
    }
}
