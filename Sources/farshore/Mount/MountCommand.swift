// `farshore mount`: the supervisor of a site's mount. It takes the locks, makes the mount, starts the worker
// (ServeMountCommand) and its successors, and serves nothing itself.

import ArgumentParser
import BlockIO
import CLinux
import DiskImage
import FuseExport
import Glibc
import Site

struct MountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount",
        abstract: "Serve every protected disk of this site below a directory.",
        discussion: """
            Each disk appears as DIR/DISK/disk.raw (read-write) and DIR/DISK/disk.vhd (the same disk as a fixed VHD, read-only;
            absent above 2,040 GiB). Give disk.raw to a virtual machine, a loop device or any program. Files cannot be created
            or truncated there. Returns when the disks are served; unmount with `farshore unmount DIR`. At SIGTERM the mount
            goes first; who still uses it after 10 seconds is named in the log and sees I/O errors from then on.
            A disk that does not open is named on stderr, and the others are served; where none opens the mount fails.

            Example:
              farshore mount /srv/disks && losetup -f --show /srv/disks/db1/disk.raw
            """)

    @Argument(help: "An empty directory; made when missing.")
    var directory: String

    @Flag(name: .long, help: "Let others than you use the disks, by the owner and mode of each image (root, or user_allow_other in /etc/fuse.conf).")
    var allowOther = false

    @Option(name: .long, help: "After how many seconds without any progress a worker that waits for no storage is replaced; 0: never.")
    var hangSeconds = SupervisorPlan.hangSecondsDefault

    @OptionGroup var service: ServiceOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    private struct Document: Encodable {
        let directory: String
        let disks: [String]
        let refused: [Refused]
    }

    private struct Refused: Encodable {
        let disk: String
        let reason: String
        let remedy: String
    }

    func validate() throws {
        guard (0...86_400).contains(hangSeconds) else { throw ValidationError("--hang-seconds must be between 0 and 86400") }
    }

    func run() throws {
        if service.foreground {
            try supervise()
            return
        }
        try BackgroundService.detach()
        guard case .status(let served, let refused, _) = try ControlClient(site: site.directory).demand(.status) else {
            throw Failure(.failed, "the mount does not say what it serves", try: "farshore status")
        }
        let document = Document(
            directory: absolutePath(directory), disks: served.map(\.disk),
            refused: refused.map { Refused(disk: $0.disk, reason: $0.reason, remedy: $0.remedy) })
        for disk in refused { printError("farshore: warning: \(disk.disk) is not served: \(disk.reason)\nTry: \(disk.remedy)") }
        try output.print(document) { "\($0.disks.count) \($0.disks.count == 1 ? "disk" : "disks") served at \($0.directory)" }
    }

    private func supervise() throws {
        Supervisor.blockSignals()
        // Detached, it was started by way of /proc/self/exe and would show as "exe".
        farshore_name_this_thread("farshore")
        let folder = site.directory
        try folder.create()
        let catalogue = try site.catalogue()
        let before = try folder.deadMount()
        let locks = try takeLocks(folder, try catalogue.disks().filter(\.isToBeServed))
        if let before { try catalogue.record(.critical, disk: nil, StatusCommand.diedText(before)) }
        let log = try BackgroundService.openLog(folder.runFolder + "/mount.log")
        let logDescriptor = BackgroundService.isDetached ? log.raw : STDERR_FILENO
        let note = { @Sendable (text: String) in serviceLog(text, to: logDescriptor) }
        let mount = try mountDirectory()
        let place = mount.directory
        try DurableFile.replace(folder.mountPIDPath, with: Array("\(getpid())\n".utf8))
        defer { unlink(folder.mountPIDPath) }
        note("\(place): \(mount.kernel.summary)")
        let plan = SupervisorPlan(
            workerArguments: ["serve-mount", place, "--site", folder.path] + (allowOther ? ["--allow-other"] : []) + ["--held"],
            trialArguments: ["takeover-trial"], version: Farshore.configuration.version, programPath: try UpgradeCommand.programPath(),
            hangSeconds: hangSeconds == 0 ? nil : hangSeconds, workerStandardError: logDescriptor, log: note,
            onReady: {
                note("serving at \(place)")
                BackgroundService.announceReady(log: logDescriptor)
            },
            onNotice: MountNotices(site: folder, log: note).tell)
        do {
            try Supervisor(mount: mount, locks: locks, plan: plan).run()
        } catch let refusal as WorkerRefusal {
            throw Failure(ExitStatus(rawValue: refusal.status) ?? .failed, refusal.message, try: refusal.remedy)
        }
        BackgroundService.notifySystemd("STOPPING=1")
        note("\(place): unmounted, all disks are closed")
        try log.close()
    }

    /// The site's own lock makes this the only mount of the site; the disks' locks keep everybody else from their logs
    /// and images, also between two workers.
    private func takeLocks(_ folder: SiteDirectory, _ disks: [ProtectedDisk]) throws -> HeldLocks {
        var locks = HeldLocks()
        guard let own = try SiteLock.tryTake(folder.mountLockPath) else {
            throw Failure(.inUse, "the disks of this site (\(folder.path)) are mounted already", try: "farshore status, or farshore unmount DIR")
        }
        try locks.hold(MountCommand.siteLockName, [own.file.raw])
        for disk in disks {
            do {
                let pair = try DiskLocks.take(disk, site: folder)
                try locks.hold(disk.name, pair.descriptors)
            } catch {
                // The worker meets the same, and says so where the other disks that do not open are named.
                continue
            }
        }
        return locks
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

    /// No disk can have this name: `protect` refuses slashes.
    static let siteLockName = "site/mount"
}

extension KernelFeatures {
    /// What was negotiated, for the log.
    var summary: String {
        let parts = [
            "FUSE 7.\(minorVersion)", "requests up to \(maxWriteBytes >> 10) KiB",
            hasParallelDirectWrites ? "parallel direct writes" : "no parallel direct writes",
            hasAsyncDirectIO ? "asynchronous direct I/O" : "no asynchronous direct I/O",
            allowsSharedMappings ? "shared mappings" : "no shared mappings",
        ]
        return parts.joined(separator: ", ")
    }
}
