// `farshore unmount`: takes a mount of ours away and waits until its process has flushed and ended. Works for the disks
// of a site and for mounted recovery points: the mount table names the process.

import ArgumentParser
import BlockIO
import FuseExport
import Glibc

struct UnmountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unmount",
        abstract: "Unmount a directory served by `mount` or `point mount`; returns when its log is flushed and closed.",
        discussion: "Refused while the mount is in use, naming who uses it.\n\nExample:\n  farshore unmount /srv/disks")

    private static let noticeSeconds = 10

    @Argument(help: "The directory given to mount.")
    var directory: String

    @OptionGroup var output: OutputOptions

    private struct Document: Encodable {
        let directory: String
    }

    func run() throws {
        guard let path = try FuseMount.absolute(absolutePath(directory), throughDeadMount: true), let mounted = try MountedExport.at(path) else {
            throw Failure(.notFound, "farshore serves nothing at \(directory)", try: "mount -t \(MountedExport.fileSystemType)")
        }
        switch FuseMount.unmount(path) {
        case .done: waitForEnd(of: mounted.pid)
        case .busy:
            let holders = MountHolders.of(path)
            throw Failure(
                .inUse, "\(path) is in use" + (holders.isEmpty ? "" : " by " + holders.joined(separator: ", ")), try: "stop what uses it, then unmount again")
        case .failed:
            throw Failure(.failed, "fusermount3 cannot unmount \(path)", try: "as the user who mounted it, or as root")
        }
        try output.print(Document(directory: path)) { "\($0.directory): unmounted" }
    }

    /// The disks are flushed and closed after the mount is gone. A process of another name took over a dead one's id.
    private func waitForEnd(of pid: Int32) {
        let started = Clock.monotonicNanoseconds()
        var notices = 0
        while kill(pid, 0) == 0 || errno == EPERM, isFarshore(pid) {
            usleep(10_000)
            let seconds = Int((Clock.monotonicNanoseconds() - started) / 1_000_000_000)
            guard seconds >= (notices + 1) * UnmountCommand.noticeSeconds else { continue }
            notices += 1
            printError("farshore: process \(pid) is still flushing after \(seconds) s")
        }
    }

    /// `PID (NAME) STATE …`; a process that has ended but was not reaped is gone too.
    private func isFarshore(_ pid: Int32) -> Bool {
        guard let bytes = try? MountedExport.readAll("/proc/\(pid)/stat") else { return false }
        let text = String(decoding: bytes, as: UTF8.self)
        guard let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")") else { return false }
        let state = text[text.index(after: close)...].drop { $0 == " " }.first
        let name = text[text.index(after: open)..<close]
        return state != "Z" && state != "X" && (name.hasPrefix("farshore") || name == "exe")
    }
}
