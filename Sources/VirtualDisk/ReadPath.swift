// Reading: runs of blocks from the log, zeros, or the image, straight into the caller's buffer. No lock.

package import BlockIO
import ChangeLog
import DiskImage
import Synchronization

extension VirtualDisk {
    /// What was written in random order lies all over the log: reading it piece by piece would wait for the disk once a
    /// piece. So a read of several places goes over them without waiting first, which begins all reads of the disk at
    /// once; only when something was not in memory it goes over them again and waits.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(offset, UInt64(buffer.count), "read")
        if try readPlaces(buffer, offset, waits: buffer.count <= blockBytes) { return }
        _ = try readPlaces(buffer, offset, waits: true)
    }

    /// A run of blocks that one call reads.
    private struct Place {
        let block: Int
        let blocks: Int
        let entry: MapEntry
        let skippedBytes: Int
        let byteCount: Int
    }

    private enum Outcome { case filled, notInMemory, changed }

    /// False when something was not in memory, and `waits` is false.
    private func readPlaces(_ buffer: UnsafeMutableRawBufferPointer, _ offset: UInt64, waits: Bool) throws(SystemError) -> Bool {
        var hasAll = true
        var done = 0
        while done < buffer.count {
            // Before any entry is read: see `readImage`.
            let generation = clearGeneration.load(ordering: .sequentiallyConsistent)
            let place = place(at: offset + UInt64(done), byteCountMax: buffer.count - done)
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + place.byteCount])
            switch try read(place, part, generation, waits: waits || place.byteCount == buffer.count) {
            case .filled: done += place.byteCount
            case .changed: continue
            case .notInMemory:
                hasAll = false
                done += place.byteCount
            }
        }
        return hasAll
    }

    private func place(at position: UInt64, byteCountMax: Int) -> Place {
        let block = Int(position / UInt64(blockBytes))
        let skipped = Int(position % UInt64(blockBytes))
        let limit = (skipped + byteCountMax + blockBytes - 1) / blockBytes
        let entry = map.entry(block)
        let blocks =
            if entry.isImage {
                runLength(block, limit) { _, other in other.isImage }
            } else if entry.isWrite {
                runLength(block, limit) { place, other in other == entry.advanced(by: place) }
            } else {
                runLength(block, limit) { _, other in !other.isImage && !other.isWrite }
            }
        return Place(
            block: block, blocks: blocks, entry: entry, skippedBytes: skipped, byteCount: min(byteCountMax, blocks * blockBytes - skipped))
    }

    @inline(__always)
    private func runLength(_ block: Int, _ limit: Int, _ belongs: (Int, MapEntry) -> Bool) -> Int {
        var count = 1
        while count < limit, belongs(count, map.entry(block + count)) { count += 1 }
        return count
    }

    private func read(
        _ place: Place, _ buffer: UnsafeMutableRawBufferPointer, _ generation: UInt64, waits: Bool
    ) throws(SystemError) -> Outcome {
        if place.entry.isImage { return try readImage(place, buffer, generation, waits: waits) }
        if place.entry.isWrite { return try readLog(place, buffer, waits: waits) }
        buffer.initializeMemory(as: UInt8.self, repeating: 0)
        return .filled
    }

    /// The segment is pinned while it is read: it cannot be recycled, and log data never changes in place.
    private func readLog(_ place: Place, _ buffer: UnsafeMutableRawBufferPointer, waits: Bool) throws(SystemError) -> Outcome {
        guard let segment = log.directory.pin(place.entry.segment) else { return .changed }
        defer { log.directory.unpin(segment) }
        guard waits else {
            return segment.readIfCached(into: buffer, page: place.entry.page, skipping: place.skippedBytes) ? .filled : .notInMemory
        }
        try segment.read(into: buffer, page: place.entry.page, skipping: place.skippedBytes)
        return .filled
    }

    /// Destage writes only blocks whose entries are set, so a block whose entry was 0 all the while was not written. An
    /// entry set and cleared again in between is told by the generation, which is raised before clearing.
    private func readImage(
        _ place: Place, _ buffer: UnsafeMutableRawBufferPointer, _ generation: UInt64, waits: Bool
    ) throws(SystemError) -> Outcome {
        let position = UInt64(place.block) * UInt64(blockBytes) + UInt64(place.skippedBytes)
        imageReadBytes.add(UInt64(buffer.count), ordering: .relaxed)
        if waits {
            try image.read(into: buffer, at: position)
        } else if !image.readIfCached(into: buffer, at: position) {
            return .notInMemory
        }
        for block in place.block..<place.block + place.blocks where !map.entry(block).isImage { return .changed }
        return clearGeneration.load(ordering: .sequentiallyConsistent) == generation ? .filled : .changed
    }

    // MARK: - data and holes

    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? {
        try nextChange(from: offset, toData: true)
    }

    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        try nextChange(from: offset, toData: false) ?? sizeBytes
    }

    /// The first place at or after `offset` that is data (or a hole); where the log says nothing the image is asked, once
    /// for each of its extents.
    private func nextChange(from offset: UInt64, toData: Bool) throws(SystemError) -> UInt64? {
        var position = offset
        // The image holds what is looked for from here on; nothing of it lies between `position` and here.
        var imageFrom: UInt64?
        var askedGeneration: UInt64 = 0
        while position < sizeBytes {
            let block = Int(position / UInt64(blockBytes))
            let range = block / BlockMap.rangeBlocks
            // One answer for the whole range, unless a block of it has an entry of its own.
            let isUniform = !map.isUsed(range: range)
            let entry = isUniform ? map.cover(range: range) : map.entry(block)
            let end = UInt64(isUniform ? (range + 1) * BlockMap.rangeBlocks : block + 1) * UInt64(blockBytes)
            if entry.isImage {
                // Destage may have put data there since the image was asked: it raises the generation before it clears entries.
                let generation = clearGeneration.load(ordering: .sequentiallyConsistent)
                if imageFrom ?? 0 < position || imageFrom == nil || generation != askedGeneration {
                    askedGeneration = generation
                    imageFrom = toData ? try image.nextData(from: position) ?? sizeBytes : try image.nextHole(from: position)
                }
                if let found = imageFrom, found < min(end, sizeBytes) { return max(found, position) }
            } else if entry.isWrite == toData {
                return position
            }
            position = end
        }
        return nil
    }
}
