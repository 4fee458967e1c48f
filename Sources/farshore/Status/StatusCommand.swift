// `farshore status`: health, proven lag, backlog, log and last point of each disk.

import ArgumentParser
import BlockIO
import Site

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show health, proven lag, log and last point of the protected disks.",
        discussion: """
            Lag is measured from what was read back from the vault, not from what was sent. Works also while nothing is mounted.

            Example:
              farshore status db1
            """)

    @Argument(help: "The disk; none means all.")
    var disk: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let site: String
        let isMounted: Bool
        let isUploading: Bool
        let mount: MountStatus?
        let warnings: [Warning]
        let disks: [DiskReport]
    }

    /// What is wrong with the services themselves.
    struct Warning: Encodable {
        let text: String
        let remedy: String
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let groups = try disk.map { [try catalogue.consistencyGroup(ofDisk: $0)] } ?? catalogue.consistencyGroups()
        let disks = groups.flatMap { group in group.disks.map { (group: group, disk: $0) } }.filter { disk == nil || $0.disk.name == disk }
        let (served, refused, mount) = try Self.served(site.directory)
        var warnings = try MountNotices.warnings(site.directory)
        if mount?.hasSupervisor == false { warnings.append(Warning(text: lostSupervisorText, remedy: lostSupervisorRemedy)) }
        let deadMount = try site.directory.deadMount()
        if let deadMount { warnings.append(Warning(text: Self.diedText(deadMount), remedy: "farshore unmount DIR where the directory is still busy, then farshore mount DIR")) }
        warnings += try catalogue.forgottenTests().map {
            Warning(text: "the test failover \($0.name) of \($0.unit) was never cleaned up", remedy: "farshore failover cleanup \($0.name)")
        }
        let isUploading = try SiteLock.isTaken(site.directory.uploadLockPath)
        // Whoever stopped looking cannot tell any more.
        for host in isUploading ? try catalogue.silentHosts() : [] {
            let now = Clock.wallNanoseconds()
            warnings.append(Warning(
                text: "the host \(host.name) is silent for \(durationText(seconds: Double(now - min(now, host.sinceNanoseconds)) / 1e9))",
                remedy: "look at that host and its uploader; farshore host list; farshore host remove \(host.name) when it is gone for good"))
        }
        let reports = try disks.sorted { $0.disk.name < $1.disk.name }.map { group, disk in
            try DiskReport(
                disk, in: group, catalogue: catalogue, served: served?.first { $0.disk == disk.name }, refused: refused.first { $0.disk == disk.name },
                isUploading: isUploading, mountDied: deadMount != nil)
        }
        let document = Document(
            site: site.directory.path, isMounted: served != nil, isUploading: isUploading, mount: mount, warnings: warnings, disks: reports)
        try output.print(document) { document in
            let services = "mount \(document.isMounted ? "running" : "not running"), uploader \(document.isUploading ? "running" : "not running")"
                + document.warnings.map { "\nwarning: \($0.text)\n  try       \($0.remedy)" }.joined()
            guard !document.disks.isEmpty else { return "no disk is protected on this site (\(document.site)); \(services)" }
            return document.disks.map(\.text).joined(separator: "\n\n") + "\n\n" + services
        }
    }

    static func diedText(_ pid: Int32) -> String {
        "the mount (process \(pid)) ended without closing its disks: who uses them gets I/O errors; what was acknowledged is in their logs"
    }

    /// What the running mount says of its disks, of those it could not open, and of itself; nil when none runs.
    private static func served(_ site: SiteDirectory) throws -> ([ServedDiskStatus]?, refused: [RefusedDisk], mount: MountStatus?) {
        do {
            guard case .status(let disks, let refused, let mount) = try ControlClient(site: site).demand(.status) else { return (nil, [], nil) }
            return (disks, refused, mount)
        } catch where error.code == .mountAway {
            return (nil, [], nil)
        }
    }
}
