// A part of what a refresh writes, collected in the order of the disk and fetched in the order of the objects that hold it: blocks that were
// written one after the other lie together in a segment, so a frame is fetched once however far apart its blocks are on the disk.

import RecoveryPoints
import Vault

struct RefreshBatch {
    /// 32 bytes each.
    static let piecesMax = 1_500_000
    /// Large pieces gain nothing from being many, and what a kill undoes stays small.
    static let largeBytesMax: UInt64 = 2 << 30
    private static let largeBlocks: UInt64 = 64
    private static let sourcesMax = 100_000
    /// A chunk's worth, so that what a thread holds is small.
    private static let pieceBlocksMax: UInt64 = 256
    /// Of one request.
    private static let framesMax = 32

    struct Piece {
        let block: UInt64
        let blockCount: UInt32
        let source: UInt32
        let sourceBlock: UInt32
    }

    /// Neighbouring frames of one object, and the pieces that lie in them.
    struct Run {
        let source: DataSource
        let frames: Range<Int>
        let frameBytes: Int
        let pieces: ArraySlice<Piece>
    }

    private(set) var pieces: [Piece] = []
    private(set) var dataBytes: UInt64 = 0
    private var largeBytes: UInt64 = 0
    private var sources: [DataSource] = []
    private var numbers: [DataSource: UInt32] = [:]

    var isFull: Bool { pieces.count >= Self.piecesMax || largeBytes >= Self.largeBytesMax || sources.count >= Self.sourcesMax }

    mutating func add(_ source: DataSource, _ extent: MapExtent) {
        let number = self.number(of: source)
        var done: UInt64 = 0
        while done < extent.blockCount {
            let count = min(Self.pieceBlocksMax, extent.blockCount - done)
            pieces.append(Piece(block: extent.startBlock + done, blockCount: UInt32(count), source: number, sourceBlock: extent.sourceBlock + UInt32(done)))
            done += count
        }
        let bytes = extent.blockCount * UInt64(FormatLimits.blockBytes)
        dataBytes += bytes
        if extent.blockCount >= Self.largeBlocks { largeBytes += bytes }
    }

    private mutating func number(of source: DataSource) -> UInt32 {
        if let known = numbers[source] { return known }
        let number = UInt32(sources.count)
        sources.append(source)
        numbers[source] = number
        return number
    }

    /// The requests that fetch everything; `frameBytes` of an object is asked once.
    mutating func runs(_ frameBytes: (DataSource) throws(VaultError) -> Int) throws(VaultError) -> [Run] {
        pieces.sort { ($0.source, $0.sourceBlock) < ($1.source, $1.sourceBlock) }
        var runs: [Run] = []
        var first = 0
        var known: (source: UInt32, frameBytes: Int)?
        while first < pieces.count {
            let source = pieces[first].source
            let bytes = known?.source == source ? known!.frameBytes : try frameBytes(sources[Int(source)])
            known = (source, bytes)
            var frames = Self.frames(of: pieces[first], bytes)
            var end = first + 1
            while end < pieces.count, pieces[end].source == source {
                let next = Self.frames(of: pieces[end], bytes)
                guard next.lowerBound <= frames.upperBound, max(next.upperBound, frames.upperBound) - frames.lowerBound <= Self.framesMax else { break }
                frames = frames.lowerBound..<max(frames.upperBound, next.upperBound)
                end += 1
            }
            runs.append(Run(source: sources[Int(source)], frames: frames, frameBytes: bytes, pieces: pieces[first..<end]))
            first = end
        }
        return runs
    }

    private static func frames(of piece: Piece, _ frameBytes: Int) -> Range<Int> {
        let start = Int(piece.sourceBlock) * FormatLimits.blockBytes
        return start / frameBytes..<(start + Int(piece.blockCount) * FormatLimits.blockBytes - 1) / frameBytes + 1
    }
}
