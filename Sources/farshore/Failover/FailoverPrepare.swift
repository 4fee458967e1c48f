// `farshore failover prepare`, on the host that guests write on: what makes a planned failover lose nothing.

import ArgumentParser
import Failover
import FuseExport
import Glibc
import Site
import VirtualDisk

struct FailoverPrepare: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prepare",
        abstract: "Shut a machine or group down for a planned failover, and send all of it.",
        discussion: """
            Runs the stop command, takes the disks out of the mount (refused while somebody uses them), cuts a last point, and waits until the vault is
            proven to have everything that was ever acknowledged. The mount serves the disks again after `failover cancel`.

            Example:
              farshore failover prepare db1 --stop ./stop-db1
            """)

    @OptionGroup var options: UnitOptions

    @Option(name: .long, help: ArgumentHelp("Stop the guests (default: the stop commands of the machines' settings).", valueName: "command"))
    var stop: String?

    @Option(name: .long, help: ArgumentHelp("How long the vault may take to get the rest, in seconds.", valueName: "seconds"))
    var waitSeconds: UInt64 = 3600

    @OptionGroup var times: CommandTimeOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let opened = try options.opened()
        let site = options.site
        let standing = try opened.failovers.prepare(
            options.unit, stopCommand: stop, commandSeconds: Double(times.commandSeconds), waitSeconds: min(waitSeconds, 1 << 20),
            PreparationActions(cutLast: { try Self.cutLast($0, site.directory) }, send: { try Self.send(site) }))
        try output.print(StandingDocument(standing), text: \.text)
    }

    /// Opened as their owner, for nobody serves them: one number over all of them, above all that was acknowledged.
    private static func cutLast(_ disks: [ProtectedDisk], _ site: SiteDirectory) throws -> UInt64 {
        var opened: [OwnedDisk] = []
        do {
            for disk in disks { opened.append(try waitingForUploader(of: site) { try OwnedDisk.open(disk, site: site) }) }
            let sequence = try VirtualDisk.cutPoint(opened.map(\.disk), tag: "")
            for disk in opened { _ = try disk.disk.makeDurable() }
            for disk in opened { try disk.disk.close() }
            return sequence
        } catch {
            for disk in opened { disk.disk.abandon() }
            throw error
        }
    }

    /// A running uploader looks by itself; where none runs this process is one for one attempt.
    private static func send(_ site: SiteOptions) throws {
        guard try !SiteLock.isTaken(site.directory.uploadLockPath) else { return }
        let child = try ChildProcess.spawn("/proc/self/exe", ["upload", "--once", "--site", site.directory.path], standardError: STDERR_FILENO)
        _ = child.wait()
    }
}
