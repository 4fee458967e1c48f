// Where each 4 KiB block's newest data is: 0 = the image, else a place in the log. Lock-free: readers and writers use
// single 64-bit entries, and entries only grow (a lower sequence never replaces a higher one) until destage clears them.
//
// Two levels: an entry a block, and a cover a range of 512 blocks for zero records that span it; the higher of the two
// counts. Both are reserved address space; a range costs memory (4 KiB) only once one of its blocks was written, 512 covers
// only once one of their ranges was zeroed; `trim` and `trimCovers` give it back. The entries of a range that has none
// are not even read: that would cost page tables for all of a large disk. Destage clears what a cover hides, then the cover, then what was visible above it. Readers load
// the cover before the entry, and when the cover wins once more after it: so neither a hidden entry nor an outdated
// cover is ever seen alone.

import BlockIO
import CLinux
import ChangeLog
import Glibc

/// One block's place in the log. The number's order is the order of sequences within a disk.
struct MapEntry: Equatable {
    static let pageShift: UInt64 = 1
    static let segmentShift: UInt64 = 20

    let raw: UInt64

    init(raw: UInt64) { self.raw = raw }

    init(segment: UInt64, page: Int, isWrite: Bool) {
        raw = segment << Self.segmentShift | UInt64(page) << Self.pageShift | (isWrite ? 1 : 0)
    }

    var isImage: Bool { raw == 0 }
    var isWrite: Bool { raw & 1 == 1 }
    var segment: UInt64 { raw >> Self.segmentShift }
    var page: Int { Int(raw >> Self.pageShift & 0x7FFFF) }
    /// The entry of the next page of the same record.
    func advanced(by pages: Int) -> MapEntry { MapEntry(raw: raw + UInt64(pages) << Self.pageShift) }
}

final class BlockMap: @unchecked Sendable {
    // Sendable: every word of the three tables is only touched by the atomic calls of CLinux.
    static let rangeBlocks = 512
    /// Words of the tables in one page of memory.
    private static let pageWords = 512

    let blockCount: Int
    let rangeCount: Int
    private let entries: UnsafeMutablePointer<UInt64>
    private let covers: UnsafeMutablePointer<UInt64>
    /// Non-zero for ranges whose entries may be non-zero: scans skip the others.
    private let used: UnsafeMutablePointer<UInt64>

    init(diskBytes: UInt64) throws(SystemError) {
        blockCount = Int((diskBytes + UInt64(blockBytes) - 1) / UInt64(blockBytes))
        rangeCount = (blockCount + Self.rangeBlocks - 1) / Self.rangeBlocks
        entries = try Self.reserve(rangeCount * Self.rangeBlocks)
        covers = try Self.reserve(rangeCount)
        used = try Self.reserve(rangeCount)
    }

    deinit {
        munmap(entries, rangeCount * Self.rangeBlocks * 8)
        munmap(covers, rangeCount * 8)
        munmap(used, rangeCount * 8)
    }

    /// Zeroed words that take no memory until touched. Huge pages would take 2 MiB for one entry.
    private static func reserve(_ words: Int) throws(SystemError) -> UnsafeMutablePointer<UInt64> {
        let bytes = max(words, 1) * 8
        let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let memory, memory != MAP_FAILED else {
            throw SystemError(errno: errno, operation: "reserve \(bytes) bytes of address space", path: "block map")
        }
        madvise(memory, bytes, MADV_NOHUGEPAGE)
        return memory.bindMemory(to: UInt64.self, capacity: words)
    }

    // MARK: - lookup

    func entry(_ block: Int) -> MapEntry {
        let range = block / Self.rangeBlocks
        let place = covers + range
        var cover = farshore_load_acquire(place)
        while true {
            // `raise` marks a range before it sets an entry: where there is no mark, the lookup comes before the insert.
            let own = farshore_load_acquire(used + range) == 0 ? 0 : farshore_load_acquire(entries + block)
            if own >= cover { return MapEntry(raw: own) }
            let again = farshore_load_acquire(place)
            if again == cover { return MapEntry(raw: cover) }
            cover = again
        }
    }

    func cover(range: Int) -> MapEntry { MapEntry(raw: farshore_load_acquire(covers + range)) }

    /// Whether a block of the range may have an entry of its own.
    func isUsed(range: Int) -> Bool { farshore_load_acquire(used + range) != 0 }

    // MARK: - insert

    /// The record's blocks now read from the log, unless a newer record has them.
    func insert(_ record: RecordHeader, segment: UInt64) {
        guard record.changesDisk else { return }
        let (first, count) = blocks(of: record)
        let entry = MapEntry(segment: segment, page: Int(record.payloadPage), isWrite: record.kind == .write)
        if entry.isWrite {
            for place in 0..<count { raise(first + place, to: entry.advanced(by: place)) }
        } else {
            insertZero(first, count, entry)
        }
    }

