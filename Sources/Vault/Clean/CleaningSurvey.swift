// Counts what the newest map still names of each object, a part of the map at a time, and says which objects are mostly dead
// (docs/formats/vault.md section 10, Cleaning). A count may be too high, for the disk goes on; what is done with it is checked again
// block by block when a map is made. Pure, but for the pages it reads; used by Cleaning.

/// An object that is mostly dead, with the blocks of it that the map named.
struct CleaningCandidate: Sendable {
    struct Place: Sendable {
        /// Of the disk.
        let block: UInt64
        /// Of the object's plaintext.
        let sourceBlock: UInt32
    }

    let source: MapSource
    let places: [Place]
}

struct CleaningSurvey: Sendable {
    /// An object is cleaned that holds no more: a quarter of a chunk, so that what is put in its place holds as much of three objects or more.
    static let smallBlocks = Int(MapGeometry.chunkBlocks) / 4
    /// Of a segment no more than a quarter is to be left: this is it for the usual 16 MiB; Cleaning asks for the size where it is less.
    static let segmentBlocks = FormatLimits.segmentPayloadBytesDefault / FormatLimits.blockBytes / 4

    private struct Tally {
        var places: [CleaningCandidate.Place] = []
        /// Has more than is to be cleaned.
        var isLively = false
    }

    private let turn: UInt64
    /// Segments with records from here on are in the window: points need them as they are.
    private let oldestSequence: UInt64
    /// What was written since the map was made: rising and apart.
    private let overwritten: [Range<UInt64>]
    private let limits: Cleaning.Limits
    private var tallies: [MapSource: Tally] = [:]
    private var placeCount = 0
    /// Where there are more objects than can be counted, those of one class are, and those of another one at the next turn.
    private var mask: UInt64 = 0
    /// The block from which on the map was not looked at yet.
    private(set) var next: UInt64 = 0

    init(turn: UInt64, oldestSequence: UInt64, changes: [SegmentChanges], limits: Cleaning.Limits) {
        self.turn = turn
        self.oldestSequence = oldestSequence
        self.limits = limits
        var merged: [Range<UInt64>] = []
        for range in changes.flatMap(\.changes).map({ $0.startBlock..<$0.startBlock + $0.blockCount }).sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = merged.last, range.lowerBound <= last.upperBound {
                merged[merged.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
            } else {
                merged.append(range)
            }
        }
        overwritten = merged
    }

    func isDone(_ root: MapRoot) -> Bool { root.id == .zero || next >= MapGeometry.blocks(level: root.level) }

    // MARK: Reading

    /// Looks at the leaves of one page above them, 256 at most; returns how many pages were read.
    mutating func goOn(_ root: MapRoot, _ vault: Vault) throws(VaultError) -> Int {
        guard !isDone(root) else { return 0 }
        var (id, level, firstBlock) = (root.id, root.level, UInt64(0))
        var read = 0
        while level > 0 {
            guard case .inner(let page) = try vault.mapPage(id, level: level, firstBlock: firstBlock) else { return read }
            read += 1
            let below = MapGeometry.blocks(level: level - 1)
            let first = Int((max(next, firstBlock) - firstBlock) / below)
            let present = page.children.indices.filter { $0 >= first && page.children[$0] != nil }
            guard let child = present.first, let childID = page.children[child] else { break }
            if level == 1 {
                let leaves = present.compactMap { index in page.children[index].map { (id: $0, firstBlock: firstBlock + UInt64(index) * below) } }
                try look(leaves, vault)
                read += leaves.count
                break
            }
            (id, level, firstBlock) = (childID, level - 1, firstBlock + UInt64(child) * below)
            next = max(next, firstBlock)
        }
        if root.level == 0 {
            try look([(root.id, 0)], vault)
            read += 1
        }
        // What the page covers is done, also where nothing was left in it.
        next = firstBlock + MapGeometry.blocks(level: level)
        return read
    }

    private mutating func look(_ leaves: [(id: Hash256, firstBlock: UInt64)], _ vault: Vault) throws(VaultError) {
        let batches = stride(from: 0, to: leaves.count, by: 16).map { Array(leaves[$0..<min($0 + 16, leaves.count)]) }
        for batch in batches {
            let pages = try mapInParallel(batch, threads: Cleaning.threads) { leaf throws(VaultError) in
                try vault.mapPage(leaf.id, level: 0, firstBlock: leaf.firstBlock)
            }
            for case .leaf(let leaf) in pages { count(leaf) }
            // What was counted is not counted again when a later one fails.
            if let last = batch.last { next = last.firstBlock + MapGeometry.blocks(level: 0) }
        }
    }

