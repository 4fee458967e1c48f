// `farshore vault check`: can every point of a vault be restored?

import ArgumentParser
import Vault

struct VaultCheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Verify that every recovery point can be restored; name what is damaged, and which points and bytes it takes.",
        discussion: """
            Without --read-data, metadata is read and opened, and data objects are asked for. With it, everything is read.
            Exit status 6 when there is damage.

            With --locked-for, a target with object lock is also asked whether everything that points need stays locked so long; exit status 1 when it does not.

            Example:
              farshore vault check file:///backup/vault --key-file /etc/farshore/vault.key --read-data
            """)

    struct Document: Encodable {
        struct Finding: Encodable {
            let object: String
            let reason: String
            let disk: String?
            let firstSequence: UInt64?
            let lastSequence: UInt64?
            let points: [UInt64]
            /// The object lists points itself: there may be more of them.
            let hidesPoints: Bool
            let ranges: [ByteRange]
        }

        struct Orphans: Encodable {
            let objects: UInt64
            let bytes: UInt64
            let examples: [String]
        }

        struct Locks: Encodable {
            let objects: UInt64
            /// Their lock ends too early.
            let shortObjects: UInt64
            /// Of these, those without one.
            let unlockedObjects: UInt64
            let hiddenObjects: UInt64
        }

        let disks: UInt64
        let groups: UInt64
        let points: UInt64
        let objects: UInt64
        let bytesRead: UInt64
        let readData: Bool
        let damaged: [Finding]
        /// Absent when something is damaged, or the credentials may not list the vault.
        let orphans: Orphans?
        /// With `--locked-for`.
        let locks: Locks?
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @OptionGroup var key: KeyOptions

    @Flag(name: .long, help: "Read and open all data too.")
    var readData = false

    @Option(name: .long, help: ArgumentHelp("Also tell how many of the objects that points need are not locked for so long from now on (15d, 2h).", valueName: "time"), transform: lockSpan)
    var lockedFor: Int?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let vault = try openVault(url: url, key: key, site: site)
        let progress = CountProgress()
        let report = try VaultCheck(vault: vault, readData: readData, progress: progress.note).run()
        progress.finish()
        let locks = try lockedFor.map { try VaultLock(soundVault(url: url, key: key, site: site, locking: true), spanSeconds: $0, extends: false).run() }
        try output.print(document(report, locks), text: Self.text)
        guard report.isClean else {
            throw Failure(
                .integrityDamage, "\(report.findings.count) damaged object\(report.findings.count == 1 ? "" : "s")",
                try: "restore these objects from a copy of the vault, or use a point that is not affected; in a bucket that keeps versions look what `farshore vault undo URL` brings back; to have whole points again, end the disk's protection and protect it under a new name, which sends all of it anew")
        }
        try locks?.refuseMeddled()
        if let locks, locks.shortObjects > 0 {
            throw Failure(.failed, "\(locks.shortObjects) of \(locks.objects) objects that points need are not locked for so long", try: "run `farshore vault lock URL --for TIME`, each day")
        }
    }

    private func document(_ report: CheckReport, _ locks: LockReport?) -> Document {
        Document(
            disks: report.disks, groups: report.groups, points: report.points, objects: report.objects, bytesRead: report.bytesRead, readData: readData,
            damaged: report.findings.map {
                Document.Finding(
                    object: $0.object, reason: $0.reason, disk: $0.disk, firstSequence: $0.firstSequence, lastSequence: $0.lastSequence,
                    points: $0.points.map(\.sequence), hidesPoints: $0.hidesPoints, ranges: $0.ranges)
            },
            orphans: report.orphans.map { Document.Orphans(objects: $0.objects, bytes: $0.bytes, examples: $0.examples) },
            locks: locks.map { Document.Locks(objects: $0.objects, shortObjects: $0.shortObjects, unlockedObjects: $0.unlockedObjects, hiddenObjects: $0.hiddenObjects) })
    }

    private static func text(_ document: Document) -> String {
        let summary = "Checked \(document.objects) objects of \(document.disks) disks with \(document.points) points"
            + (document.readData ? ", all data read (\(bytesText(document.bytesRead)))" : "; data was asked for, not read (--read-data)")
        guard !document.damaged.isEmpty else { return summary + ": no damage." + orphansText(document) + locksText(document) }
        return ([summary + "."] + document.damaged.map(describe)).joined(separator: "\n")
    }

    private static func orphansText(_ document: Document) -> String {
        guard let orphans = document.orphans, orphans.objects > 0 else { return "" }
        return "\n\(orphans.objects) objects (\(bytesText(orphans.bytes))) are needed by no point, such as \(orphans.examples[0]); `farshore vault collect` removes them."
    }

    private static func locksText(_ document: Document) -> String {
        guard let locks = document.locks else { return "" }
        guard locks.shortObjects > 0 else { return "\nAll \(locks.objects) objects that points need are locked for so long." }
        return "\n\(locks.shortObjects) of \(locks.objects) objects that points need are not locked for so long, \(locks.unlockedObjects) of them not at all."
    }

    private static func describe(_ finding: Document.Finding) -> String {
        var lines = ["DAMAGED \(finding.object): \(finding.reason)"]
        if let disk = finding.disk {
            if let first = finding.firstSequence, let last = finding.lastSequence {
                let points = "\(finding.points.count) point\(finding.points.count == 1 ? "" : "s")" + (finding.points.first.map { ", first #\($0)" } ?? "")
                lines.append("  disk \(disk), sequences \(first) to \(last), " + (finding.hidesPoints ? "\(points), and those that only this object lists" : points))
            } else {
                lines.append("  disk \(disk), no point needs it")
            }
        }
        for range in finding.ranges.prefix(20) { lines.append("  bytes \(range.offset) to \(range.end) (\(bytesText(range.length)))") }
        if finding.ranges.count > 20 { lines.append("  and \(finding.ranges.count - 20) more ranges") }
        return lines.joined(separator: "\n")
    }
}
