// `farshore file list`: the versions of one path along the recovery points of a disk, newest first.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import Glibc
import RecoveryPoints
import Vault

struct FileList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the versions of one file across a disk's recovery points.",
        discussion: """
            Of each version: size, time of the last change, and the first and last point that have it. Two points have the same version when size, times,
            permissions and the file's own number are the same. Points at which it was absent are shown too, and those that cannot be read.

            From the newest point back, each is mounted for this process alone, its journal replayed on a throw-away copy; points between which nothing
            was written that the last look had read are not opened. What is not reached within --time-limit is said. Takes root.

            Example:
              farshore file list db1 /etc/app/config.yaml --vault file:///backup/vault --key-file /etc/farshore/vault.key --from 2026-11-20T00:00:00Z
            """)

    struct PointDocument: Encodable {
        let sequence: UInt64
        let time: String
        let tag: String?

        init(_ point: RecoveryPoint) {
            sequence = point.sequence
            time = pointTimeText(nanoseconds: point.timeMicros.multipliedReportingOverflow(by: 1000).partialValue)
            tag = point.tag
        }
    }

    struct VersionDocument: Encodable {
        /// `file`, `directory`, `special`, `absent` or `unreadable`.
        let kind: String
        let sizeBytes: UInt64?
        let modified: String?
        /// Permission bits, octal.
        let mode: String?
        /// Why it is unreadable.
        let reason: String?
        let points: Int
        let first: PointDocument
        let last: PointDocument
    }

    struct Document: Encodable {
        let disk: String
        let path: String
        let looks: Int
        /// Points that were not reached in time, all older than those of `versions`.
        let notReached: Int
        /// Newest first.
        let versions: [VersionDocument]
    }

    enum Seen: Equatable {
        case there(FoundFile.Attributes)
        case absent
        case unreadable(String)
    }

    @OptionGroup var file: FileOptions

    @OptionGroup var range: PointRange

    @Option(name: .long, help: "After so many seconds no further point is opened.")
    var timeLimit: Double = 600

    func validate() throws {
        guard timeLimit > 0 else { throw ValidationError("--time-limit is a number of seconds") }
    }

    func run() throws {
        let bench = try Bench(file.site, for: "looking at files of recovery points")
        defer { bench.close() }
        let vault = try file.vault.open(of: file.disk, file.site)
        let disk = try vault.disk(file.disk)
        let shared = try SharedPoints(vault, of: disk)
        guard let history = shared.history(of: disk.id) else { throw VaultError.notFound("nothing of the disk \(disk.name) is in the vault yet") }
        let (points, damage) = try points(shared, history, disk)
        guard !points.isEmpty else { throw Failure(.notFound, "there is no point of \(disk.name) in this range", try: "`farshore point list \(disk.name)` shows what is there") }
        var looking = FileLooks(bench: bench, vault: vault, history: history, disk: disk, file: file)
        var search = VersionSearch<Seen>(points.map { .init(sequence: $0.sequence, stretch: history.stretch(of: $0.sequence)) })
        let started = Clock.monotonicNanoseconds()
        let note = CountProgress()
        while search.left > 0, looking.count == 0 || Double(Clock.monotonicNanoseconds() - started) < timeLimit * 1e9 {
            try search.step(look: { try looking.look(at: points[$0].sequence) }, isUntouched: { try looking.isUntouched(at: points[$0].sequence) })
            note.update("\(points.count - search.left) of \(points.count) points, \(looking.count) opened")
        }
        note.finish()
        let document = Document(
            disk: disk.name, path: file.path, looks: looking.count, notReached: search.left,
            versions: search.versions.reversed().map { Self.document($0, points) })
        try file.output.print(document) { Self.text($0) }
        try PointList.refuse(damage)
    }

    /// Those of the range, rising; the newest state is one too.
    private func points(_ shared: SharedPoints, _ history: DiskHistory, _ disk: Catalog.Disk) throws -> ([PointDocument], [VaultError]) {
        let intact = try history.intactPoints()
        var points = intact.points
        if let last = points.last, last.sequence < history.newestSequence {
            points.append(RecoveryPoint(sequence: history.newestSequence, timeMicros: try timeMicros(of: history), kind: .crash, tag: nil))
        }
        return (try range.points(points, shared, of: disk).map { PointDocument($0) }, intact.damage)
    }

    /// Of the newest state: that of the head's manifest is near enough for a label.
    private func timeMicros(of history: DiskHistory) throws -> UInt64 {
        var micros: UInt64 = 0
        if let current = history.state.current {
            try history.visitManifests(of: current) { manifest throws(VaultError) in
                micros = manifest.timeMicros
                return false
            }
        }
        return micros
    }

    static func timeText(_ attributes: FoundFile.Attributes) -> String {
        pointTimeText(nanoseconds: UInt64(clamping: attributes.modifiedNanoseconds))
    }

    private static func document(_ version: VersionSearch<Seen>.Version, _ points: [PointDocument]) -> VersionDocument {
        let (count, first, last) = (version.last - version.first + 1, points[version.first], points[version.last])
        return switch version.value {
        case .there(let attributes):
            VersionDocument(
                kind: attributes.kind.rawValue, sizeBytes: attributes.sizeBytes, modified: timeText(attributes), mode: String(attributes.mode, radix: 8), reason: nil,
                points: count, first: first, last: last)
        case .absent:
            VersionDocument(kind: "absent", sizeBytes: nil, modified: nil, mode: nil, reason: nil, points: count, first: first, last: last)
        case .unreadable(let reason):
            VersionDocument(kind: "unreadable", sizeBytes: nil, modified: nil, mode: nil, reason: reason, points: count, first: first, last: last)
        }
    }

    private static func text(_ document: Document) -> String {
        func point(_ point: PointDocument) -> String { "#\(point.sequence) \(point.time)" + (point.tag.map { " \($0)" } ?? "") }
        let rows = document.versions.map { version in
            [
                version.kind, version.sizeBytes.map(bytesText) ?? "", version.modified ?? "", "\(version.points)", point(version.first), point(version.last),
                version.reason ?? "",
            ]
        }
        let table = tableText([["KIND", "SIZE", "MODIFIED", "POINTS", "FIRST POINT", "LAST POINT", ""]] + rows)
        guard document.notReached > 0 else { return table }
        let next = (document.versions.last?.first.sequence ?? 1) - 1
        return table + "\n\(document.notReached) older points were not reached in time: give more with --time-limit, or go on with --to #\(next)"
    }
}
