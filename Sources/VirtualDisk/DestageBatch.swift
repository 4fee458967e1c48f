// The work of one destage batch on image and map; `Destage.swift` has the order of its steps. Memory is bounded by the
// number of pages in the batch (24 bytes each) and one buffer. Dirty pages of the image are bounded by the pace's window.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Synchronization

struct DestageBatch {
    private static let bufferBytes = recordPayloadBytesMax
    private static let trimRanges = 64

    /// A block whose newest data is in the batch.
    private struct Item {
        let block: Int
        let entry: MapEntry
        /// Of a record of one block, checked when it is read to be written; 0 stands for a record checked as a whole before.
        let checksum: UInt32
    }

    let disk: VirtualDisk
    let segments: [SealedSegment]

    private var lastIndex: UInt64 { segments[segments.count - 1].index }

    // MARK: - image

    func writeNewest(_ pace: inout DestagePace) throws {
        let buffer = AlignedBuffer(count: Self.bufferBytes)
        var items: [Item] = []
        for segment in segments {
            try segment.forEachRecord { (record) throws(LogError) in
                guard record.kind == .write else { return }
                let before = items.count
                collect(record, segment.index, &items)
                // The whole record is checked before a part of it goes into the image.
                if items.count > before, !isCheckedWhenWritten(record) { _ = try segment.payload(record, into: buffer.bytes) }
            }
        }
        items.sort { $0.block < $1.block }
        try write(items, buffer.bytes, &pace)
        for segment in segments {
            var failure: SystemError?
            try segment.forEachRecord { (record) throws(LogError) in
                guard failure == nil, record.kind == .zero || record.kind == .discard else { return }
                do throws(SystemError) { try zeroNewest(record, segment.index) } catch { failure = error }
            }
            if let failure { throw failure }
        }
    }

    private func collect(_ record: RecordHeader, _ segment: UInt64, _ items: inout [Item]) {
        let (first, count) = disk.map.blocks(of: record)
        let entry = MapEntry(segment: segment, page: Int(record.payloadPage), isWrite: true)
        for place in 0..<count where disk.map.entry(first + place) == entry.advanced(by: place) {
            let checksum = isCheckedWhenWritten(record) ? record.payloadChecksum : 0
            items.append(Item(block: first + place, entry: entry.advanced(by: place), checksum: checksum))
        }
    }

    /// One read serves both then, which halves the reads of random small writes.
    private func isCheckedWhenWritten(_ record: RecordHeader) -> Bool {
        record.length == UInt64(blockBytes) && record.payloadChecksum != 0
    }

    /// Neighbouring blocks go into the image with one write.
    private func write(_ items: [Item], _ buffer: UnsafeMutableRawBufferPointer, _ pace: inout DestagePace) throws {
        let most = buffer.count / blockBytes
        var window = Window(start: Clock.monotonicNanoseconds())
        var start = 0
        while start < items.count {
            var end = start + 1
            while end < items.count, end - start < most, items[end].block == items[end - 1].block + 1 { end += 1 }
            try checkStop()
            let filled = try fill(buffer, items[start..<end])
            let offset = UInt64(items[start].block) * UInt64(blockBytes)
            try disk.image.write(UnsafeRawBufferPointer(rebasing: buffer[..<filled]), at: offset)
            window.add(offset, filled)
            try writeBack(&window, &pace, isLast: end == items.count)
            start = end
        }
    }

