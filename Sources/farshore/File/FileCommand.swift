// `farshore file …`: the time machine for single files: their versions along a disk's recovery points, and one of them copied out.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import RecoveryPoints
import Vault

struct FileCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "file",
        abstract: "List the versions of one file across recovery points, and copy one out.",
        subcommands: [FileList.self, FileCopy.self])
}

struct FileOptions: ParsableArguments {
    @Argument(help: "The disk's name.")
    var disk: String

    @Argument(help: "The file's path on its file system, from its root.")
    var path: String

    @OptionGroup var vault: DiskVaultOptions

    @Option(name: .long, help: "The number of the partition (default: the only one with ext4, XFS or NTFS; 0 is a disk without partitions).")
    var partition: Int?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard !path.isEmpty, !path.utf8.contains(0) else { throw ValidationError("\"\(path)\" cannot be the path of a file") }
    }

    /// The volume that is meant, out of what is on the disk at this point.
    func volume(of content: DiskContent) throws(BenchError) -> DiskContent.Volume {
        let known = content.volumes.filter { $0.fileSystem != nil }
        if let partition {
            guard let found = content.volumes.first(where: { $0.number == partition }) else { throw .noFileSystem("there is no partition \(partition)") }
            guard found.fileSystem != nil else { throw .noFileSystem("the partition \(partition) has no ext4, XFS or NTFS") }
            return found
        }
        guard let only = known.first else { throw .noFileSystem("there is no ext4, XFS or NTFS (of LVM and encrypted volumes nothing can be read)") }
        guard known.count == 1 else {
            throw .noFileSystem("several partitions have file systems: " + known.map { "\($0.number) (\($0.fileSystem?.rawValue ?? ""))" }.joined(separator: ", ") + "; name one with --partition")
        }
        return only
    }
}

struct FileCopy: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "copy",
        abstract: "Copy a file as it was at a recovery point.",
        discussion: """
            The point's file system is mounted for this process alone, its journal replayed on a throw-away copy, so the file is as it would be after
            a power loss at that moment. FILE appears when it is whole and durable, with the file's permissions and times; its owner is whoever
            copies. Links are followed inside of the disk; directories, devices and pipes are refused. Takes root.

            Example:
              farshore file copy db1 /etc/app/config.yaml --at 2026-11-21T14:03:07Z --to config.yaml --vault file:///backup/vault --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        let disk: String
        let path: String
        let partition: Int
        let sequence: UInt64
        let file: String
        let sizeBytes: UInt64
        let modified: String
        let remark: String?
    }

    @OptionGroup var file: FileOptions

    @Option(name: .long, help: ArgumentHelp("\(PointName.choices).", valueName: "point"))
    var at: String

    @Option(name: .long, help: ArgumentHelp("The file to make.", valueName: "file"))
    var to: String

    @Flag(name: .long, help: "Replace an existing file.")
    var force = false

    func validate() throws {
        guard PointName(at) != nil else { throw ValidationError("\"\(at)\" is no point: use \(PointName.choices)") }
    }

    func run() throws {
        let target = absolutePath(to)
        try refuseExisting(target)
        let bench = try Bench(file.site, for: "copying a file out of a recovery point")
        defer { bench.close() }
        let vault = try file.vault.open(of: file.disk, file.site)
        let disk = try vault.disk(file.disk)
        let shared = try SharedPoints(vault, of: disk)
        guard let history = shared.history(of: disk.id), let name = PointName(at), let sequence = try shared.resolve(name, on: disk) else {
            throw VaultError.notFound("nothing of the disk \(disk.name) is in the vault yet")
        }
        let copy = try bench.copy(disk, try bench.reader(vault, history, at: sequence))
        defer { copy.finish() }
        let document = try copied(copy, to: target)
        try copy.unmount()
        try file.output.print(document) { document in
            "Copied \(document.path) of \(document.disk) at #\(document.sequence) to \(document.file): \(bytesText(document.sizeBytes)), modified \(document.modified)"
                + (document.remark.map { "\nNote: \($0)" } ?? "")
        }
    }

    private func refuseExisting(_ target: String) throws {
        var info = stat()
        guard lstat(target, &info) == 0 else { return }
        guard info.st_mode & S_IFMT == S_IFREG else {
            throw Failure(.inUse, "\(target) is there already and is no plain file: --force replaces files, not links, devices or folders", try: "give another file")
        }
        guard force else { throw Failure(.inUse, "\(target) is there already", try: "give another file, or --force to replace it") }
    }

    private func copied(_ copy: BenchCopy, to target: String) throws -> Document {
        let mounted: MountedVolume
        do {
            mounted = try copy.mount(try file.volume(of: copy.content))
        } catch let error as BenchError {
            throw Failure(.notFound, "\(copy.disk.name) at #\(copy.reader.sequence): \(error)", try: "`farshore file list` shows at which points it can be read")
        }
        guard let found = try mounted.open(file.path) else {
            throw Failure(.notFound, "\(copy.disk.name) has no file \(file.path) at #\(copy.reader.sequence)", try: "`farshore file list` shows at which points it is there")
        }
        guard found.attributes.kind == .file else {
            throw Failure(.failed, "\(file.path) is no plain file", try: "name a file; `farshore point mount` shows whole disks")
        }
        let progress = Progress("copy")
        do {
            try found.copy(to: target, replacing: force) { progress.update(doneBytes: $0, totalBytes: found.attributes.sizeBytes) }
        } catch let error as SystemError where error.errno == EEXIST {
            try refuseExisting(target)
            throw error
        }
        return Document(
            disk: copy.disk.name, path: file.path, partition: mounted.volume.number, sequence: copy.reader.sequence, file: target, sizeBytes: found.attributes.sizeBytes,
            modified: FileList.timeText(found.attributes), remark: mounted.remark)
    }
}
