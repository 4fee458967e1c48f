// A dynamic VHD, read and written: docs/formats/vhd.md, sections "Blocks" and "Writing". Opened by `openImage`.
//
// Order of a new block: footer at the new end, bitmap (over the old footer), data; at the next flush a sync, then
// the table entries, then a sync. A crash at any point leaves the old table, under which every old block is intact,
// and the footer copy at the start, which is never written while the image is open.
//
// Sectors are read whatever their bitmap says, as QEMU does; before the first write to a block its bitmap is made
// all ones, so that programs which go by it see what we wrote.

package import BlockIO
import Glibc
import Synchronization

package final class DynamicVHD: ImageFile {
    package let path: String
    package let sizeBytes: UInt64
    private let file: ChangedFile
    private let reads: ImageReads
    private let footer: [UInt8]
    private let header: VHDDynamicHeader
    /// Held for look-ups and while a block is allocated, never across a sync.
    private let blocks: Mutex<VHDBlocks>
    /// One flush at a time: a second must not return before the first has committed the blocks it took.
    private let flushing = Mutex(())

    init(_ file: consuming ChangedFile, footer: VHDFooter, header: VHDDynamicHeader, table: VHDBlockTable) throws(SystemError) {
        reads = try ImageReads(file.descriptor)
        path = file.descriptor.path
        sizeBytes = footer.diskSizeBytes
        self.file = file
        self.footer = footer.encoded()
        self.header = header
        blocks = Mutex(VHDBlocks(table: table, header: header))
    }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: UInt64(buffer.count), sizeBytes: sizeBytes, path: path)
        try forEachSpan(at: offset, length: UInt64(buffer.count)) { (span) throws(SystemError) in
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[span.start..<span.start + span.count])
            if let data = blocks.withLock({ $0.dataOffset(ofBlock: span.block) }) {
                try reads.read(file.descriptor, into: part, at: data + span.offsetInBlock)
            } else {
                part.initializeMemory(as: UInt8.self, repeating: 0)
            }
        }
    }

    package func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool {
        let (end, overflow) = offset.addingReportingOverflow(UInt64(buffer.count))
        guard !overflow, end <= sizeBytes else { return false }
        var hasAll = true
        forEachSpan(at: offset, length: UInt64(buffer.count)) { span in
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[span.start..<span.start + span.count])
            if let data = blocks.withLock({ $0.dataOffset(ofBlock: span.block) }) {
                if !reads.readIfCached(into: part, at: data + span.offsetInBlock) { hasAll = false }
            } else {
                part.initializeMemory(as: UInt8.self, repeating: 0)
            }
        }
        return hasAll
    }

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: UInt64(buffer.count), sizeBytes: sizeBytes, path: path)
        try forEachSpan(at: offset, length: UInt64(buffer.count)) { (span) throws(SystemError) in
            let data = try blocks.withLock { (blocks) throws(SystemError) in try writableBlock(span.block, &blocks) }
            try file.write(UnsafeRawBufferPointer(rebasing: buffer[span.start..<span.start + span.count]), at: data + span.offsetInBlock)
        }
    }

    package func zero(at offset: UInt64, length: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: length, sizeBytes: sizeBytes, path: path)
        try forEachSpan(at: offset, length: length) { (span) throws(SystemError) in
            guard let data = blocks.withLock({ $0.dataOffset(ofBlock: span.block) }) else { return }
            try file.zero(at: data + span.offsetInBlock, length: UInt64(span.count))
        }
    }

    package func flush() throws(SystemError) {
        try flushing.withLock { (_) throws(SystemError) in
            let committing = blocks.withLock { blocks in
                defer { blocks.uncommitted = [] }
                return blocks.uncommitted.map { (block: $0, sector: blocks.table.sectors[$0]) }
            }
            do throws(SystemError) {
                try file.sync()
                guard !committing.isEmpty else { return }
                for entry in committing { try writeTableEntry(entry.block, entry.sector) }
                try file.sync()
            } catch {
                blocks.withLock { $0.uncommitted += committing.map(\.block) }
                throw error
            }
        }
    }

    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? {
        var from = offset
        while from < sizeBytes, let (start, data, length) = nextAllocated(from) {
            let begin = max(from, start)
            if let found = try file.descriptor.nextData(from: data + (begin - start)), found < data + length {
                return start + (found - data)
            }
            from = start + UInt64(header.blockBytes)
        }
        return nil
    }

    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        var from = offset
        while from < sizeBytes {
            guard let (start, data, length) = nextAllocated(from), start <= from else { return from }
            let hole = try file.descriptor.nextHole(from: data + (from - start))
            if hole < data + length { return start + (hole - data) }
            from = start + length
        }
        return sizeBytes
    }

    /// The block that holds `offset`, or the next one behind that is allocated: its first disk byte, where its
    /// data lies, and how much of it belongs to the disk.
    private func nextAllocated(_ offset: UInt64) -> (start: UInt64, data: UInt64, length: UInt64)? {
        let blockBytes = UInt64(header.blockBytes)
        let count = Int((sizeBytes + blockBytes - 1) / blockBytes)
        return blocks.withLock { blocks in
            for block in Int(offset / blockBytes)..<count {
                guard let data = blocks.dataOffset(ofBlock: block) else { continue }
                let start = UInt64(block) * blockBytes
                return (start, data, min(blockBytes, sizeBytes - start))
            }
            return nil
        }
    }

    private func writableBlock(_ block: Int, _ blocks: inout VHDBlocks) throws(SystemError) -> UInt64 {
        guard let data = blocks.dataOffset(ofBlock: block) else { return try allocate(block, &blocks) }
        if !blocks.hasFullBitmap(block) {
            let bitmapOffset = data - header.bitmapBytes
            let bitmap = try file.descriptor.read(count: Int(header.bitmapBytes), at: bitmapOffset)
            if !bitmap.allSatisfy({ $0 == 0xFF }) { try file.write(ones, at: bitmapOffset) }
            blocks.noteFullBitmap(block)
        }
        return data
    }

    private func allocate(_ block: Int, _ blocks: inout VHDBlocks) throws(SystemError) -> UInt64 {
        guard let place = blocks.nextPlace() else {
            throw SystemError(errno: EFBIG, operation: "place block \(block): the file would pass 2 TiB", path: path)
        }
        // Until the bitmap is written the old footer stands; a footer that did not fit takes the file back to it.
        let oldEnd = blocks.table.endOffset.roundedUp(to: 512) + UInt64(VHDFooter.bytesCount)
        do throws(SystemError) {
            try file.write(footer, at: place.endOffset)
        } catch {
            try file.truncate(to: oldEnd)
            throw error
        }
        try file.write(ones, at: place.bitmapOffset)
        blocks.place(block: block, bitmapOffset: place.bitmapOffset, endOffset: place.endOffset)
        return place.bitmapOffset + header.bitmapBytes
    }

    private var ones: [UInt8] { [UInt8](repeating: 0xFF, count: Int(header.bitmapBytes)) }

    private func writeTableEntry(_ block: Int, _ sector: UInt32) throws(SystemError) {
        var entry = [UInt8](repeating: 0, count: 4)
        entry.withUnsafeMutableBytes { $0.putBE(sector, at: 0) }
        try file.write(entry, at: header.tableOffset + UInt64(block) * 4)
    }

    /// The part of a range that lies in one block: `start` and `count` within the caller's buffer.
    private struct Span {
        let block: Int
        let offsetInBlock: UInt64
        let start: Int
        let count: Int
    }

    private func forEachSpan<Failure: Error>(
        at offset: UInt64, length: UInt64, _ body: (Span) throws(Failure) -> Void
    ) throws(Failure) {
        let blockBytes = UInt64(header.blockBytes)
        var done: UInt64 = 0
        while done < length {
            let position = offset + done
            let offsetInBlock = position % blockBytes
            let count = min(blockBytes - offsetInBlock, length - done)
            try body(Span(block: Int(position / blockBytes), offsetInBlock: offsetInBlock, start: Int(done), count: Int(count)))
            done += count
        }
    }
}
