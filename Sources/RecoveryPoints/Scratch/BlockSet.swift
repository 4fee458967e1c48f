// Numbers of blocks of a disk: 64 of them a word, words only where there are some.

package struct BlockSet: Equatable, Sendable {
    private var words: [UInt64: UInt64] = [:]
    package private(set) var count: UInt64 = 0

    package init() {}

    package func contains(_ block: UInt64) -> Bool { (words[block / 64] ?? 0) >> (block % 64) & 1 == 1 }

    package mutating func insert(_ blocks: Range<UInt64>) {
        var block = blocks.lowerBound
        while block < blocks.upperBound {
            let end = min(blocks.upperBound, (block / 64 + 1) * 64)
            let length = end - block
            let bits = (length == 64 ? UInt64.max : (1 << length) - 1) << (block % 64)
            let before = words[block / 64] ?? 0
            words[block / 64] = before | bits
            count += UInt64((before | bits).nonzeroBitCount - before.nonzeroBitCount)
            block = end
        }
    }

    /// The end of the run from `block` on, at most `end`, whose blocks are all in the set, or all not.
    package func endOfRun(from block: UInt64, before end: UInt64) -> UInt64 {
        let isIn = contains(block)
        var next = block + 1
        while next < end {
            // A word without any is passed at once.
            if !isIn, next % 64 == 0, words[next / 64] == nil {
                next = min(next + 64, end)
                continue
            }
            guard contains(next) == isIn else { break }
            next += 1
        }
        return next
    }

    /// Rising, not touching but at multiples of 64.
    package var ranges: [Range<UInt64>] {
        words.sorted { $0.key < $1.key }.flatMap { word, bits in
            var found: [Range<UInt64>] = []
            var bit: UInt64 = 0
            while bit < 64 {
                guard bits >> bit & 1 == 1 else {
                    bit += 1
                    continue
                }
                let start = bit
                while bit < 64, bits >> bit & 1 == 1 { bit += 1 }
                found.append(word * 64 + start..<word * 64 + bit)
            }
            return found
        }
    }
}