    // MARK: Counting

    private mutating func count(_ leaf: MapLeaf) {
        var named = [Int](repeating: 0, count: leaf.sources.count)
        var isAtHome = [Bool](repeating: true, count: leaf.sources.count)
        for run in leaf.runs {
            named[Int(run.source)] += Int(run.count)
            if UInt64(run.start) % MapGeometry.chunkBlocks != UInt64(run.sourceBlock) { isAtHome[Int(run.source)] = false }
        }
        for (number, source) in leaf.sources.enumerated() where counts(source) && named[number] > most(of: source) {
            // Content of one place of the disk is in this leaf as a whole: a disk that is seldom written fills no memory with its chunks.
            if case .chunk = source, isAtHome[number], tallies[source] == nil { continue }
            drop(source)
        }
        for run in leaf.runs {
            let source = leaf.sources[Int(run.source)]
            guard named[Int(run.source)] <= most(of: source), counts(source), tallies[source]?.isLively != true else { continue }
            add(run, of: source, at: leaf.firstBlock + UInt64(run.start))
        }
        while tallies.count > limits.objectsCounted || placeCount > limits.blocksCounted { narrow() }
    }

    private mutating func add(_ run: MapRun, of source: MapSource, at start: UInt64) {
        let left = rest(of: start..<start + UInt64(run.count))
        let places = left.flatMap { $0 }.map { CleaningCandidate.Place(block: $0, sourceBlock: run.sourceBlock + UInt32($0 - start)) }
        placeCount += places.count
        tallies[source, default: Tally()].places += places
        if tallies[source]!.places.count > most(of: source) { drop(source) }
    }

    private mutating func drop(_ source: MapSource) {
        placeCount -= tallies[source]?.places.count ?? 0
        tallies[source] = Tally(isLively: true)
    }

    /// `range` without what was overwritten.
    private func rest(of range: Range<UInt64>) -> [Range<UInt64>] {
        var (low, high) = (0, overwritten.count)
        while low < high {
            let middle = (low + high) / 2
            if overwritten[middle].upperBound > range.lowerBound { high = middle } else { low = middle + 1 }
        }
        var left: [Range<UInt64>] = []
        var start = range.lowerBound
        while low < overwritten.count, overwritten[low].lowerBound < range.upperBound {
            if overwritten[low].lowerBound > start { left.append(start..<overwritten[low].lowerBound) }
            start = max(start, overwritten[low].upperBound)
            low += 1
        }
        if start < range.upperBound { left.append(start..<range.upperBound) }
        return left
    }

    private func most(of source: MapSource) -> Int {
        switch source {
        case .chunk: Self.smallBlocks
        case .segment: Self.segmentBlocks
        }
    }

    /// Whether the object is one of those that this turn looks at.
    private func counts(_ source: MapSource) -> Bool {
        switch source {
        case .chunk(let chunk): (chunk.id.a &+ turn) & mask == 0
        case .segment(let segment): segment.last < oldestSequence && ((segment.last &* 0x9E37_79B9_7F4A_7C15) >> 32 &+ turn) & mask == 0
        }
    }

    private mutating func narrow() {
        mask = mask << 1 | 1
        for source in tallies.keys.filter({ !counts($0) }) {
            placeCount -= tallies[source]?.places.count ?? 0
            tallies[source] = nil
        }
    }

    // MARK: Choosing

    /// The objects of which least is left, as long as they have no more than `blocks` together; of those that `isWanted`.
    func candidates(blocks: Int, _ isWanted: (CleaningCandidate) -> Bool) -> [CleaningCandidate] {
        var left = blocks
        let found = tallies.filter { !$0.value.isLively && !$0.value.places.isEmpty }.map { CleaningCandidate(source: $0.key, places: $0.value.places) }
        return Array(found.filter(isWanted).sorted { ($0.places.count, $0.places[0].block) < ($1.places.count, $1.places[0].block) }.prefix { candidate in
            left -= candidate.places.count
            return left >= 0
        })
    }
}
