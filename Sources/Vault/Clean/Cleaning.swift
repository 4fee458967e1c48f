// Copies what is left of objects that are mostly dead into new chunks, a bounded piece at a time, so that the next full manifest's map can
// name the copies and collection removes the objects (docs/formats/vault.md section 10). It changes nothing that can be read: the writer of
// the history names a copy only for a block whose content still is at the place it was copied from, and only a chunk whose epoch collections
// have not passed. Nothing is kept over a restart: chunks that no map names are collected. One of a disk; `step` is for one thread, the rest
// for the disk's writer.

import Synchronization

/// Blocks of the disk that have a copy.
package struct MovedBlocks: Equatable, Sendable {
    let startBlock: UInt64
    var blockCount: UInt64
    package let from: MapSource
    let fromBlock: UInt32
    /// Nil where all is zeros, of which no chunk is made.
    package let to: ChunkRef?
    let toBlock: UInt32
}

package final class Cleaning: Sendable {
    package struct Limits: Sendable {
        /// Objects and blocks whose counts are kept in memory, 16 bytes a block.
        package var objectsCounted = 32_768
        package var blocksCounted = 262_144
        /// Copied for one full manifest: a quarter of the payload that brings one.
        package var blocksPerManifest = 65_536
        /// Copied in one step, in memory.
        package var blocksPerStep = 4_096
        /// Leaves of the map read for one full manifest: 64 GiB of disk, while at most about 1 GiB is written.
        package var pagesPerManifest = 1_024
        /// A copy is made of no less than three objects at their most, so that there are fewer objects afterwards.
        package var blocksPerStepMin = 3 * CleaningSurvey.smallBlocks

        package init() {}
    }

    static let threads = 4
    /// It begins when so much of the way to the next full manifest is done: what is copied early is overwritten more often before a map
    /// names it, or is copied for nothing because a collection came between.
    private static let beginsAt = 0.875
    /// Frames of one request, and the frames nobody needs that are read along rather than asked around.
    private static let framesMax = 32
    private static let framesBetweenMax = 3
    private static let sizesMax = 65_536

    /// Makes sure that the vault has the chunk, verified, and returns what names it there.
    package typealias Put = (ChunkRef, UnsafeRawBufferPointer) throws -> ChunkRef

    /// What a step has copied.
    package struct Step: Equatable, Sendable {
        package let objects: Int
        package let bytes: Int
    }

    private struct Handover {
        var fullness = 0.0
        var ready: [MovedBlocks] = []
    }

    private struct Pass {
        /// The full manifest in whose time the last survey began.
        var begunAt: Hash256?
        var turn: UInt64 = 0
        var survey: CleaningSurvey?
        var candidates: [CleaningCandidate] = []
        var pagesAt: Hash256?
        var pagesRead = 0
        /// Plaintext of segments of which too much is left, or 0 for what cannot be read.
        var sizes: [MapSource: Int] = [:]
    }

    package let vault: Vault
    private let disk: VaultID
    private let limits: Limits
    private let handover = Mutex(Handover())
    /// Locked for the whole of a step.
    private let pass = Mutex(Pass())

    package init(vault: Vault, disk: VaultID, limits: Limits = Limits()) {
        self.vault = vault
        self.disk = disk
        self.limits = limits
    }

    // MARK: For the disk's writer

    /// What can be named now.
    package var ready: [MovedBlocks] { handover.withLock { $0.ready } }

    /// A manifest was published; a full one with the first `moved` of `ready`. `fullness`: how near the next full one is.
    package func note(fullness: Double, moved: Int = 0) {
        handover.withLock { handover in
            handover.fullness = fullness
            handover.ready.removeFirst(min(moved, handover.ready.count))
        }
    }

    /// Copies that the target does not have any more are not named.
    package func keep(where holds: (ChunkRef) throws -> Bool) throws {
        var lost: Set<ChunkRef> = []
        for chunk in Set(ready.compactMap(\.to)) where try !holds(chunk) { lost.insert(chunk) }
        guard !lost.isEmpty else { return }
        handover.withLock { handover in handover.ready.removeAll { $0.to.map(lost.contains) ?? false } }
    }

    // MARK: Steps

    /// Whether `step` would do anything for a disk in this state.
    package func isDue(_ state: DiskState) -> Bool {
        pass.withLock { pass in
            guard let full = state.current?.full.hash else { return false }
            if pass.survey != nil { return pass.pagesAt != full || pass.pagesRead < limits.pagesPerManifest }
            if !pass.candidates.isEmpty { return true }
            return pass.begunAt != full && handover.withLock { $0.fullness >= Self.beginsAt && $0.ready.isEmpty }
        }
    }

    /// One bounded piece of work, for the newest state that this host published, under the epoch that its head acknowledges; nil when nothing
    /// was copied. After a failure it goes on with what is left.
    package func step(_ state: DiskState, epoch: UInt32, put: Put) throws -> Step? {
        guard isDue(state), let lineage = state.current else { return nil }
        return try pass.withLock { pass in
            if pass.survey == nil, pass.candidates.isEmpty { return try begin(&pass, state, lineage) }
            if pass.survey != nil { return try survey(&pass, lineage) }
            return try copy(&pass, epoch, put)
        }
    }

    private func begin(_ pass: inout Pass, _ state: DiskState, _ lineage: LineageState) throws(VaultError) -> Step? {
        pass.begunAt = lineage.full.hash
        pass.turn += 1
        var segments: [SegmentEntry] = []
        for ref in lineage.tail { segments += try vault.knownManifests.manifest(ref, disk: disk, lineage: lineage.id, in: vault).segments }
        let changes = try SegmentChanges.readAll(vault, disk: disk, segments, manifestLineage: lineage.id)
        pass.survey = CleaningSurvey(turn: pass.turn, oldestSequence: state.oldestSequence, changes: changes, limits: limits)
        return nil
    }

    private func survey(_ pass: inout Pass, _ lineage: LineageState) throws(VaultError) -> Step? {
        if pass.pagesAt != lineage.full.hash { (pass.pagesAt, pass.pagesRead) = (lineage.full.hash, 0) }
        let full = try vault.knownManifests.manifest(lineage.full, disk: disk, lineage: lineage.id, in: vault)
        guard let root = full.root else { return nil }
        do throws(VaultError) {
            pass.pagesRead += try pass.survey?.goOn(root, vault) ?? 0
        } catch {
            // A map with damage is not gone through again and again; the next full manifest may have another.
            if error.isIntegrityDamage { pass.survey = nil }
            throw error
        }
        guard let survey = pass.survey, survey.isDone(root) else { return nil }
        pass.survey = nil
        let sizes = pass.sizes
        let found = survey.candidates(blocks: limits.blocksPerManifest) { candidate in
            sizes[candidate.source].map { Self.isMostlyDead(candidate, plaintextBytes: $0) } ?? true
        }
        if found.reduce(0, { $0 + $1.places.count }) >= limits.blocksPerStepMin { pass.candidates = found.reversed() }
        return nil
    }

    private static func isMostlyDead(_ candidate: CleaningCandidate, plaintextBytes: Int) -> Bool {
        plaintextBytes > 0 && (candidate.places.count <= CleaningSurvey.smallBlocks || 4 * candidate.places.count * FormatLimits.blockBytes <= plaintextBytes)
    }

    // MARK: Copying

    /// A block that was read, and where it was.
    private struct Found {
        let block: UInt64
        let source: MapSource
        let sourceBlock: UInt32
        let bytes: [UInt8]
    }

    private func copy(_ pass: inout Pass, _ epoch: UInt32, _ put: Put) throws -> Step? {
        var batch: [CleaningCandidate] = []
        var (count, rest) = (0, pass.candidates.reduce(0) { $0 + $1.places.count })
        // The fewest first; what is too little for a step of its own goes with the one before.
        for candidate in pass.candidates.reversed() {
            guard count + candidate.places.count <= limits.blocksPerStep || rest < limits.blocksPerStepMin || count == 0 else { break }
            batch.append(candidate)
            count += candidate.places.count
            rest -= candidate.places.count
        }
        // Also where it fails, so that it is not read over and over: the next survey finds it again.
        pass.candidates.removeLast(batch.count)
        let read = try mapInParallel(batch, threads: Self.threads) { candidate throws(VaultError) in try self.read(candidate) }
        for case (let candidate, .lively(let bytes)) in zip(batch, read) {
            if pass.sizes.count >= Self.sizesMax { pass.sizes = [:] }
            pass.sizes[candidate.source] = bytes
        }
        let found = read.flatMap(\.blocks).sorted { $0.block < $1.block }
        var moved: [MovedBlocks] = []
        if found.count >= limits.blocksPerStepMin {
            let chunks = (found.count + Int(MapGeometry.chunkBlocks) - 1) / Int(MapGeometry.chunkBlocks)
            // Equally full, so that none of them soon is to be cleaned itself.
            let each = (found.count + chunks - 1) / chunks
            for start in stride(from: 0, to: found.count, by: each) { moved += try copy(found[start..<min(start + each, found.count)], epoch, put) }
        }
        handover.withLock { $0.ready += moved }
        return moved.isEmpty ? nil : Step(objects: read.count { !$0.blocks.isEmpty }, bytes: found.count * FormatLimits.blockBytes)
    }

    /// As one chunk.
    private func copy(_ blocks: ArraySlice<Found>, _ epoch: UInt32, _ put: Put) throws -> [MovedBlocks] {
        var plaintext: [UInt8] = []
        plaintext.reserveCapacity(blocks.count * FormatLimits.blockBytes)
        for block in blocks {
            plaintext += block.bytes
            // Only at the end of a disk.
            plaintext += repeatElement(0, count: FormatLimits.blockBytes - block.bytes.count)
        }
        let isZeros = !plaintext.contains { $0 != 0 }
        let chunk = isZeros ? nil : try plaintext.withUnsafeBytes { try put(vault.chunkRef(of: $0, epoch: epoch), $0) }
        var moved: [MovedBlocks] = []
        for (number, block) in blocks.enumerated() {
            if var last = moved.last, last.from == block.source, last.startBlock + last.blockCount == block.block,
                UInt64(last.fromBlock) + last.blockCount == block.sourceBlock
            {
                last.blockCount += 1
                moved[moved.count - 1] = last
            } else {
                moved.append(MovedBlocks(
                    startBlock: block.block, blockCount: 1, from: block.source, fromBlock: block.sourceBlock, to: chunk, toBlock: isZeros ? 0 : UInt32(number)))
            }
        }
        return moved
    }

    private enum Reading: Sendable {
        case blocks([Found])
        /// Too much of it is left, for its plaintext of so many bytes.
        case lively(Int)

        var blocks: [Found] { if case .blocks(let blocks) = self { blocks } else { [] } }
    }

    /// What is damaged is left where it is, for `vault check` to find.
    private func read(_ candidate: CleaningCandidate) throws(VaultError) -> Reading {
        let place: ObjectPlace =
            switch candidate.source {
            case .chunk(let chunk): .chunk(chunk)
            case .segment(let segment): .segment(disk: disk, lineage: segment.lineage, first: segment.first, last: segment.last)
            }
        do throws(VaultError) {
            let isSmall = candidate.places.count <= CleaningSurvey.smallBlocks
            // What is small mostly is a small object: then header and content are one request.
            let (object, first) = try vault.sealedObject(place, andFirst: isSmall ? CleaningSurvey.smallBlocks * FormatLimits.blockBytes : 0)
            guard Self.isMostlyDead(candidate, plaintextBytes: object.header.plaintextBytes) else { return .lively(object.header.plaintextBytes) }
            let perFrame = object.header.frameBytes / FormatLimits.blockBytes
            let places = Dictionary(grouping: candidate.places) { Int($0.sourceBlock) / perFrame }
            var found: [Found] = []
            func take(_ plaintext: [UInt8], _ frame: Int) throws(VaultError) {
                for place in places[frame] ?? [] {
                    let start = Int(place.sourceBlock) % perFrame * FormatLimits.blockBytes
                    guard start < plaintext.count else { throw .damaged(object: object.place.key, reason: "it ends before what a map names of it") }
                    found.append(Found(
                        block: place.block, source: candidate.source, sourceBlock: place.sourceBlock,
                        bytes: Array(plaintext[start..<min(start + FormatLimits.blockBytes, plaintext.count)])))
                }
            }
            for (number, frame) in first.enumerated() where places[number] != nil {
                guard let frame else { throw .damaged(object: place.key, reason: "frame \(number) is not what was sealed at this place") }
                try take(frame, number)
            }
            let wanted = places.keys.filter { $0 >= first.count }.sorted()
            guard wanted.last ?? 0 < object.header.frameCount else { throw .damaged(object: place.key, reason: "it ends before what a map names of it") }
            for range in Self.requests(wanted) { for (number, frame) in zip(range, try vault.frames(range, of: object)) { try take(frame, number) } }
            return .blocks(found)
        } catch {
            guard error.isIntegrityDamage else { throw error }
            return .lively(0)
        }
    }

    private static func requests(_ frames: [Int]) -> [Range<Int>] {
        var ranges: [Range<Int>] = []
        for frame in frames {
            if let last = ranges.last, frame - last.upperBound <= framesBetweenMax, frame - last.lowerBound < framesMax {
                ranges[ranges.count - 1] = last.lowerBound..<frame + 1
            } else {
                ranges.append(frame..<frame + 1)
            }
        }
        return ranges
    }
}
