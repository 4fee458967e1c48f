// `farshore point mount`: the supervisor of a mount of recovery points. It makes the mount and starts the worker
// (ServePointsCommand), which opens the vault; no site, log or image of the source is needed.

import ArgumentParser
import BlockIO
import CLinux
import FuseExport
import Glibc
import RecoveryPoints
import Site
import Vault

struct PointMount: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount",
        abstract: "Mount recovery points read-only, straight from the vault.",
        discussion: """
            Points appear as DIR/DISK/SEQUENCE/disk.raw and disk.vhd; tags and `latest` are links to them. Without --at every point of
            the disk is there, and new ones appear as they reach the vault. Disks of a group have the same number at the same moment:
            #N opens on each of them, and `latest-multi` is the newest that all of them have. Data comes from the vault when it is read; what is
            damaged there is an I/O error for its range and a line in the log that names the object. Unmount with `farshore unmount DIR`.

            Example:
              farshore point mount /mnt/points --vault file:///backup/vault --key-file /etc/farshore/vault.key --disk db1 --at latest
              mount -o ro,loop,noload /mnt/points/db1/latest/disk.raw /mnt/old
            """)

    @Argument(help: "An empty directory; made when missing.")
    var directory: String

    @OptionGroup var selection: PointSelection

    @Flag(name: .long, help: "Let others than you read the points (root, or user_allow_other in /etc/fuse.conf).")
    var allowOther = false

    @OptionGroup var service: ServiceOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    private struct Document: Encodable {
        let directory: String
    }

    func run() throws {
        if service.foreground {
            try supervise()
            return
        }
        try BackgroundService.detach()
        try output.print(Document(directory: absolutePath(directory))) { "recovery points served at \($0.directory)" }
    }

    private func supervise() throws {
        Supervisor.blockSignals()
        farshore_name_this_thread("farshore")
        try site.directory.create()
        let log = try BackgroundService.openLog(site.directory.runFolder + "/point-mount.log")
        let logDescriptor = BackgroundService.isDetached ? log.raw : STDERR_FILENO
        let note = { @Sendable (text: String) in serviceLog(text, to: logDescriptor) }
        let mount = try mountDirectory()
        let place = mount.directory
        let plan = SupervisorPlan(
            workerArguments: ["serve-points", place] + selection.arguments + ["--site", site.directory.path] + (allowOther ? ["--allow-other"] : []) + ["--held"],
            trialArguments: ["takeover-trial"], version: Farshore.configuration.version, programPath: try UpgradeCommand.programPath(),
            // A read may wait for its target for as long as that takes.
            hangSeconds: nil, workerStandardError: logDescriptor, log: note,
            onReady: {
                note("serving recovery points at \(place)")
                BackgroundService.announceReady(log: logDescriptor)
            },
            onNotice: { _ in })
        do {
            try Supervisor(mount: mount, locks: HeldLocks(), plan: plan).run()
        } catch let refusal as WorkerRefusal {
            throw Failure(ExitStatus(rawValue: refusal.status) ?? .failed, refusal.message, try: refusal.remedy)
        }
        BackgroundService.notifySystemd("STOPPING=1")
        note("\(place): unmounted")
        try log.close()
    }

    private func mountDirectory() throws -> FuseMount {
        do throws(SystemError) {
            return try FuseMount.mount(at: absolutePath(directory), allowOther: allowOther)
        } catch {
            switch error.errno {
            case EBUSY: throw Failure(.inUse, "\(error)", try: "farshore unmount \(directory)")
            case ENOTEMPTY: throw Failure(.usage, "\(error)", try: "an empty directory")
            case EPERM, EACCES: throw Failure(.failed, "\(error)", try: "farshore doctor, for what mounting takes here")
            default: throw error
            }
        }
    }
}

/// Which points of which vault; handed on to the worker as it was given.
struct PointSelection: ParsableArguments {
    @OptionGroup var vault: VaultOptions

    @Option(name: .customLong("disk"), help: ArgumentHelp("Only this disk; may be repeated.", valueName: "disk"))
    var disks: [String] = []

    @Option(name: .long, help: "Only the disks of this machine.")
    var machine: String?

    @Option(name: .long, help: "Only the disks of this replication group.")
    var group: String?

    @Option(name: .long, help: ArgumentHelp("Only this point: \(PointName.choices).", valueName: "point"))
    var at: String?

    func validate() throws {
        guard (disks.isEmpty ? 0 : 1) + (machine == nil ? 0 : 1) + (group == nil ? 0 : 1) <= 1 else {
            throw ValidationError("give one of --disk, --machine and --group")
        }
        guard let at else { return }
        guard PointName(at) != nil else {
            throw ValidationError("\"\(at)\" is no point: use \(PointName.choices)")
        }
    }

    /// Whether only some disks were asked for.
    var isExplicit: Bool { !disks.isEmpty || machine != nil || group != nil }

    func chosen(_ catalog: Catalog) throws(VaultError) -> [Catalog.Disk] {
        func refuse(_ what: String) -> VaultError { .notFound("the vault has no \(what); it has the disks \(catalog.disks.map(\.name).sorted().joined(separator: ", "))") }
        if let machine {
            let found = catalog.disks.filter { $0.machineName == machine }
            guard !found.isEmpty else { throw refuse("machine \(machine)") }
            return found
        }
        if let group {
            guard let found = catalog.groups?.first(where: { $0.name == group }) else { throw refuse("group \(group)") }
            return catalog.disks(inGroup: found.id)
        }
        guard !disks.isEmpty else { return catalog.disks }
        var found: [Catalog.Disk] = []
        for name in disks {
            guard let disk = catalog.disks.first(where: { $0.name == name || $0.id.description == name }) else { throw refuse("disk \(name)") }
            if !found.contains(disk) { found.append(disk) }
        }
        return found
    }

    /// The same selection for a process that may start in another directory.
    var arguments: [String] {
        var arguments = ["--vault=\(vault.url)"]
        if let file = vault.key.keyFile { arguments.append("--key-file=\(absolutePath(file))") }
        if let file = vault.key.passphraseFile { arguments.append("--passphrase-file=\(absolutePath(file))") }
        arguments += disks.map { "--disk=\($0)" }
        if let machine { arguments.append("--machine=\(machine)") }
        if let group { arguments.append("--group=\(group)") }
        if let at { arguments.append("--at=\(at)") }
        return arguments
    }
}
