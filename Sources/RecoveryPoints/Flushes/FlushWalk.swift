// Walks the flush boundaries of one history in the vault, newest first, from segment indexes alone. A boundary is told
// of by a record behind it, often one of the next segment: those are looked at first. Memory is a few indexes.

import Vault

struct FlushWalk {
    /// Segments behind the range in which the record that tells of its newest boundary is looked for. The log syncs each
    /// of its own segments when it is full, so the first one nearly always has it.
    private static let segmentsBehindMax = 64
    private static let threads = 8

    /// A segment as a manifest names it, and the sequences that count of it.
    private struct Part {
        let entry: SegmentEntry
        let records: Range<UInt64>
    }

    private let history: DiskHistory
    private let after: UInt64
    private let through: UInt64
    private var scan = FlushScan()
    /// The first boundary or point behind the range, once it was met.
    private(set) var next: UInt64?
    /// Newest first.
    private var behind: [Part] = []
    private var isBehindRead = false
    private var batch: [Part] = []
    private var batchSize = 1

    /// Boundaries above `after`, at most `through`.
    init(_ history: DiskHistory, after: UInt64, through: UInt64) {
        self.history = history
        self.after = after
        self.through = through
    }

    /// Calls `body` with each boundary until it returns false. Where the history ends is a boundary: all of it was
    /// durable at the source before it was sent.
    mutating func run(_ lineage: LineageState, _ body: (FlushBoundary) -> Bool) throws(VaultError) {
        if through >= lineage.sequence {
            scan.add(lineage.sequence)
            isBehindRead = true
        }
        var isOver = false
        let history = history
        try history.visitManifests(of: lineage) { manifest throws(VaultError) in
            for interval in manifest.merged ?? [] { scan.hide(after: interval.after, through: interval.through) }
            for entry in manifest.segments.reversed() where !isOver && entry.last > after {
                let part = Part(entry: entry.named(from: manifest.lineage), records: manifest.after + 1..<manifest.sequence + 1)
                if entry.first > through {
                    if behind.count == Self.segmentsBehindMax { behind.removeFirst() }
                    behind.append(part)
                    continue
                }
                batch.append(part)
                if batch.count >= batchSize { isOver = try !readBatch(body) }
            }
            return !isOver && manifest.after > after
        }
        if !isOver { _ = try readBatch(body) }
    }

    /// False when no more is wanted.
    private mutating func readBatch(_ body: (FlushBoundary) -> Bool) throws(VaultError) -> Bool {
        if !isBehindRead { try readBehind() }
        let parts = batch
        batch = []
        batchSize = min(2 * batchSize, Self.threads)
        let indexes = try SegmentIndex.readAll(history.vault, disk: history.state.disk, parts.map(\.entry), manifestLineage: history.state.disk)
        for (part, index) in zip(parts, indexes) {
            for record in index.records.reversed() where part.records.contains(record.sequence) {
                let found = scan.take(sequence: record.sequence, flushed: record.flushedThrough, wallNanoseconds: record.wallNanoseconds)
                if let found, found.sequence <= through {
                    guard found.sequence > after, body(found) else { return false }
                }
                if record.sequence <= after { return false }
                if record.sequence > through { noteNext(record) }
            }
        }
        return true
    }

    /// The boundaries up to `through` that records of later segments tell of.
    private mutating func readBehind() throws(VaultError) {
        isBehindRead = true
        var told: [UInt64] = []
        search: for part in behind.reversed() {
            let index = try SegmentIndex.read(history.vault, disk: history.state.disk, entry: part.entry, manifestLineage: history.state.disk)
            for record in index.records where part.records.contains(record.sequence) {
                if next == nil { noteNext(record) }
                if record.flushedThrough <= through, record.flushedThrough > told.last ?? 0 { told.append(record.flushedThrough) }
                if record.flushedThrough >= through, next != nil { break search }
            }
        }
        behind = []
        for sequence in told.reversed() { scan.add(sequence) }
    }

    private mutating func noteNext(_ record: SegmentRecord) {
        let named = [record.flushedThrough, record.kind == .point ? record.sequence : 0].filter { $0 > through && !scan.isHidden($0) }
        if let lowest = named.min() { next = min(next ?? .max, lowest) }
    }
}
