// `farshore point list`: the recovery points of a disk as the vault has them; no site, log or image is needed.

import ArgumentParser
import RecoveryPoints
import Site
import Vault

struct PointList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the recovery points of a disk.",
        discussion: """
            With --vault, what the vault has, on any host that has the key. Between two points every sequence can be read too:
            `latest` is the newest sequence in the vault.

            Example:
              farshore point list db1 --vault file:///backup/vault --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        let disk: String
        let sequence: UInt64
        let time: String
        /// `crash` or `app`.
        let kind: String
        let tag: String?
        let state: String

        init(_ point: RecoveryPoint, disk: String) {
            self.disk = disk
            sequence = point.sequence
            time = timeText(nanoseconds: point.timeMicros.multipliedReportingOverflow(by: 1000).partialValue)
            kind = point.kind.rawValue
            tag = point.tag
            state = "replicated"
        }
    }

    @Argument(help: "The disk's name.")
    var disk: String

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let vault = try vault.open(site)
        let found = try vault.disk(disk)
        let points = try DiskHistory.newest(vault, found)?.points() ?? []
        try output.print(points.map { Document($0, disk: found.name) }) { points in
            guard !points.isEmpty else { return "no point of \(found.name) is in the vault yet" }
            return tableText([["POINT", "TIME", "KIND", "TAG"]] + points.map { ["#\($0.sequence)", $0.time, $0.kind, $0.tag ?? ""] })
        }
    }
}
