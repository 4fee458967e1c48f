// `farshore upgrade`: the worker of the running mount gives way to one of the program that is installed now; guests notice
// a pause. And the hidden command by which a program shows that it can take over.

import ArgumentParser
import BlockIO
import FuseExport
import Glibc
import Site

struct UpgradeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "upgrade",
        abstract: "Replace the worker of the running mount by one of the program installed now.",
        discussion: """
            Guests see a pause and no error. The program is taken from the path the mount was started from; it is tried before
            the old worker ends, and where it does not come to serve the old one takes over again. The supervisor stays of the
            version it was started with until the next mount. SIGHUP to the supervisor does the same.

            Example:
              farshore upgrade
            """)

    private static let waitSecondsMax: UInt64 = 120

    @Argument(help: "The directory given to mount; the mount of this site when left out.")
    var directory: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    private struct Document: Encodable {
        let oldVersion: String
        let newVersion: String
        let pauseMilliseconds: Int
    }

    func run() throws {
        let outcome = try Self.replaceWorker(of: site.directory, supervisor: try Self.supervisor(of: site.directory, at: directory))
        if let failure = outcome.failure {
            throw Failure(.failed, "not upgraded, version \(outcome.oldVersion) serves on: \(failure)", try: "mend that, then farshore upgrade")
        }
        let document = Document(oldVersion: outcome.oldVersion, newVersion: outcome.newVersion, pauseMilliseconds: outcome.pauseMilliseconds)
        try output.print(document) { "upgraded from version \($0.oldVersion) to \($0.newVersion), paused for \($0.pauseMilliseconds) ms" }
    }

    /// Asks for a worker of the program installed now; returns when one serves.
    static func replaceWorker(of folder: SiteDirectory, supervisor pid: Int32) throws -> UpgradeOutcome {
        let before = try MountNotices.read(folder)?.number ?? 0
        guard kill(pid, SIGHUP) == 0 else { throw SystemError(errno: errno, operation: "ask process \(pid) to upgrade", path: "mount") }
        return try wait(for: folder, after: before, pid: pid)
    }

    static func supervisor(of folder: SiteDirectory, at directory: String? = nil) throws -> Int32 {
        guard case .status(_, _, let mount) = try ControlClient(site: folder).demand(.status) else {
            throw Failure(.failed, "the mount does not say whether it can be upgraded", try: "farshore status")
        }
        let bytes = try DurableFile.read(folder.mountPIDPath, limitBytes: 64) ?? []
        guard mount.hasSupervisor, let pid = Int32(String(decoding: bytes, as: UTF8.self).prefix { $0.isNumber }), pid > 1 else {
            throw Failure(.failed, lostSupervisorText, try: lostSupervisorRemedy)
        }
        if let directory {
            guard let path = try FuseMount.absolute(absolutePath(directory), throughDeadMount: true), let mounted = try MountedExport.at(path), mounted.pid == pid else {
                throw Failure(.notFound, "this site (\(folder.path)) serves nothing at \(directory)", try: "farshore upgrade --site DIR; for mounted recovery points: kill -HUP, and see their log")
            }
        }
        return pid
    }

    private static func wait(for folder: SiteDirectory, after number: UInt64, pid: Int32) throws -> UpgradeOutcome {
        let deadline = Clock.monotonicNanoseconds() + waitSecondsMax * 1_000_000_000
        while Clock.monotonicNanoseconds() < deadline {
            if let found = try MountNotices.read(folder), found.number != number { return found.outcome }
            guard kill(pid, 0) == 0 || errno == EPERM else { throw Failure(.failed, "the mount ended meanwhile", try: "farshore events") }
            usleep(5_000)
        }
        throw Failure(.failed, "no outcome within \(waitSecondsMax) s", try: "farshore events, and run/mount.log of the site")
    }

    /// Where this program lies, for a later upgrade.
    static func programPath() throws -> String {
        guard let path = realpath("/proc/self/exe", nil) else { throw SystemError(errno: errno, operation: "find this program", path: "/proc/self/exe") }
        defer { free(path) }
        return String(cString: path)
    }
}

/// Started by a supervisor with its slots as descriptor 3: says which version this is, if it can take them over.
struct TakeoverTrialCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "takeover-trial", abstract: "Started by the supervisor of a mount, never by hand.", shouldDisplay: false)

    func run() throws {
        do throws(SystemError) { _ = try SlotMemory(descriptor: 3) } catch {
            throw Failure(.failed, "version \(Farshore.configuration.version) cannot take over: \(error)", try: "farshore unmount DIR, and mount again")
        }
        print(Farshore.configuration.version)
    }
}
