// Fetches what a batch names and writes the blocks that are not in the image already, on several threads: the requests wait for the target.

import BlockIO
import DiskImage
import Glibc
import RecoveryPoints
import Synchronization
import Vault

final class BlockWriter: Sendable {
    private static let threads = 6
    private static let blockBytes = FormatLimits.blockBytes

    private let image: any ImageFile
    private let sources: PointSources
    /// Waits until so many bytes may be fetched.
    private let pace: @Sendable (Int) -> Void
    private let written = Atomic<UInt64>(0)

    init(_ image: any ImageFile, _ sources: PointSources, pace: @escaping @Sendable (Int) -> Void) {
        self.image = image
        self.sources = sources
        self.pace = pace
    }

    /// Bytes written since the last call.
    func takeWrittenBytes() -> UInt64 { written.exchange(0, ordering: .relaxed) }

    /// `progress` gets the bytes written so far and answers whether to stop.
    func write(_ batch: inout RefreshBatch, progress: @escaping @Sendable (UInt64) -> Bool) throws(RefreshError) {
        let runs: [RefreshBatch.Run]
        do throws(VaultError) {
            runs = try batch.runs { source throws(VaultError) in try sources.frames.frameBytes(of: source) }
        } catch { throw .vault(error) }
        let failure = Mutex<RefreshError?>(nil)
        forEachInParallel(runs, threads: Self.threads) { [self] run in
            guard failure.withLock({ $0 == nil }) else { return }
            do throws(RefreshError) {
                if progress(written.load(ordering: .relaxed)) { throw .stopped }
                try write(run)
            } catch {
                failure.withLock { $0 = $0 ?? error }
            }
        }
        if let failure = failure.withLock({ $0 }) { throw failure }
    }

    private func write(_ run: RefreshBatch.Run) throws(RefreshError) {
        let plain: [UInt8]
        pace(run.frames.count * run.frameBytes)
        do throws(VaultError) { plain = try sources.frames.fetch(run.frames, of: run.source) } catch { throw .vault(error) }
        let start = run.frames.lowerBound * run.frameBytes
        let longest = run.pieces.reduce(0) { max($0, Int($1.blockCount)) } * Self.blockBytes
        let wanted = AlignedBuffer(count: longest)
        let found = AlignedBuffer(count: longest)
        for piece in run.pieces {
            let offset = piece.block * UInt64(Self.blockBytes)
            let count = Int(min(UInt64(piece.blockCount) * UInt64(Self.blockBytes), image.sizeBytes - offset))
            let from = Int(piece.sourceBlock) * Self.blockBytes - start
            let there = min(count, plain.count - from)
            // A source may end inside its last block, at the end of a disk.
            guard there > 0, count - there < Self.blockBytes else {
                throw .vault(.damaged(object: run.source.place.key, reason: "it ends before what a map names of it"))
            }
            let bytes = UnsafeMutableRawBufferPointer(rebasing: wanted.bytes[..<count])
            plain.withUnsafeBytes { bytes.copyBytes(from: $0[from..<from + there]) }
            UnsafeMutableRawBufferPointer(rebasing: bytes[there...]).initializeMemory(as: UInt8.self, repeating: 0)
            try write(UnsafeRawBufferPointer(bytes), over: UnsafeMutableRawBufferPointer(rebasing: found.bytes[..<count]), at: offset)
        }
    }

    /// Writes the blocks that differ; `found` is room for what the image has.
    private func write(_ bytes: UnsafeRawBufferPointer, over found: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(RefreshError) {
        do throws(SystemError) {
            try image.read(into: found, at: offset)
            var position = 0
            while position < bytes.count {
                var end = position
                while end < bytes.count, !Self.isSame(bytes, found, at: end) { end = min(bytes.count, end + Self.blockBytes) }
                if end > position {
                    try image.write(UnsafeRawBufferPointer(rebasing: bytes[position..<end]), at: offset + UInt64(position))
                    written.add(UInt64(end - position), ordering: .relaxed)
                }
                position = min(bytes.count, end + Self.blockBytes)
            }
        } catch { throw .system(error) }
    }

    private static func isSame(_ bytes: UnsafeRawBufferPointer, _ other: UnsafeMutableRawBufferPointer, at start: Int) -> Bool {
        let count = min(blockBytes, bytes.count - start)
        return memcmp(bytes.baseAddress! + start, other.baseAddress! + start, count) == 0
    }

    /// Makes the range read as zeros where the image may hold data.
    func zero(_ extent: MapExtent) throws(RefreshError) {
        let start = extent.startBlock * UInt64(Self.blockBytes)
        let end = min((extent.startBlock + extent.blockCount) * UInt64(Self.blockBytes), image.sizeBytes)
        do throws(SystemError) {
            var position = start
            while position < end, let data = try image.nextData(from: position), data < end {
                position = min(end, try image.nextHole(from: data))
                try image.zero(at: data, length: position - data)
            }
        } catch { throw .system(error) }
    }
}
