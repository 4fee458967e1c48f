// `farshore restore`: a recovery point written out as an image.

import ArgumentParser
import DiskImage
import RecoveryPoints
import Vault

struct RestoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore",
        abstract: "Write a recovery point out as an image: raw, VHD, VHDX or qcow2.",
        discussion: """
            Sparse, and every byte authenticated before it is written. When interrupted, the same command goes on where it stopped:
            FILE.farshore-partial and FILE.farshore-restore hold what is done. FILE appears when it is whole.

            Example:
              farshore restore db1 --vault file:///backup/vault --key-file /etc/farshore/vault.key --at latest --to db1.vhd --to-format vhd-dynamic
            """)

    struct Document: Encodable {
        let disk: String
        let sequence: UInt64
        let file: String
        let format: String
        let sizeBytes: UInt64
        let writtenBytes: UInt64
        let resumedBytes: UInt64
    }

    @Argument(help: "The disk's name.")
    var disk: String

    @OptionGroup var vault: VaultOptions

    @Option(name: .long, help: ArgumentHelp("\(PointName.choices).", valueName: "point"))
    var at: String

    @Option(name: .long, help: ArgumentHelp("The image to make.", valueName: "file"))
    var to: String

    @Option(name: .long, help: "raw, vhd-fixed, vhd-dynamic, vhdx or qcow2.")
    var toFormat: OutputFormat = .raw

    @Flag(name: .long, help: "Replace an existing file.")
    var force = false

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard PointName(at) != nil else { throw ValidationError("\"\(at)\" is no point: use \(PointName.choices)") }
    }

    func run() throws {
        let path = absolutePath(to)
        try requireOutputPlace(path, force: force, site)
        let vault = try vault.open(site)
        let found = try vault.disk(disk)
        let shared = try SharedPoints(vault, of: found)
        guard let history = shared.history(of: found.id), let name = PointName(at), let sequence = try shared.resolve(name, on: found) else {
            throw VaultError.notFound("nothing of the disk \(found.name) is in the vault yet")
        }
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let reader = try PointReader(sources, disk: found.id, plan: try history.plan(at: sequence))
        let progress = Progress("restore")
        let restore = Restore(reader: reader, path: path, format: toFormat) { progress.update(doneBytes: $0, totalBytes: $1) }
        let outcome = try restore.run(timeStamp: found.vhdTimeStamp(of: reader.point), replacing: force)
        progress.finish()
        let document = Document(
            disk: found.name, sequence: reader.sequence, file: path, format: toFormat.rawValue, sizeBytes: reader.sizeBytes,
            writtenBytes: outcome.writtenBytes, resumedBytes: outcome.resumedBytes)
        try output.print(document) { document in
            "Restored \(document.disk) at #\(document.sequence) to \(document.file): \(bytesText(document.sizeBytes)), \(bytesText(document.writtenBytes)) of data written"
                + (document.resumedBytes > 0 ? ", \(bytesText(document.resumedBytes)) were done before" : "")
        }
    }
}

extension Catalog.Disk {
    /// Seconds since 2000 as a VHD footer has them: the time of the point, or when the disk was registered.
    func vhdTimeStamp(of point: RecoveryPoint?) -> UInt32 {
        UInt32(clamping: Int64((point?.timeMicros ?? createdMicros) / 1_000_000) - VHDFooter.secondsTo2000)
    }
}

extension Failure {
    init(_ error: RestoreError) {
        switch error {
        case .vault(let error): self.init(error)
        case .image(let error): self.init(error)
        case .system(let error): self.init(error)
        }
    }
}
