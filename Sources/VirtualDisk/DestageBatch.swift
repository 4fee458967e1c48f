// The work of one destage batch on image and map; `Destage.swift` has the order of its steps. Memory is bounded by the
// number of pages in the batch (16 bytes each) and one buffer.

import BlockIO
import ChangeLog
import DiskImage
import Synchronization

struct DestageBatch {
    private static let bufferBytes = recordPayloadBytesMax
    private static let trimRanges = 64

    /// A block whose newest data is in the batch.
    private struct Item {
        let block: Int
        let entry: MapEntry
    }

    let disk: VirtualDisk
    let segments: [SealedSegment]

    private var lastIndex: UInt64 { segments[segments.count - 1].index }

    // MARK: - image

    func writeNewest() throws {
        let buffer = AlignedBuffer(count: Self.bufferBytes)
        var items: [Item] = []
        for segment in segments {
            try segment.forEachRecord { (record) throws(LogError) in
                guard record.kind == .write else { return }
                let before = items.count
                collect(record, segment.index, &items)
                // The whole record is checked before a part of it goes into the image.
                if items.count > before { _ = try segment.payload(record, into: buffer.bytes) }
            }
        }
        items.sort { $0.block < $1.block }
        try write(items, buffer.bytes)
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
            items.append(Item(block: first + place, entry: entry.advanced(by: place)))
        }
    }

    /// Neighbouring blocks go into the image with one write.
    private func write(_ items: [Item], _ buffer: UnsafeMutableRawBufferPointer) throws {
        let most = buffer.count / blockBytes
        var start = 0
        while start < items.count {
            var end = start + 1
            while end < items.count, end - start < most, items[end].block == items[end - 1].block + 1 { end += 1 }
            let run = items[start..<end]
            var filled = 0
            for item in run {
                let bytes = disk.blockBytesOnDisk(item.block)
                let part = UnsafeMutableRawBufferPointer(rebasing: buffer[filled..<filled + bytes])
                try segment(item.entry.segment).segment.read(into: part, page: item.entry.page)
                filled += bytes
            }
            try disk.image.write(UnsafeRawBufferPointer(rebasing: buffer[..<filled]), at: UInt64(items[start].block) * UInt64(blockBytes))
            start = end
        }
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
        for segment in segments {
            try segment.forEachRecord { (record) throws(LogError) in
                if record.changesDisk { disk.map.clearCovers(of: record, through: lastIndex) }
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
        trim(Array(touched))
    }

    /// A few ranges at a time: inserts are held up meanwhile. What is busy is tried again after a later batch.
    private func trim(_ ranges: [Int]) {
        var busy = Set<Int>()
        for start in stride(from: 0, to: ranges.count, by: Self.trimRanges) {
            let some = ranges[start..<min(start + Self.trimRanges, ranges.count)]
            if !disk.log.whileNothingIsInFlight({ disk.map.trim(ranges: some) }) { busy.formUnion(some) }
        }
        disk.destage.state.withLock { $0.untrimmedRanges = busy }
    }
}
