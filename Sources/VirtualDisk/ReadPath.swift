// Reading: runs of blocks from the log, zeros, or the image, straight into the caller's buffer. No lock.

package import BlockIO
import ChangeLog
import DiskImage
import Synchronization

extension VirtualDisk {
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(offset, UInt64(buffer.count), "read")
        var done = 0
        while done < buffer.count {
            let position = offset + UInt64(done)
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
            // 0 when the place changed under the read: look again.
            done += try readRun(into: rest, at: position)
        }
    }

    private func readRun(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(SystemError) -> Int {
        // Before any entry is read: see `readImage`.
        let generation = clearGeneration.load(ordering: .sequentiallyConsistent)
        let block = Int(position / UInt64(blockBytes))
        let skipped = Int(position % UInt64(blockBytes))
        let blocks = (skipped + buffer.count + blockBytes - 1) / blockBytes
        let entry = map.entry(block)
        if entry.isImage {
            let run = runLength(block, blocks) { _, other in other.isImage }
            return try readImage(part(buffer, run, skipped), position, block, run, generation)
        }
        if entry.isWrite {
            let run = runLength(block, blocks) { place, other in other == entry.advanced(by: place) }
            return try readLog(part(buffer, run, skipped), entry, skipped)
        }
        let run = runLength(block, blocks) { _, other in !other.isImage && !other.isWrite }
        let zeros = part(buffer, run, skipped)
        zeros.initializeMemory(as: UInt8.self, repeating: 0)
        return zeros.count
    }

    private func part(_ buffer: UnsafeMutableRawBufferPointer, _ blocks: Int, _ skipped: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: buffer[..<min(buffer.count, blocks * blockBytes - skipped)])
    }

    @inline(__always)
    private func runLength(_ block: Int, _ limit: Int, _ belongs: (Int, MapEntry) -> Bool) -> Int {
        var count = 1
        while count < limit, belongs(count, map.entry(block + count)) { count += 1 }
        return count
    }

    /// The segment is pinned while it is read: it cannot be recycled, and log data never changes in place.
    private func readLog(_ buffer: UnsafeMutableRawBufferPointer, _ entry: MapEntry, _ skipped: Int) throws(SystemError) -> Int {
        guard let segment = log.directory.pin(entry.segment) else { return 0 }
        defer { log.directory.unpin(segment) }
        try segment.read(into: buffer, page: entry.page, skipping: skipped)
        return buffer.count
    }

    /// Destage writes only blocks whose entries are set, so a block whose entry was 0 all the while was not written. An
    /// entry set and cleared again in between is told by the generation, which is raised before clearing.
    private func readImage(
        _ buffer: UnsafeMutableRawBufferPointer, _ position: UInt64, _ block: Int, _ run: Int, _ generation: UInt64
    ) throws(SystemError) -> Int {
        try image.read(into: buffer, at: position)
        for place in 0..<run where !map.entry(block + place).isImage { return 0 }
        guard clearGeneration.load(ordering: .sequentiallyConsistent) == generation else { return 0 }
        return buffer.count
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
            let entry = map.entry(block)
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
