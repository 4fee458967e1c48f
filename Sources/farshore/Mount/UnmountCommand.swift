// `farshore unmount`: takes a mount of ours away and waits until its process has flushed and ended. Works for the disks
// of a site and for mounted recovery points: the mount table names the process.

import ArgumentParser
import BlockIO
import ChangeLog
import DiskImage
import FuseExport
import Glibc
import Site

struct UnmountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unmount",
        abstract: "Unmount a directory served by `mount` or `point mount`; returns when its log is flushed and closed.",
        discussion: """
            Refused while the mount is in use, naming who uses it. While the mount's process ends it says each 10 s what it waits for. Fails when the log of a disk of this site could not be closed
            cleanly; what was acknowledged is in it, and the next mount recovers it.

            Example:
              farshore unmount /srv/disks
            """)

    private static let noticeSeconds = 10

    @Argument(help: "The directory given to mount.")
    var directory: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    private struct Document: Encodable {
        let directory: String
    }

    func run() throws {
        guard let path = try FuseMount.absolute(absolutePath(directory), throughDeadMount: true), let mounted = try MountedExport.at(path) else {
            throw Failure(.notFound, "farshore serves nothing at \(directory)", try: "mount -t \(MountedExport.fileSystemType)")
        }
        let isOwn = isMount(ofSite: mounted.pid)
        let disks = isOwn ? disks() : []
        switch FuseMount.unmount(path) {
        case .done:
            waitForEnd(of: mounted.pid, closing: disks) { isFarshore(mounted.pid) }
            // A worker that outlived its supervisor has the locks until it has closed the disks.
            if isOwn { waitForEnd(of: mounted.pid, closing: disks) { (try? SiteLock.isTaken(site.directory.mountLockPath)) == true } }
            try checkClosed(disks, path)
            // A supervisor that was killed left it; its worker has closed the disks all the same.
            if !disks.isEmpty, try site.directory.deadMount() != nil { try DurableFile.remove(site.directory.mountPIDPath) }
        case .busy:
            let holders = MountHolders.of(path)
            throw Failure(
                .inUse, "\(path) is in use" + (holders.isEmpty ? "" : " by " + holders.joined(separator: ", ")), try: "stop what uses it, then unmount again")
        case .failed:
            throw Failure(.failed, "fusermount3 cannot unmount \(path)", try: "as the user who mounted it, or as root")
        }
        try output.print(Document(directory: path)) { "\($0.directory): unmounted" }
    }

    /// Not where `directory` is mounted points, or another site's.
    private func isMount(ofSite pid: Int32) -> Bool {
        guard let bytes = try? DurableFile.read(site.directory.mountPIDPath, limitBytes: 64) else { return false }
        return Int32(String(decoding: bytes, as: UTF8.self).prefix { $0.isNumber }) == pid
    }

    /// Those served; none when the site cannot be asked: it is unmounted all the same.
    private func disks() -> [ProtectedDisk] {
        guard case .status(let served, _, _)? = try? ControlClient(site: site.directory).ask(.status), let all = try? site.catalogue().disks()
        else { return [] }
        let names = Set(served.map(\.disk))
        return all.filter { names.contains($0.name) }
    }

    private func checkClosed(_ disks: [ProtectedDisk], _ path: String) throws {
        // Whoever holds the log's lock now has opened it since.
        let left = try disks.filter { disk in
            let folder = LogFolder(disk.logFolder)
            guard try folder.readState().cleanStop == nil else { return false }
            do { _ = try OwnerLock.acquire(folder) } catch LogError.inUse { return false }
            return try folder.readState().cleanStop == nil
        }
        // It was open until now, so this is what its stop found.
        let replaced = try disks.first { try LogFolder($0.logFolder).readState().cleanStop?.evidence == ImageIdentity.Evidence.replaced.rawValue }
        if left.isEmpty, let replaced {
            throw Failure(
                .failed, "\(path) is unmounted, but not all files of \(replaced.name) are those that were served: farshore events \(replaced.name) names them",
                try: "put the very files back, then farshore accept \(replaced.name); until then it is not served")
        }
        guard let first = left.first else { return }
        throw Failure(
            .failed, "\(path) is unmounted, but the log of \(first.name) was not closed cleanly; what was acknowledged is in it",
            try: "farshore events \(first.name) says why; the next mount recovers it")
    }

    /// The disks are flushed and closed after the mount is gone. However long that takes: ended sooner, somebody could open the images beside it.
    private func waitForEnd(of pid: Int32, closing disks: [ProtectedDisk], while isThere: () -> Bool) {
        let started = Clock.monotonicNanoseconds()
        var notices = 0
        while isThere() {
            usleep(10_000)
            let seconds = Int((Clock.monotonicNanoseconds() - started) / 1_000_000_000)
            guard seconds >= (notices + 1) * UnmountCommand.noticeSeconds else { continue }
            notices += 1
            let open = disks.filter { isOpen($0) }.map(\.name)
            let what = open.isEmpty ? "process \(pid) ends" : "process \(pid) closes the log of \(open.joined(separator: ", "))"
            printError("farshore: waits until \(what), since \(seconds) s; where its storage does not answer that lasts until it does (farshore doctor)")
        }
    }

    private func isOpen(_ disk: ProtectedDisk) -> Bool {
        do { _ = try OwnerLock.acquire(LogFolder(disk.logFolder)) } catch LogError.inUse { return true } catch { return false }
        return false
    }

    /// `PID (NAME) STATE …`; a process that has ended but was not reaped is gone too, and one of another name took over a dead one's id.
    private func isFarshore(_ pid: Int32) -> Bool {
        guard let bytes = try? MountedExport.readAll("/proc/\(pid)/stat") else { return false }
        let text = String(decoding: bytes, as: UTF8.self)
        guard let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")") else { return false }
        let state = text[text.index(after: close)...].drop { $0 == " " }.first
        let name = text[text.index(after: open)..<close]
        return state != "Z" && state != "X" && (name.hasPrefix("farshore") || name == "exe")
    }
}
