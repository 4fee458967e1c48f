// Finds the segment files of a folder and tells live ones from spare ones by their page 0.

import BlockIO
import Glibc

struct FoundSegment {
    let segment: Segment
    let header: SegmentHeader
    let seal: SegmentSeal?

    var index: UInt64 { header.index }

    func replaces(_ other: FoundSegment) -> Bool { other.header.firstIndex >= header.firstIndex && other.index <= index }
}

struct SegmentScan {
    /// By index, lowest first.
    var live: [FoundSegment] = []
    var spares: [Segment] = []

    init(_ folder: LogFolder, _ state: LogState, _ geometry: SegmentGeometry) throws(LogError) {
        let names = try asLogError { () throws(SystemError) in try Directory.list(folder.path) }
        for name in names {
            guard let number = LogFolder.segmentNumber(name) else { continue }
            try add(number, folder.path + "/" + name, state, geometry)
        }
        live.sort { $0.index < $1.index }
        try dropReplaced()
        try dropAbandonedUses(geometry)
    }

    /// Beside a merged segment lie what it replaces, or some of that, when its maker was killed or a power loss took a wipe back. It is
    /// whole and durable before the first of them is wiped; while all of them are there it may not be durable, and is the one that goes.
    private mutating func dropReplaced() throws(LogError) {
        for merged in live.filter({ $0.header.merge != nil }).sorted(by: { $0.index - $0.header.firstIndex < $1.index - $1.header.firstIndex }) {
            guard live.contains(where: { $0.segment === merged.segment }) else { continue }
            let others = live.filter { $0.segment !== merged.segment && merged.replaces($0) }
            if others.isEmpty { continue }
            var next = merged.header.firstIndex
            for other in others where other.header.firstIndex == next && other.seal != nil { next = other.index + 1 }
            let gone = next == merged.index + 1 ? [merged] : others
            for one in gone {
                try wipe(one)
                live.removeAll { $0.segment === one.segment }
            }
        }
    }

    /// A write of a header can fail and be there all the same. Such a use was given up before its first record, and its
    /// index given to another file.
    private mutating func dropAbandonedUses(_ geometry: SegmentGeometry) throws(LogError) {
        var kept: [FoundSegment] = []
        for found in live {
            if let before = kept.last, before.index == found.index {
                if try isWithoutRecords(before, geometry) {
                    try wipe(before)
                    kept.removeLast()
                } else if try isWithoutRecords(found, geometry) {
                    try wipe(found)
                    continue
                } else {
                    throw .foreignSegment(path: found.segment.file.path, reason: "it has the same index as \(before.segment.file.path)")
                }
            }
            kept.append(found)
        }
        live = kept
    }

    private func isWithoutRecords(_ found: FoundSegment, _ geometry: SegmentGeometry) throws(LogError) -> Bool {
        guard found.seal == nil else { return false }
        return try asLogError { () throws(SystemError) in try SegmentTable(found.segment.file, found.header, geometry).endSlot == 0 }
    }

    private mutating func wipe(_ found: FoundSegment) throws(LogError) {
        try asLogError { () throws(SystemError) in try found.segment.wipe() }
        found.segment.leaveIndex()
        spares.append(found.segment)
    }

    /// Segments are wiped in index order, after the image holds them: one that is followed by a gap, with the image holding
    /// all up to the gap's end, was wiped, and a power loss brought its header back because the wipe's sync had failed.
    mutating func wipeLeftovers(through destagedSegment: UInt64, replicated: UInt64) throws(LogError) {
        let next = { (place: Int, live: [FoundSegment]) in place + 1 < live.count ? live[place + 1].header.firstIndex : destagedSegment + 1 }
        guard let last = live.indices.last(where: { next($0, live) > live[$0].index + 1 && next($0, live) <= destagedSegment + 1 }) else { return }
        // One that a target still waits for was never wiped: something else is missing, and is named.
        guard live[...last].allSatisfy({ ($0.seal?.lastSequence ?? .max) <= replicated }) else { return }
        for leftover in live[...last] { try wipe(leftover) }
        live.removeFirst(last + 1)
    }

    private mutating func add(_ number: Int, _ path: String, _ state: LogState, _ geometry: SegmentGeometry) throws(LogError) {
        let file = try asLogError { () throws(SystemError) in try Descriptor.open(path, O_RDWR) }
        let status = try asLogError { () throws(SystemError) in try file.status() }
        let size = status.sizeBytes
        let page = AlignedBuffer(count: blockBytes)
        _ = try asLogError { () throws(SystemError) in try file.readUpTo(page.bytes, at: 0) }
        let bytes = UnsafeRawBufferPointer(page.bytes)
        switch SegmentHeader.decode(bytes) {
        case .spare where size == UInt64(geometry.segmentBytes) && status.allocatedBytes >= size && !state.bootID.isEmpty:
            spares.append(Segment(number: number, file: file, geometry: geometry))
        case .spare:
            // Its maker was killed before it was complete, or it is a copy without blocks; it holds nothing.
            guard unlink(path) == 0 else { throw .system(SystemError(errno: errno, operation: "remove the unfinished segment", path: path)) }
        case .unsupportedVersion(let version): throw .unsupportedVersion(path: path, found: String(version))
        case .invalid:
            throw .damaged(path: path, segment: 0, offset: 0, afterSequence: 0, reason: "the segment's header does not match its checksum")
        case .header(let header):
            guard header.diskID == state.diskID else { throw .foreignSegment(path: path, reason: "it belongs to disk \(header.diskID)") }
            guard Int(header.segmentBytes) == geometry.segmentBytes, size == UInt64(geometry.segmentBytes) else {
                throw .foreignSegment(path: path, reason: "it has \(size) bytes, the log's segments have \(geometry.segmentBytes)")
            }
            let segment = Segment(number: number, file: file, geometry: geometry)
            segment.begin(header)
            let sector = UnsafeRawBufferPointer(rebasing: bytes[SegmentSeal.offset..<SegmentSeal.offset + SegmentHeader.sectorBytes])
            let seal = SegmentSeal.decode(sector, for: header)
            if let seal, Int(seal.recordCount) > geometry.slotCount {
                throw .damaged(path: path, segment: header.index, offset: UInt64(SegmentSeal.offset), afterSequence: 0, reason: "its seal counts more records than fit")
            }
            guard seal != nil || header.merge == nil else {
                throw .damaged(path: path, segment: header.index, offset: UInt64(SegmentSeal.offset), afterSequence: header.afterSequence, reason: "a merged segment without a seal")
            }
            live.append(FoundSegment(segment: segment, header: header, seal: seal))
        }
    }
}
