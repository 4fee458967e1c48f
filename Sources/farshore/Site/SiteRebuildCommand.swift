// `farshore site rebuild`: a catalogue that is gone, made anew from the vault and the logs.

import ArgumentParser
import BlockIO
import DiskImage
import Failover
import Foundation
import Site
import Vault

struct SiteRebuildCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rebuild",
        abstract: "Register the disks of this host again after its catalogue was lost; replication goes on, nothing is sent anew.",
        discussion: """
            Images and logs must still be there. The vault says which disks, machines, groups and settings there are; the logs are found in the
            site's own folders for logs and for recovery disks and in the folders given, and each says where its image is and which policy it had. A disk comes back when
            log, image and vault fit together; all others are named with what is missing, and the command can be run again with it. Disks that the
            catalogue has stay as they are, so a run that was killed is simply repeated. Nothing is written to the vault.
            Jobs, events and the list of chunks in the vault are not brought back.
            Mount and uploader of this site must not run. Where the site's file host-id is lost too, --host-id says who this host is.

            Example:
              farshore site rebuild --vault s3://bucket/vault --key-file /etc/farshore/vault.key --folder /srv/images
            """)

    @OptionGroup var vault: VaultOptions

    @Option(name: .long, help: ArgumentHelp("Where logs are looked for, \(LogSearch.depthMax) levels deep (repeatable; the site's own folders logs and recovery are among them).", valueName: "dir"))
    var folder: [String] = []

    @Option(name: .long, help: ArgumentHelp("The image of a disk, where its log does not say so or it was moved (repeatable). Without a format it is raw.", valueName: "disk=file[,format]"))
    var image: [String] = []

    @OptionGroup var chain: ChainOptions

    @Flag(name: .long, help: "Register disks also where others of their machine or group were not found; their points are their own from then on.")
    var partial = false

    @Option(name: .long, help: ArgumentHelp("Who this host is in the vault where the site's host-id is lost: an id that the vault names, or new.", valueName: "id"))
    var hostId: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        struct Disk: Encodable {
            let disk: String
            let image: String
            let logFolder: String
            let isNew: Bool
        }

        struct Missing: Encodable {
            let subject: String
            let reason: String
            let remedy: String
        }

        let vault: String
        let host: String
        let disks: [Disk]
        let missing: [Missing]
        let warnings: [String]
    }

    func validate() throws {
        _ = try images()
        if let hostId, hostId != "new", VaultID(hostId) == nil { throw ValidationError("--host-id is 32 hex digits, or new") }
    }

    func run() throws {
        // Together they are what a mount and an uploader hold: none of them works with a catalogue that is gone.
        try site.directory.create()
        let locks = (try SiteLock.tryTake(site.directory.mountLockPath), try SiteLock.tryTake(site.directory.uploadLockPath))
        guard locks.0 != nil else { throw Failure(.inUse, "a mount of this site is running, maybe with the catalogue that was lost", try: "farshore unmount DIR") }
        guard locks.1 != nil else { throw Failure(.inUse, "the uploader of this site is running", try: "farshore upload --stop") }
        let opened = try vault.open(site)
        let search = try LogSearch(["logs", "recovery"].map { "\(site.directory.path)/\($0)" }.filter { access($0, F_OK) == 0 } + folder.map(absolutePath), except: site.directory.path)
        let host = try identity(search.logs, opened)
        let catalogue = try site.catalogue()
        let request = SiteRebuild.Request(
            vaultURL: vault.url, keyFile: vault.key.keyFile.map(absolutePath), passphraseFile: vault.key.passphraseFile.map(absolutePath), images: try images(),
            parentFolders: chain.folders.map(absolutePath), isPartial: partial)
        let outcome = try withExtendedLifetime(locks) { try SiteRebuild(catalogue: catalogue, vault: opened, host: host, request).run(search) }
        let document = Document(
            vault: opened.id.description, host: host.description,
            disks: outcome.restored.map { Document.Disk(disk: $0.disk, image: $0.image, logFolder: $0.logFolder, isNew: $0.isNew) },
            missing: outcome.missing.map { Document.Missing(subject: $0.subject, reason: $0.reason, remedy: $0.remedy) }, warnings: outcome.warnings)
        try output.print(document, text: Self.text)
        guard let first = outcome.missing.first else { return }
        throw Failure(.failed, "\(outcome.missing.count) not brought back, the first: \(first.subject): \(first.reason)", try: first.remedy)
    }

    private func images() throws -> [String: (path: String, format: ImageFormat)] {
        var found: [String: (path: String, format: ImageFormat)] = [:]
        for text in image {
            let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2, Catalog.isValidName(parts[0]) else { throw ValidationError("--image \(text): DISK=FILE or DISK=FILE,FORMAT") }
            let named = parts[1].lastIndex(of: ",").flatMap { comma in ImageFormat(rawValue: String(parts[1][parts[1].index(after: comma)...])).map { (String(parts[1][..<comma]), $0) } }
            found[parts[0]] = (absolutePath(named?.0 ?? parts[1]), named?.1 ?? .raw)
        }
        return found
    }

    /// Not guessed: as another host than it was, this one would go on with disks that the vault says are elsewhere, or refuse its own.
    private func identity(_ logs: [FoundLog], _ vault: Vault) throws -> VaultID {
        let known = try site.directory.knownHostID()
        if let hostId, hostId != "new", let known, known != hostId {
            throw Failure(.usage, "this site is the host \(known) already, as \(site.directory.path)/host-id says", try: "without --host-id")
        }
        if known == nil {
            let writers = try SiteRebuild.writers(of: logs, in: vault)
            guard hostId != nil || writers.isEmpty else {
                let names = writers.map { "\($0.id) (\($0.name))" }.joined(separator: ", ")
                throw Failure(
                    .failed, "\(site.directory.path)/host-id is lost too, and with it who this host is; the disks of the logs found were written last by \(names)",
                    try: "--host-id with that id if this is that host, --host-id new if it is another one")
            }
            if let hostId, hostId != "new" { try site.directory.makeHostID(hostId) }
        }
        guard let id = VaultID(try site.directory.hostID()) else { throw Failure(.failed, "\(site.directory.path)/host-id holds no host id", try: "restore it from a backup") }
        return id
    }

    private static func text(_ document: Document) -> String {
        var lines = document.disks.map { "\($0.disk): \($0.isNew ? "brought back" : "was there"), image \($0.image), log \($0.logFolder)" }
        if document.disks.isEmpty { lines.append("no disk of this host was found") }
        lines += document.warnings.map { "warning: \($0)" }
        lines += document.missing.map { "MISSING \($0.subject): \($0.reason)\n  try  \($0.remedy)" }
        if document.disks.contains(where: \.isNew) { lines.append("Next: farshore mount DIR, and farshore upload") }
        return lines.joined(separator: "\n")
    }
}
