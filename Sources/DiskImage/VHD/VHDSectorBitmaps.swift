// Which sectors of a differencing disk are in its own blocks: docs/formats/vhd.md, sections "Blocks" and "Writing". The state
// behind DynamicVHD's lock; reading and writing the file is DynamicVHD's business.
//
// A page is one sector of a block's bitmap. Pages that were changed stay until a flush has made first their data and then
// themselves durable; of the others as many are kept as are useful. A page that was read is only kept when no commit ended
// meanwhile: it might be older than what was dropped.

import BlockIO

/// Up to 4,096 sectors of a block; the highest bit of a word is the first sector.
struct VHDBitmapPage: Equatable, Sendable {
    static let sectors = 4096
    static let bytesCount = 512
    static let full = VHDBitmapPage(words: [UInt64](repeating: UInt64.max, count: 64))

    private var words: [UInt64]

    private init(words: [UInt64]) { self.words = words }

    init(_ bytes: UnsafeRawBufferPointer) {
        words = (0..<Self.sectors / 64).map { word in
            (0..<8).reduce(0) { $0 << 8 | UInt64(bytes[word * 8 + $1]) }
        }
    }

    var encoded: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.bytesCount)
        bytes.withUnsafeMutableBytes { raw in
            for (index, word) in words.enumerated() { raw.putBE(word, at: index * 8) }
        }
        return bytes
    }

    /// Whether sector `from` is here, and the first one up to `end` that differs from it in this.
    func run(from: Int, to end: Int) -> (isPresent: Bool, end: Int) {
        let isPresent = words[from / 64] << UInt64(from % 64) & (1 << 63) != 0
        var sector = from
        while sector < end {
            let word = isPresent ? words[sector / 64] : ~words[sector / 64]
            let same = (~(word << UInt64(sector % 64))).leadingZeroBitCount
            let left = 64 - sector % 64
            sector += min(same, left)
            if same < left { break }
        }
        return (isPresent, min(sector, end))
    }

    mutating func set(_ sectors: Range<Int>) {
        var sector = sectors.lowerBound
        while sector < sectors.upperBound {
            let count = min(64 - sector % 64, sectors.upperBound - sector)
            let ones = count == 64 ? UInt64.max : (1 << UInt64(count) - 1) << UInt64(64 - count)
            words[sector / 64] |= ones >> UInt64(sector % 64)
            sector += count
        }
    }
}

struct VHDSectorBitmaps: Sendable {
    static let dirtyMax = 16_384
    private static let cleanMax = 2_048

    /// Changed since the last commit began.
    private var dirty: [Int: VHDBitmapPage] = [:]
    /// Being written by a commit.
    private var committing: [Int: VHDBitmapPage] = [:]
    private var clean: [Int: VHDBitmapPage] = [:]
    /// A bit a page: this opening has written it, so the disk has what the page cache has.
    private var proven: [UInt64]
    /// Commits that ended.
    private(set) var generation: UInt64 = 0

    init(pages: Int) { proven = [UInt64](repeating: 0, count: (pages + 63) / 64) }

    /// Too much is held back: the caller flushes.
    var isOverfull: Bool { dirty.count >= Self.dirtyMax }

    /// Nil when the page has to be read.
    func page(_ number: Int) -> VHDBitmapPage? { dirty[number] ?? committing[number] ?? clean[number] }

    /// A page read since `generation`; false when it has to be read again.
    mutating func insert(_ page: VHDBitmapPage, _ number: Int, readSince generation: UInt64) -> Bool {
        guard generation == self.generation else { return false }
        // Changed meanwhile, it is one of the others by now.
        guard self.page(number) == nil else { return false }
        if clean.count >= Self.cleanMax { clean.removeAll(keepingCapacity: true) }
        clean[number] = page
        return true
    }

    /// The sectors' data is written. False when the page has to be read first.
    mutating func set(_ sectors: Range<Int>, in number: Int) -> Bool {
        guard var page = page(number) else { return false }
        let known = page.run(from: sectors.lowerBound, to: sectors.upperBound)
        if known.isPresent, known.end == sectors.upperBound, isProven(number) { return true }
        page.set(sectors)
        dirty[number] = page
        clean[number] = nil
        return true
    }

    /// The pages to write, once their data is durable; in the order of their numbers.
    mutating func beginCommit() -> [(number: Int, page: VHDBitmapPage)] {
        committing = dirty
        dirty = [:]
        return committing.sorted { $0.key < $1.key }.map { (number: $0.key, page: $0.value) }
    }

    mutating func endCommit(isDurable: Bool) {
        for (number, page) in committing {
            if isDurable { proven[number / 64] |= 1 << UInt64(number % 64) }
            if !isDurable, dirty[number] == nil { dirty[number] = page }
        }
        committing = [:]
        generation += 1
    }

    private func isProven(_ number: Int) -> Bool { proven[number / 64] & (1 << UInt64(number % 64)) != 0 }
}
