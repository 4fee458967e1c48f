// Which records of consecutive segments the state after the last of them needs, and which of the segments go into one then. Pure but for
// reading the record tables. A record is left out when newer ones in the plan overwrite all of its blocks; of a write the span from the
// first to the last block that is still its own stays, under its own sequence, so that a reader who stands between two records goes on
// and misses nothing. Called by Merging.swift.

import BlockIO

struct MergeInput {
    let segment: Segment
    let header: SegmentHeader
    let recordCount: Int
    let lastSequence: UInt64

    /// Up to where records are missing, or would be.
    var reach: UInt64 { max(lastSequence, header.merge?.through ?? 0) }
    var index: UInt64 { header.index }

    func table(_ geometry: SegmentGeometry) throws(LogError) -> SegmentTable {
        try asLogError { () throws(SystemError) in try SegmentTable(segment.file, header, geometry) }
    }

    func record(_ slot: Int, _ table: borrowing SegmentTable) throws(LogError) -> RecordHeader {
        if let record = table.record(slot) { return record }
        throw .damaged(
            path: segment.file.path, segment: index, offset: SegmentGeometry.slotOffset(slot), afterSequence: header.afterSequence,
            reason: "a record of a sealed segment is missing")
    }
}

struct MergePlan {
    /// What one merged interval holds at most, because a vault gets it in one publication.
    static let payloadPagesMax = (512 << 20) / blockBytes
    static let recordsMax = 131_072

    struct Kept {
        let slot: Int
        /// Blocks at the beginning that newer records overwrite.
        let skippedBlocks: Int
        let pages: Int
    }

    let inputs: [MergeInput]
    /// By input, in slot order.
    private(set) var kept: [[Kept]] = []
    /// Inputs, by their place, that become one segment; those on their own stay as they are.
    private(set) var groups: [Range<Int>] = []
    /// Recovery points that are there no more when it was carried out.
    private(set) var lostPoints: UInt64 = 0
    /// The state that stays.
    let through: UInt64

    var gain: Int { inputs.count - groups.count }
    var isWithinLimits: Bool {
        kept.reduce(0) { $0 + $1.reduce(0) { $0 + $1.pages } } <= Self.payloadPagesMax && kept.reduce(0) { $0 + $1.count } <= Self.recordsMax
    }

    init(_ inputs: [MergeInput], _ geometry: SegmentGeometry) throws(LogError) {
        self.inputs = inputs
        through = inputs.reduce(0) { max($0, $1.reach) }
        var covered = CoveredBlocks()
        var points: [Int] = []
        for (place, input) in inputs.enumerated().reversed() {
            let table = try input.table(geometry)
            var mine: [Kept] = []
            var pointCount = 0
            for slot in (0..<input.recordCount).reversed() {
                let record = try input.record(slot, table)
                // Who looks for the end of the interval finds a record there.
                let isEnd = place == inputs.count - 1 && slot == input.recordCount - 1
                if record.kind == .point, !isEnd, input.header.merge == nil { pointCount += 1 }
                if let one = Self.keep(record, slot, isEnd: isEnd, &covered) { mine.append(one) }
            }
            kept.append(mine.reversed())
            points.append(pointCount)
        }
        kept.reverse()
        points.reverse()
        pack(geometry)
        let firstRewritten = groups.first { $0.count > 1 }?.lowerBound ?? inputs.count
        lostPoints = points[firstRewritten...].reduce(0) { $0 + UInt64($1) }
    }

    private static func keep(_ record: RecordHeader, _ slot: Int, isEnd: Bool, _ covered: inout CoveredBlocks) -> Kept? {
        let pages = SegmentGeometry.pages(of: record.payloadBytes)
        guard let blocks = RecordBlocks(record) else { return isEnd ? Kept(slot: slot, skippedBlocks: 0, pages: pages) : nil }
        let range = blocks.first..<blocks.first + blocks.count
        guard let own = covered.uncovered(range) else { return nil }
        covered.insert(range)
        return blocks.isWrite ? Kept(slot: slot, skippedBlocks: Int(own.lowerBound - range.lowerBound), pages: own.count) : Kept(slot: slot, skippedBlocks: 0, pages: 0)
    }

    /// As many neighbours together as fit.
    private mutating func pack(_ geometry: SegmentGeometry) {
        var first = 0
        var (records, pages) = (0, 0)
        for place in inputs.indices {
            let (moreRecords, morePages) = (kept[place].count, kept[place].reduce(0) { $0 + $1.pages })
            let fits = records + moreRecords <= geometry.slotCount
                && geometry.firstPayloadPage + pages + morePages <= geometry.footerPage(recordCount: records + moreRecords)
            if place > first, !fits {
                groups.append(first..<place)
                (first, records, pages) = (place, 0, 0)
            }
            records += moreRecords
            pages += morePages
        }
        groups.append(first..<inputs.count)
    }

    // MARK: how far

    /// One past the last of `inputs` from `first` on that are worth being merged together: until so many segments become free, or what
    /// stays would be too much. `overAppPoints` false: a segment with an app-consistent point stays whole.
    static func end(_ inputs: [MergeInput], from first: Int, wanted: Int, overAppPoints: Bool, _ geometry: SegmentGeometry) throws(LogError) -> Int {
        var covered = CoveredBlocks()
        var (pages, records) = (0, 0)
        let pagesOfOne = geometry.pageCount - geometry.firstPayloadPage
        for place in first..<inputs.count {
            let input = inputs[place]
            let table = try input.table(geometry)
            var isKept = false
            for slot in 0..<input.recordCount {
                let record = try input.record(slot, table)
                if record.isAppConsistent, input.header.merge == nil { isKept = true }
                guard let blocks = RecordBlocks(record) else { continue }
                let added = covered.insert(blocks.first..<blocks.first + blocks.count)
                if blocks.isWrite { pages += added }
                records += added > 0 ? 1 : 0
            }
            if isKept, !overAppPoints { return place }
            if pages > payloadPagesMax || records > recordsMax { return place }
            if place + 1 - first - (pages + pagesOfOne - 1) / pagesOfOne > wanted { return place + 1 }
        }
        return inputs.count
    }
}
