// `farshore bisect`: the newest good point of a disk, by trying out points half-way between a good one and a bad one.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import RecoveryPoints
import Site
import Vault

struct BisectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bisect",
        abstract: "Find the newest good point of a disk by trying some out.",
        discussion: """
            For damage that came at some moment and stayed: malware, a bad migration, deleted data. The newest and the oldest point of the range are
            tried first, then those half-way between a good one and a bad one, some ten for a thousand points. Where both ends are bad, up to 62 points in between are looked at for a good one
            first: with a --from at which the disk was in use already that is not needed. Each verdict is kept in the vault, as
            by `farshore verify`. A bisection that was interrupted goes on where it was, by its notes in the site directory. Takes root.

            Example:
              farshore bisect db1 --script ./orders-are-there.sh --from 2026-11-01T00:00:00Z --vault file:///backup/vault --key-file /etc/farshore/vault.key
            """)

    struct ProbeDocument: Codable {
        let sequence: UInt64
        let isGood: Bool
        let note: String
        let tookSeconds: Double
    }

    typealias PointDocument = FileList.PointDocument

    struct Document: Encodable {
        let disk: String
        let check: String
        let points: Int
        let newestGood: PointDocument?
        let oldestBad: PointDocument?
        let probes: [ProbeDocument]
    }

    @Argument(help: "The disk's name.")
    var disk: String

    @OptionGroup var range: PointRange

    @Flag(name: .long, help: "Begin anew: forget what was tried before.")
    var restart = false

    @OptionGroup var check: CheckOptions
    @OptionGroup var vault: DiskVaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let bench = try Bench(site, for: "bisecting")
        defer { bench.close() }
        let vault = try vault.open(of: disk, site)
        let found = try vault.disk(disk)
        let points = try points(vault, found)
        guard !points.isEmpty else { throw Failure(.notFound, "there is no point of \(found.name) in this range", try: "`farshore point list \(found.name)` shows what is there") }
        var notes = try BisectNotes(site: site, vault: vault, disk: found, check: check, restart: restart)
        var search = GoodPointSearch(count: points.count)
        for probe in notes.probes {
            if let index = points.firstIndex(where: { $0.sequence == probe.sequence }) { search.note(index, isGood: probe.isGood) }
        }
        let verification = Verification(bench: bench, vault: vault, check: check)
        while case .probe(let index) = search.step {
            let result = try verification.run([ChosenPoint(disk: found, sequence: points[index].sequence)])
            let probe = ProbeDocument(
                sequence: points[index].sequence, isGood: result.outcome.isGood, note: result.outcome.note, tookSeconds: Double(result.tookMicros) / 1e6)
            try notes.add(probe)
            search.note(index, isGood: probe.isGood)
            let verdict = "\(probe.isGood ? "good" : "bad"), \(durationText(seconds: probe.tookSeconds)): \(probe.note)"
            printError("#\(probe.sequence) of \(PointDocument(points[index]).time): \(verdict); at most \(search.probesLeft) more")
        }
        guard case .found(let good, let bad) = search.step else { return }
        let document = Document(
            disk: found.name, check: check.name, points: points.count, newestGood: good.map { PointDocument(points[$0]) }, oldestBad: bad.map { PointDocument(points[$0]) },
            probes: notes.probes.filter { probe in points.contains { $0.sequence == probe.sequence } })
        try output.print(document) { Self.text($0) }
        guard good == nil else { return }
        throw Failure(
            .badVerdict, "none of the \(search.probedCount) points of \(found.name) that were tried is good, of \(points.count) in this range",
            try: search.probedCount < points.count ? "give --from and --to nearer to where it was good, or another check" : "an earlier --from, or another check")
    }

    private func points(_ vault: Vault, _ disk: Catalog.Disk) throws -> [RecoveryPoint] {
        let shared = try SharedPoints(vault, of: disk)
        return try range.points(try shared.points(of: disk.id).map(\.point), shared, of: disk)
    }

    private static func text(_ document: Document) -> String {
        func text(_ point: PointDocument) -> String { "#\(point.sequence) \(point.time)" + (point.tag.map { " \($0)" } ?? "") }
        let tried = "\(document.probes.count) of \(document.points) points of \(document.disk) were tried by \(document.check)."
        guard let good = document.newestGood else { return "\(tried) None of these is good." }
        guard let bad = document.oldestBad else { return "\(tried) The newest is good: \(text(good))" }
        return "\(tried)\nnewest good  \(text(good))\noldest bad   \(text(bad))"
    }
}

/// What was tried, in the site directory, so that an interrupted bisection goes on. Another vault, disk, check, script or guest begins anew.
private struct BisectNotes {
    private struct Document: Codable {
        let format: Int
        let vault: String
        let disk: String
        let check: String
        /// The script's own bytes: who mends it wants other answers.
        let script: Data?
        /// What else decides: of notes of older versions nothing is known.
        let judgement: [String]?
        var probes: [BisectCommand.ProbeDocument]
    }

    private let path: String
    private var document: Document

    var probes: [BisectCommand.ProbeDocument] { document.probes }

    init(site: SiteOptions, vault: Vault, disk: Catalog.Disk, check: CheckOptions, restart: Bool) throws {
        let folder = site.directory.path + "/bisect"
        try Directory.create(folder, mode: 0o700)
        path = "\(folder)/\(disk.id).json"
        let script = try check.script.map { path in
            guard let bytes = try DurableFile.read(absolutePath(path)) else { throw Failure(.notFound, "there is no \(path)", try: "give the path of a script that can be executed") }
            return Data(bytes)
        }
        document = Document(format: 1, vault: vault.id.description, disk: disk.id.description, check: check.name, script: script, judgement: check.judgement, probes: [])
        guard !restart, let bytes = try DurableFile.read(path), let known = try? JSONDecoder().decode(Document.self, from: Data(bytes)) else { return }
        guard known.format == 1, known.vault == document.vault, known.disk == document.disk, known.check == document.check, known.script == document.script, known.judgement == document.judgement else { return }
        document = known
    }

    mutating func add(_ probe: BisectCommand.ProbeDocument) throws {
        document.probes.append(probe)
        try DurableFile.replace(path, with: Array(try JSONEncoder().encode(document)))
    }
}