    /// Reads the run's blocks into `buffer`: what lies together in the log with one read. Returns the bytes filled.
    private func fill(_ buffer: UnsafeMutableRawBufferPointer, _ run: ArraySlice<Item>) throws -> Int {
        var filled = 0
        var start = run.startIndex
        while start < run.endIndex {
            let first = run[start]
            var end = start + 1
            var bytes = disk.blockBytesOnDisk(first.block)
            while end < run.endIndex, run[end].entry == first.entry.advanced(by: end - start) {
                bytes += disk.blockBytesOnDisk(run[end].block)
                end += 1
            }
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[filled..<filled + bytes])
            let source = segment(first.entry.segment)
            try source.segment.read(into: part, page: first.entry.page)
            for index in start..<end where run[index].checksum != 0 {
                let place = (index - start) * blockBytes
                try source.check(UnsafeRawBufferPointer(rebasing: part[place..<place + blockBytes]), run[index].checksum, page: run[index].entry.page)
            }
            filled += bytes
            start = end
        }
        return filled
    }

    /// What was written to the image since write-back was last waited for.
    private struct Window {
        var start: UInt64
        var bytes = 0
        var from = UInt64.max
        var through: UInt64 = 0

        mutating func add(_ offset: UInt64, _ count: Int) {
            from = min(from, offset)
            through = max(through, offset + UInt64(count))
            bytes += count
        }
    }

    /// When the window is full: write-back, then the rest that the pace asks for. The last window's write-back is the
    /// image's flush, which follows.
    private func writeBack(_ window: inout Window, _ pace: inout DestagePace, isLast: Bool) throws {
        guard window.bytes >= DestagePace.busyWindowBytes, !isLast else { return }
        let load = disk.destageLoad
        guard window.bytes >= pace.windowBytes(load) else { return }
        try disk.image.writeBack(at: window.from, length: window.through - window.from)
        let now = Clock.monotonicNanoseconds()
        pace.note(load, now: now)
        let rest = pace.restNanoseconds(load, worked: now - window.start)
        if rest > 0 { usleep(UInt32(rest / 1000)) }
        window = Window(start: Clock.monotonicNanoseconds())
    }

    /// Given up here a batch is repeated from its beginning by the next opening.
    private func checkStop() throws(SystemError) {
        guard disk.destage.isStopping.load(ordering: .acquiring) else { return }
        throw SystemError(errno: ECANCELED, operation: "merge", path: disk.image.path)
    }

    private func segment(_ index: UInt64) -> SealedSegment { segments[Int(index - segments[0].index)] }

    /// Zeroes the blocks whose newest record is this one, in runs as long as possible.
    private func zeroNewest(_ record: RecordHeader, _ segment: UInt64) throws(SystemError) {
        let (first, count) = disk.map.blocks(of: record)
        let entry = MapEntry(segment: segment, page: Int(record.payloadPage), isWrite: false)
        var runStart: Int?
        var block = first
        while block < first + count {
            let range = block / BlockMap.rangeBlocks
            let isWhole = block % BlockMap.rangeBlocks == 0 && !disk.map.isUsed(range: range)
            let isOurs = isWhole ? disk.map.cover(range: range) == entry : disk.map.entry(block) == entry
            if isOurs { runStart = runStart ?? block }
            if !isOurs, let start = runStart {
                try zero(start, block)
                runStart = nil
            }
            block += isWhole ? BlockMap.rangeBlocks : 1
        }
        if let start = runStart { try zero(start, min(block, first + count)) }
    }

    private func zero(_ first: Int, _ end: Int) throws(SystemError) {
        let start = UInt64(first) * UInt64(blockBytes)
        try disk.image.zero(at: start, length: min(UInt64(end) * UInt64(blockBytes), disk.sizeBytes) - start)
    }

    func writeEveryRecord() throws {
        let buffer = AlignedBuffer(count: Self.bufferBytes)
        for segment in segments {
            var failure: SystemError?
            try segment.forEachRecord { (record) throws(LogError) in
                guard failure == nil, record.changesDisk else { return }
                do throws(SystemError) { try checkStop() } catch {
                    failure = error
                    return
                }
                let payload = record.kind == .write ? try segment.payload(record, into: buffer.bytes) : UnsafeRawBufferPointer(start: nil, count: 0)
                do throws(SystemError) {
                    if record.kind == .write {
                        try disk.image.write(payload, at: record.diskOffset)
                    } else {
                        try disk.image.zero(at: record.diskOffset, length: record.length)
                    }
                } catch { failure = error }
            }
            if let failure { throw failure }
        }
    }

    // MARK: - map

    /// Covers before entries (see `BlockMap`), then the memory of ranges that became empty.
    func clearMap() throws {
        var coverPages = disk.destage.state.withLock { $0.untrimmedCoverPages }
        for segment in segments {
            try segment.forEachRecord { (record) throws(LogError) in
                guard record.kind == .zero || record.kind == .discard else { return }
                disk.map.clearCovers(of: record, through: lastIndex)
                let (first, count) = disk.map.blocks(of: record)
                guard count >= BlockMap.rangeBlocks else { return }
                let pages = BlockMap.coverPage(ofRange: first / BlockMap.rangeBlocks)...BlockMap.coverPage(ofRange: (first + count - 1) / BlockMap.rangeBlocks)
                coverPages.formUnion(pages)
            }
        }
        var touched = disk.destage.state.withLock { $0.untrimmedRanges }
        for segment in segments {
            try segment.forEachRecord { (record) throws(LogError) in
                guard record.changesDisk else { return }
                disk.map.clearEntries(of: record, through: lastIndex)
                let (first, count) = disk.map.blocks(of: record)
                for range in first / BlockMap.rangeBlocks...(first + count - 1) / BlockMap.rangeBlocks where disk.map.isUsed(range: range) {
                    touched.insert(range)
                }
            }
        }
        let busyRanges = trim(touched) { disk.map.trim(ranges: $0) }
        let busyPages = trim(coverPages) { disk.map.trimCovers(pages: $0) }
        disk.destage.state.withLock {
            $0.untrimmedRanges = busyRanges
            $0.untrimmedCoverPages = busyPages
        }
    }

    /// A few at a time: inserts are held up meanwhile. Returns what was busy, to be tried again after a later batch.
    private func trim(_ numbers: Set<Int>, _ give: (ArraySlice<Int>) -> Void) -> Set<Int> {
        var busy = Set<Int>()
        let all = Array(numbers)
        for start in stride(from: 0, to: all.count, by: Self.trimRanges) {
            let some = all[start..<min(start + Self.trimRanges, all.count)]
            if !disk.log.whileNothingIsInFlight({ give(some) }) { busy.formUnion(some) }
        }
        return busy
    }
}
