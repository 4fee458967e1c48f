// A dynamic or differencing VHD, read and written: docs/formats/vhd.md, sections "Blocks" and "Writing". Opened by `openImage`.
// What only a differencing one does is in DifferencingVHD.swift.
//
// Order of a new block: footer at the new end, bitmap (over the old footer), data; at the next flush a sync, then
// the table entries, then a sync. A crash at any point leaves the old table, under which every old block is intact,
// and the footer copy at the start, which is never written while the image is open.
//
// Opening writes nothing: what a crash left is mended before the first new block, or by a flush. So whoever opens the
// image can still tell whether somebody changed it.
//
// A table or bitmap that is read from the page cache need not be on the disk: an earlier opening's sync may have failed.
// So the first flush after a change writes the whole table, and the first write to a block its whole bitmap.
//
// Without a parent sectors are read whatever their bitmap says, as QEMU does; before the first write to a block its bitmap is
// made all ones, so that programs which go by it see what we wrote.

package import BlockIO
import Glibc
import Synchronization

package final class DynamicVHD: ImageFile {
    package let path: String
    package let files: [OpenedFile]
    package let sizeBytes: UInt64
    let file: ChangedFile
    let reads: ImageReads
    private let footer: [UInt8]
    let header: VHDDynamicHeader
    /// Of a differencing disk.
    let parent: VHDParent?
    /// Held for look-ups and while a block is allocated; across a sync only while a crash's rest is mended.
    let blocks: Mutex<VHDBlocks>
    /// Held while a sector that is the parent's is completed and written.
    let completing = Mutex(())
    /// One flush at a time: a second must not return before the first has committed the blocks it took. True once this
    /// opening has written the whole table durably.
    private let isTableProven = Mutex(false)

    init(_ file: consuming ChangedFile, _ layout: DynamicVHDLayout, parent: VHDParent?) throws(SystemError) {
        self.parent = parent
        reads = try ImageReads(file.descriptor)
        path = file.descriptor.path
        files = [try OpenedFile(file.descriptor)] + (parent?.image.files ?? [])
        sizeBytes = layout.footer.diskSizeBytes
        self.file = file
        footer = layout.footer.encoded()
        header = layout.header
        blocks = Mutex(VHDBlocks(layout))
    }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: UInt64(buffer.count), sizeBytes: sizeBytes, path: path)
        try forEachSpan(at: offset, length: UInt64(buffer.count)) { (span) throws(SystemError) in
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[span.start..<span.start + span.count])
            let data = blocks.withLock { $0.dataOffset(ofBlock: span.block) }
            if let parent {
                try read(span, data: data, over: parent, into: part)
            } else if let data {
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
            let data = blocks.withLock { $0.dataOffset(ofBlock: span.block) }
            if let parent {
                if !readIfCached(span, data: data, over: parent, into: part) { hasAll = false }
            } else if let data {
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
            let data = try writableBlock(span.block)
            let part = UnsafeRawBufferPointer(rebasing: buffer[span.start..<span.start + span.count])
            if let parent {
                try write(part, span, data: data, over: parent)
            } else {
                try file.write(part, at: data + span.offsetInBlock)
            }
        }
        if parent != nil, blocks.withLock({ $0.bitmaps?.isOverfull ?? false }) { try flush() }
    }

    package func zero(at offset: UInt64, length: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: length, sizeBytes: sizeBytes, path: path)
        try forEachSpan(at: offset, length: length) { (span) throws(SystemError) in
            let known = blocks.withLock { $0.changedDataOffset(ofBlock: span.block) }
            if let parent {
                try zero(span, data: known, over: parent)
                if blocks.withLock({ $0.bitmaps?.isOverfull ?? false }) { try flush() }
                return
            }
            guard let data = known else { return }
            try file.zero(at: data + span.offsetInBlock, length: UInt64(span.count))
        }
    }

    package func flush() throws(SystemError) {
        try isTableProven.withLock { (isProven) throws(SystemError) in
            let (committing, pages, isChanged) = try blocks.withLock { (blocks) throws(SystemError) in
                try mend(&blocks)
                defer { blocks.uncommitted = [] }
                let entries = blocks.uncommitted.map { (block: $0, sector: blocks.table.sectors[$0]) }
                return (entries, blocks.bitmaps?.beginCommit() ?? [], blocks.isChanged)
            }
            do throws(SystemError) {
                try file.sync()
                guard !committing.isEmpty || !pages.isEmpty || (isChanged && !isProven) else { return }
                for (number, page) in pages { try file.write(page.encoded, at: placeOfPage(number)) }
                if isProven {
                    for entry in committing { try writeTableEntry(entry.block, entry.sector) }
                } else {
                    try file.write(blocks.withLock { $0.committedTable }, at: header.tableOffset)
                }
                try file.sync()
                isProven = true
                blocks.withLock { $0.bitmaps?.endCommit(isDurable: true) }
            } catch {
                blocks.withLock {
                    $0.uncommitted += committing.map(\.block)
                    $0.bitmaps?.endCommit(isDurable: false)
                }
                throw error
            }
        }
    }

    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? {
        try nextData(from: offset, before: sizeBytes)
    }

    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        guard let parent else { return try ownNextHole(from: offset) }
        return try nextHole(from: offset, over: parent)
    }

    /// What the image's own blocks hold before `limit`.
    func ownNextData(from offset: UInt64, before limit: UInt64) throws(SystemError) -> UInt64? {
        var from = offset
        while from < limit, let (start, data, length) = nextAllocated(from, before: limit) {
            let begin = max(from, start)
            if let found = try file.descriptor.nextData(from: data + (begin - start)), found < data + length {
                let place = start + (found - data)
                return place < limit ? place : nil
            }
            from = start + UInt64(header.blockBytes)
        }
        return nil
    }

    func ownNextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        var from = offset
        while from < sizeBytes {
            guard let (start, data, length) = nextAllocated(from, before: from + 1), start <= from else { return from }
            let hole = try file.descriptor.nextHole(from: data + (from - start))
            if hole < data + length { return start + (hole - data) }
            from = start + length
        }
        return sizeBytes
    }

    /// The block that holds `offset`, or the next one before `limit` that is allocated: its first disk byte, where its
    /// data lies, and how much of it belongs to the disk.
    private func nextAllocated(_ offset: UInt64, before limit: UInt64) -> (start: UInt64, data: UInt64, length: UInt64)? {
        let blockBytes = UInt64(header.blockBytes)
        let count = Int((limit + blockBytes - 1) / blockBytes)
        return blocks.withLock { blocks in
            for block in Int(offset / blockBytes)..<count {
                guard let data = blocks.dataOffset(ofBlock: block) else { continue }
                let start = UInt64(block) * blockBytes
                return (start, data, min(blockBytes, sizeBytes - start))
            }
            return nil
        }
    }

    /// Where the data of a block that is about to be written lies.
    func writableBlock(_ block: Int) throws(SystemError) -> UInt64 {
        try blocks.withLock { (blocks) throws(SystemError) in try writableBlock(block, &blocks) }
    }

    private func writableBlock(_ block: Int, _ blocks: inout VHDBlocks) throws(SystemError) -> UInt64 {
        guard let data = blocks.changedDataOffset(ofBlock: block) else { return try allocate(block, &blocks) }
        if parent == nil, !blocks.hasFullBitmap(block) {
            try file.write(ones, at: data - header.bitmapBytes)
            blocks.noteFullBitmap(block)
        }
        return data
    }

    private func allocate(_ block: Int, _ blocks: inout VHDBlocks) throws(SystemError) -> UInt64 {
        try mend(&blocks)
        guard let place = blocks.nextPlace() else {
            throw SystemError(errno: EFBIG, operation: "place block \(block): the file would pass 2 TiB", path: path)
        }
        let oldFooter = blocks.table.endOffset.roundedUp(to: 512)
        blocks.hasFooterAtEnd = false
        do throws(SystemError) {
            try file.write(footer, at: place.endOffset)
            try file.write(parent == nil ? ones : [UInt8](repeating: 0, count: Int(header.bitmapBytes)), at: place.bitmapOffset)
        } catch {
            // The file goes back to its old end, in room it has. Where that fails too it is mended like a crash's rest.
            try file.truncate(to: oldFooter + UInt64(VHDFooter.bytesCount))
            try file.write(footer, at: oldFooter)
            blocks.hasFooterAtEnd = true
            throw error
        }
        blocks.place(block: block, bitmapOffset: place.bitmapOffset, endOffset: place.endOffset)
        return place.bitmapOffset + header.bitmapBytes
    }

    /// Puts both footers in order. Cutting the file to its last block first also drops what an unfinished allocation
    /// left, so that new blocks start as zeros.
    private func mend(_ blocks: inout VHDBlocks) throws(SystemError) {
        if !blocks.hasFooterAtEnd {
            let end = blocks.table.endOffset.roundedUp(to: 512)
            try file.truncate(to: blocks.table.endOffset)
            try file.write(footer, at: end)
            try file.sync()
            blocks.table.moveEnd(to: end)
            blocks.hasFooterAtEnd = true
        }
        if blocks.isCopyDamaged {
            try file.write(footer, at: 0)
            try file.sync()
            blocks.isCopyDamaged = false
        }
    }

    private var ones: [UInt8] { [UInt8](repeating: 0xFF, count: Int(header.bitmapBytes)) }

    private func writeTableEntry(_ block: Int, _ sector: UInt32) throws(SystemError) {
        var entry = [UInt8](repeating: 0, count: 4)
        entry.withUnsafeMutableBytes { $0.putBE(sector, at: 0) }
        try file.write(entry, at: header.tableOffset + UInt64(block) * 4)
    }

    /// The part of a range that lies in one block: `start` and `count` within the caller's buffer.
    struct Span {
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
