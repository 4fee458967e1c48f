// `farshore verify`: tries a recovery point out on throw-away copies and keeps the verdict in the vault.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import Glibc
import RecoveryPoints
import Site
import Vault

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Try a recovery point out, and keep the verdict with it.",
        discussion: """
            The disks are copies that only this command sees: what is written to them is thrown away, and replication goes on. `fsck`: each ext4, XFS and
            NTFS is mounted, which replays its journal, and then checked by its own checker, which may find nothing. `script`: the file systems are mounted
            and the script decides. `boot`: a guest boots from the disks in QEMU, without a network, until its serial console shows --console.

            The verdict is kept in the vault, for every host: `point list` shows it, `latest-verified` is the newest point with good ones only, and
            the audit chain has a record of it (`farshore drill report`). A bad verdict ends with status 13. Takes root.

            Example:
              farshore verify db1 --vault file:///backup/vault --key-file /etc/farshore/vault.key --check fsck
              farshore verify --machine web1 --at latest --check boot --console "login:" --screenshot web1.png --time-limit 300
            """)

    struct StateDocument: Encodable {
        let disk: String
        let sequence: UInt64
        let time: String
    }

    struct Document: Encodable {
        let check: String
        let isGood: Bool
        let note: String
        let tookSeconds: Double
        let disks: [StateDocument]
        /// The number of its audit record.
        let record: UInt64
    }

    @Argument(help: "The disk's name.")
    var disk: String?

    @Option(name: .long, help: "All disks of this machine, at one point.")
    var machine: String?

    @Option(name: .long, help: ArgumentHelp("\(PointName.choices). Default: the newest point.", valueName: "point"))
    var at: String?

    @OptionGroup var check: CheckOptions
    @OptionGroup var vault: DiskVaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard (disk == nil) != (machine == nil) else { throw ValidationError("name a disk, or a machine with --machine") }
        if let at, PointName(at) == nil { throw ValidationError("\"\(at)\" is no point: use \(PointName.choices)") }
    }

    func run() throws {
        let bench = try Bench(site, for: "verifying a recovery point")
        defer { bench.close() }
        let vault = try vault.open(of: disk ?? firstDisk(), site)
        let points = try chosen(vault)
        let verification = Verification(bench: bench, vault: vault, check: check)
        let found = try verification.run(points)
        let drill = Drill(
            unit: machine ?? points[0].disk.name, disks: try verification.recovered(points), check: check.name, isGood: found.outcome.isGood, note: found.outcome.note,
            startedMicros: found.startedMicros, tookMicros: found.tookMicros, isNewest: at == nil || at != "latest-verified" && at?.hasPrefix("latest") == true)
        let record = try vault.record(drill, as: .verification, actor: Self.actor)
        let document = Document(
            check: check.name, isGood: drill.isGood, note: drill.note, tookSeconds: Double(drill.tookMicros) / 1e6,
            disks: drill.disks.map { StateDocument(disk: $0.disk, sequence: $0.sequence, time: auditTimeText($0.timeMicros)) }, record: record.number)
        try output.print(document) { document in
            let states = document.disks.map { "\($0.disk) #\($0.sequence)" }.joined(separator: ", ")
            return "\(document.isGood ? "Good" : "BAD"): \(states) by \(document.check), \(durationText(seconds: document.tookSeconds)): \(document.note)"
        }
        guard !drill.isGood else { return }
        throw Failure(.badVerdict, "the point is not good: \(drill.note)", try: "`farshore bisect` finds the newest good one; the verdict is kept in the vault")
    }

    /// Whose vault is meant, where only the machine is named.
    private func firstDisk() throws -> String {
        if vault.vault != nil { return "" }
        guard let first = try site.catalogue().disks().first(where: { $0.machine == machine }) else {
            throw Failure(.notFound, "this site has no machine \(machine ?? "")", try: "give the vault with --vault")
        }
        return first.name
    }

    private func chosen(_ vault: Vault) throws -> [ChosenPoint] {
        let catalog = try vault.catalog().document
        let disks = if let disk { [try vault.disk(disk)] } else { catalog.disks.filter { $0.machineName == machine }.sorted { $0.name < $1.name } }
        guard let first = disks.first else { throw VaultError.notFound("the vault has no machine \(machine ?? "")") }
        if let at, let name = PointName(at) { return try ChosenPoint.resolve(name, on: disks, in: vault) }
        let shared = try SharedPoints(vault, group: first.group, catalog: catalog)
        let newest = disks.count > 1 ? try shared.newest() : try shared.newest(on: first.id) { _ in true }
        guard let newest else { throw VaultError.notFound("there is no point of \(disks.map(\.name).joined(separator: ", ")) in the vault yet") }
        return disks.map { ChosenPoint(disk: $0, sequence: newest.sequence) }
    }

    static var actor: String {
        var name = [CChar](repeating: 0, count: 256)
        let host = gethostname(&name, name.count - 1) == 0 ? String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self) : "?"
        return "\(NSUserName())@\(host)"
    }
}
