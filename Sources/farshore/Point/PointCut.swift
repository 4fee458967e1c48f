// `farshore point cut`: a recovery point now, over one or several disks of the running mount.

import ArgumentParser
import Site
import Vault

struct PointCut: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cut",
        abstract: "Cut a recovery point; returns when it is in the log.",
        discussion: """
            All disks named share one point: nothing acknowledged before the cut is missing in any of them, nothing issued
            after it returned is in one. The disks of a machine or replication group are always cut together, whichever is named;
            if one of them cannot take part, none is cut. Without disks, every served disk is cut. `point list` says when it
            reached the vault; one that is cut before initial replication began does not, and the output says so. A tag may be used again: it names the newest point that has it.

            A point is crash-consistent. With --app the machines come to rest for it, as `machine set` says, and it is
            app-consistent. Where one does not, the point is cut all the same, crash-consistent, and the exit status is 1.

            Example:
              farshore point cut db1 db1-log --tag before-upgrade
            """)

    struct Document: Encodable {
        let disk: String
        let sequence: UInt64
        let time: String
        let tag: String?
        let kind: String
        /// False while no target's initial replication has begun: what it sends is newer than this point.
        let reachesVault: Bool

        init(_ point: CutPoint, _ catalogue: Catalogue) throws {
            disk = point.disk
            sequence = point.sequence
            time = pointTimeText(nanoseconds: point.timeNanoseconds)
            tag = point.tag
            kind = (point.isAppConsistent ? RecoveryPoint.Kind.app : .crash).rawValue
            reachesVault = try catalogue.targets(ofDisk: point.disk).contains { try catalogue.replication(ofDisk: $0.name, at: $0.vaultID).phase != .waiting }
        }

        func text(showsKind: Bool) -> String {
            "\(disk)  #\(sequence)  \(time)" + (tag.map { "  \($0)" } ?? "") + (showsKind ? "  \(kind)" : "")
                + (reachesVault ? "" : "  (no vault will have it: its initial replication has not begun; farshore status)")
        }
    }

    @Argument(help: "Disks of this site; none means all that are served.")
    var disks: [String] = []

    @Option(name: .long, help: "The disks of this machine.")
    var machine: String?

    @Option(name: .long, help: "The disks of this replication group.")
    var group: String?

    @Option(name: .long, help: "A name for the point: letters, digits, . _ - and at most 64 of them, not a number.")
    var tag: String?

    @Flag(name: [.customLong("app"), .customLong("app-consistent")], help: "Bring the machines to rest for it: an app-consistent point.")
    var app = false

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let tag { try Self.validate(tag: tag) }
        guard Set(disks).count == disks.count else { throw ValidationError("a disk is named twice") }
        guard (disks.isEmpty ? 0 : 1) + (machine == nil ? 0 : 1) + (group == nil ? 0 : 1) <= 1 else {
            throw ValidationError("give disks, --machine or --group")
        }
    }

    /// Tags become names of links beside sequence numbers in a mount, so they must not look like one.
    static func validate(tag: String) throws {
        let allowed = tag.utf8.allSatisfy { byte in
            (0x61...0x7A).contains(byte) || (0x41...0x5A).contains(byte) || (0x30...0x39).contains(byte) || [0x2E, 0x5F, 0x2D].contains(byte)
        }
        guard allowed, (1...64).contains(tag.utf8.count), !tag.hasPrefix("."), !tag.hasPrefix("latest"), tag.contains(where: { !$0.isNumber }) else {
            throw ValidationError("\(tag.debugDescription) cannot be a tag: use 1 to 64 of letters, digits, . _ -; not only digits, no leading dot, not latest…")
        }
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let names = try named(catalogue)
        let reply = try ControlClient(site: site.directory).demand(.cut(disks: names, tag: tag, isApp: app), timeoutSeconds: app ? 300 : 30)
        guard case .points(let points, let left) = reply else {
            throw SiteError(.controlGarbled, "the mount answered another question", remedy: "unmount and mount again")
        }
        try output.print(points.map { try Document($0, catalogue) }) { points in
            points.isEmpty ? "no point was cut" : points.map { $0.text(showsKind: app) }.joined(separator: "\n")
        }
        if let first = left.first { throw Failure(.failed, first, try: "farshore status") }
    }

    private func named(_ catalogue: Catalogue) throws -> [String] {
        for disk in disks { _ = try catalogue.disk(named: disk) }
        let found: [ProtectedDisk]
        if let machine {
            found = try catalogue.machine(named: machine).disks
        } else if let group {
            found = try catalogue.group(named: group).disks
        } else {
            return disks
        }
        let names = found.filter { $0.state == .protected }.map(\.name)
        guard !names.isEmpty else { throw Failure(.notFound, "it has no protected disk", try: "farshore machine list, farshore group list") }
        return names
    }
}
