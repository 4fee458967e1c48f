// `farshore point list --flushes`: the flush boundaries of a disk beside its cut points, a page of them, and the window
// in which every one can be picked.

import ArgumentParser
import ChangeLog
import Foundation
import RecoveryPoints
import Site
import Vault

struct FlushOptions: ParsableArguments {
    static let limitMax = 100_000

    @Flag(name: .long, help: "Flush boundaries too, and the window in which every one can be picked.")
    var flushes = false

    @Option(name: .long, help: ArgumentHelp("With --flushes: from this RFC 3339 time or #sequence on.", valueName: "point"))
    var from: String?

    @Option(name: .long, help: ArgumentHelp("With --flushes: up to this RFC 3339 time or #sequence.", valueName: "point"))
    var to: String?

    @Option(name: .long, help: "With --flushes: the newest so many boundaries of the range; 1,000 when not given, at most 100,000.")
    var limit: Int?

    @Option(name: .long, help: ArgumentHelp("With --flushes: at most one boundary, the newest, of each step of so many seconds.", valueName: "seconds"))
    var every: Int?

    func validate() throws {
        guard flushes || (from == nil && to == nil && limit == nil && every == nil) else {
            throw ValidationError("--from, --to, --limit and --every go with --flushes")
        }
        for end in [from, to] { if let end { _ = try Self.place(end) } }
        guard limit.map({ (1...Self.limitMax).contains($0) }) ?? true else { throw ValidationError("--limit must be between 1 and \(Self.limitMax)") }
        guard every.map({ (1...86_400_000).contains($0) }) ?? true else { throw ValidationError("--every must be between 1 and 86400000 seconds") }
    }

    /// Nil without --flushes.
    var query: FlushQuery? {
        get throws {
            guard flushes else { return nil }
            var query = FlushQuery()
            switch try from.map(Self.place) {
            case .sequence(let sequence): query.fromSequence = sequence
            case .time(let micros): query.fromNanoseconds = micros.multipliedReportingOverflow(by: 1000).partialValue
            default: break
            }
            switch try to.map(Self.place) {
            case .sequence(let sequence): query.throughSequence = sequence
            case .time(let micros): query.throughNanoseconds = micros.multipliedReportingOverflow(by: 1000).partialValue + 999
            default: break
            }
            if let limit { query.limit = limit }
            if let every { query.stepNanoseconds = UInt64(every) * 1_000_000_000 }
            return query
        }
    }

    private static func place(_ text: String) throws -> PointName {
        switch PointName(text) {
        case .sequence(let sequence): return .sequence(sequence)
        case .time(let micros): return .time(micros: micros)
        default: throw ValidationError("\"\(text)\" is neither an RFC 3339 time nor a #sequence")
        }
    }
}

/// One page.
struct FlushList: Encodable {
    let disk: String
    /// Every boundary in it can be picked; absent when there is none.
    let window: FlushWindow?
    /// Older ones of the range were left out.
    let hasMore: Bool
    let points: [PointList.Document]

    /// `points` are the cut points of the range; those older than the page are left for the page they belong to.
    init(disk: String, window: FlushWindow?, page: FlushPage, points: [PointList.Document], replicatedSequence: UInt64) {
        self.disk = disk
        self.window = window
        hasMore = page.hasMore
        let oldest = page.hasMore ? page.boundaries.last?.sequence ?? 0 : 0
        let cut = points.filter { $0.sequence >= oldest }
        let cutSequences = Set(cut.map(\.sequence))
        let flushes = page.boundaries.filter { !cutSequences.contains($0.sequence) }
        self.points = (cut + flushes.map { PointList.Document($0, disk: disk, replicatedSequence: replicatedSequence) }).sorted { $0.sequence < $1.sequence }
    }

    var text: String {
        var lines: [String] = []
        if let window {
            let span = "from #\(window.fromSequence) \(window.fromTime) to #\(window.throughSequence) \(window.throughTime)"
            lines.append(
                window.place == "vault"
                    ? "Any flush \(span) can be picked as --at."
                    : "This host's log knows every flush \(span); what is local can be picked in the vault as soon as `farshore upload` has sent it.")
        }
        lines.append(points.isEmpty ? "no flush boundary or point of \(disk) is in this range" : PointList.Document.table(points))
        if hasMore, let oldest = points.first { lines.append("Older ones: --to '#\(oldest.sequence > 0 ? oldest.sequence - 1 : 0)'; fewer: --every SECONDS.") }
        return lines.joined(separator: "\n")
    }
}

struct FlushWindow: Encodable {
    /// `vault` or `log`.
    let place: String
    let fromSequence: UInt64
    let fromTime: String
    let throughSequence: UInt64
    let throughTime: String
}

extension PointList {
    func vaultFlushes(_ url: String, _ query: FlushQuery) throws -> FlushList {
        let vault = try openVault(url: url, key: key, site: site)
        let found = try vault.disk(disk)
        guard let history = try DiskHistory.newest(vault, found) else {
            return FlushList(disk: found.name, window: nil, page: FlushPage(query), points: [], replicatedSequence: 0)
        }
        let page = try history.flushBoundaries(query)
        let points = try SharedPoints(vault, of: found).points(of: found.id).map(\.point)
        var newest = FlushQuery()
        newest.limit = 1
        let last = try history.flushBoundaries(newest).boundaries.first
        func nanoseconds(_ point: RecoveryPoint?) -> UInt64 { (point?.timeMicros ?? 0).multipliedReportingOverflow(by: 1000).partialValue }
        let window = FlushWindow(
            place: "vault", fromSequence: history.state.oldestSequence, fromTime: pointTimeText(nanoseconds: nanoseconds(points.first)),
            throughSequence: history.newestSequence, throughTime: pointTimeText(nanoseconds: last?.wallNanoseconds ?? nanoseconds(points.last)))
        let cut = points.filter { query.includes(sequence: $0.sequence, wallNanoseconds: nanoseconds($0)) }
        return FlushList(
            disk: found.name, window: window, page: page, points: cut.map { Document($0, disk: found.name) }, replicatedSequence: .max)
    }

    func localFlushes(_ query: FlushQuery) throws -> FlushList {
        let found = try site.catalogue().disk(named: disk)
        let folder = LogFolder(found.logFolder)
        let reader = try LogReader(folder)
        // At the target that is furthest.
        let replicated = try reader.state.targets.map { try folder.readMark(target: $0)?.sequence(in: reader.state.lineages) ?? 0 }.max() ?? 0
        let beginning = try reader.beginning()
        var scan = FlushScan()
        for interval in try reader.merged() { scan.hide(after: interval.after, through: interval.through) }
        var page = FlushPage(query)
        var newest: FlushBoundary?
        try reader.headersNewestFirst { record in
            guard let boundary = scan.take(sequence: record.sequence, flushed: record.flushedSequence, wallNanoseconds: record.wallNanoseconds) else { return true }
            newest = newest ?? boundary
            return page.offer(boundary)
        }
        let window = newest.flatMap { newest in
            beginning.map {
                FlushWindow(
                    place: "log", fromSequence: $0.afterSequence, fromTime: pointTimeText(nanoseconds: $0.wallNanoseconds),
                    throughSequence: newest.sequence, throughTime: pointTimeText(nanoseconds: newest.wallNanoseconds))
            }
        }
        let cut = try reader.points().filter { query.includes(sequence: $0.sequence, wallNanoseconds: $0.wallNanoseconds) }
        return FlushList(
            disk: found.name, window: window, page: page, points: cut.map { Document($0, disk: found.name, replicatedSequence: replicated) },
            replicatedSequence: replicated)
    }
}