    /// The same for a record that the log held when it was opened. In the order of sequences, while nobody else knows the map:
    /// guests wait for millions of these, and an atomic exchange would wait for the memory of each.
    func replay(_ blocks: RecordBlocks, segment: UInt64) {
        let (first, count) = (Int(blocks.first), Int(blocks.count))
        let entry = MapEntry(segment: segment, page: blocks.page, isWrite: blocks.isWrite)
        guard entry.isWrite else { return insertZero(first, count, entry) }
        for place in 0..<count {
            used[(first + place) / Self.rangeBlocks] = 1
            entries[first + place] = entry.advanced(by: place).raw
        }
    }

    func blocks(of record: RecordHeader) -> (first: Int, count: Int) {
        (Int(record.diskOffset) / blockBytes, (Int(record.length) + blockBytes - 1) / blockBytes)
    }

    private func insertZero(_ first: Int, _ count: Int, _ entry: MapEntry) {
        var block = first
        let end = first + count
        while block < end {
            let range = block / Self.rangeBlocks
            if block % Self.rangeBlocks == 0, end - block >= min(Self.rangeBlocks, blockCount - block) {
                _ = farshore_fetch_max(covers + range, entry.raw)
                block += Self.rangeBlocks
            } else {
                raise(block, to: entry)
                block += 1
            }
        }
    }

    private func raise(_ block: Int, to entry: MapEntry) {
        let mark = used + block / Self.rangeBlocks
        if farshore_load_acquire(mark) == 0 { farshore_store_release(mark, 1) }
        _ = farshore_fetch_max(entries + block, entry.raw)
    }

    // MARK: - clear

    /// The image holds everything up to `segment`: covers of the record's ranges that are not newer become 0, what they
    /// hide before them. Before the entries of any record of the batch.
    func clearCovers(of record: RecordHeader, through segment: UInt64) {
        guard record.kind != .write else { return }
        let (first, count) = blocks(of: record)
        for range in first / Self.rangeBlocks...(first + count - 1) / Self.rangeBlocks {
            let cover = farshore_load_acquire(covers + range)
            if cover == 0 || MapEntry(raw: cover).segment > segment { continue }
            if isUsed(range: range) { clearHidden(range, below: cover) }
            clear(covers + range, through: segment)
        }
    }

    private func clearHidden(_ range: Int, below cover: UInt64) {
        for place in range * Self.rangeBlocks..<(range + 1) * Self.rangeBlocks {
            let seen = farshore_load_acquire(entries + place)
            if seen != 0, seen < cover { _ = farshore_compare_exchange(entries + place, seen, 0) }
        }
    }

    /// After the covers of all records of the batch.
    func clearEntries(of record: RecordHeader, through segment: UInt64) {
        let (first, count) = blocks(of: record)
        var block = first
        while block < first + count {
            if isUsed(range: block / Self.rangeBlocks) {
                clear(entries + block, through: segment)
                block += 1
            } else {
                block = (block / Self.rangeBlocks + 1) * Self.rangeBlocks
            }
        }
    }

    private func clear(_ word: UnsafeMutablePointer<UInt64>, through segment: UInt64) {
        while true {
            let seen = farshore_load_acquire(word)
            if seen == 0 || MapEntry(raw: seen).segment > segment || farshore_compare_exchange(word, seen, 0) { return }
        }
    }

    /// Gives back the memory of ranges without entries. Only while no insert can run.
    func trim(ranges: some Sequence<Int>) {
        for range in ranges where isUsed(range: range) {
            let start = entries + range * Self.rangeBlocks
            guard (0..<Self.rangeBlocks).allSatisfy({ farshore_load_acquire(start + $0) == 0 }) else { continue }
            madvise(start, Self.rangeBlocks * 8, MADV_DONTNEED)
            farshore_store_release(used + range, 0)
        }
    }

    /// The page of covers that the cover of `range` lies in.
    static func coverPage(ofRange range: Int) -> Int { range / pageWords }

    /// Gives back the memory of pages whose covers are all 0. Only while no insert can run.
    func trimCovers(pages: some Sequence<Int>) {
        for page in pages {
            let start = covers + page * Self.pageWords
            let count = min(Self.pageWords, rangeCount - page * Self.pageWords)
            guard (0..<count).allSatisfy({ farshore_load_acquire(start + $0) == 0 }) else { continue }
            madvise(start, count * 8, MADV_DONTNEED)
        }
    }
}
