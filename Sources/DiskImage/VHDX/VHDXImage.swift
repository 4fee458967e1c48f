// A VHDX, read and written: docs/formats/vhdx.md, section "Writing". Opened by `openVHDX`.
//
// Order of a new block: the file is extended, data is written; at the next flush the table's change goes through the
// log. A crash at any point leaves the old table or, by replay, the new one, whose blocks are durable; and after a flush
// that returned the log is empty for every other program.
//
// Opening writes nothing: what the log holds is carried out before the first change, or by a flush. So whoever opens the
// image can still tell whether somebody changed it. Where an earlier opening's sync failed, the page cache may hold a table
// that is not on the disk; then the header still names the log entry, as a header without one follows the table's sync.

package import BlockIO
import Glibc
import Synchronization

package final class VHDXImage: MappedImage {
    package let path: String
    package let sizeBytes: UInt64
    let file: MappedFile
    private let shape: VHDXTableShape
    /// Held for look-ups and while blocks are placed, never across a sync.
    private let blocks: Mutex<Blocks>
    /// One flush at a time: a second must not return before the first has committed the blocks it took.
    private let flushing: Mutex<VHDXCommit>
    /// The headers say that this session writes.
    private let hasBegun = Atomic(false)

    private struct Blocks {
        var table: VHDXBlockTable
        /// Blocks whose entry is not in the file yet.
        var uncommitted: [Int] = []
    }

    init(_ file: MappedFile, sizeBytes: UInt64, table: VHDXBlockTable, commit: VHDXCommit) {
        path = file.changes.descriptor.path
        self.sizeBytes = sizeBytes
        self.file = file
        shape = table.shape
        blocks = Mutex(Blocks(table: table))
        flushing = Mutex(commit)
    }

    func run(at offset: UInt64, limit: UInt64) -> MappedRun {
        let offsetInBlock = offset % shape.blockBytes
        return blocks.withLock { blocks in
            var block = Int(offset / shape.blockBytes)
            let start = blocks.table.dataOffset(ofBlock: block)
            var length = shape.blockBytes - offsetInBlock
            while length < limit, block + 1 < shape.blocks {
                block += 1
                guard blocks.table.dataOffset(ofBlock: block) == start.map({ $0 + offsetInBlock + length }) else { break }
                length += shape.blockBytes
            }
            return MappedRun(place: start.map { .stored(at: $0 + offsetInBlock) } ?? .hole, length: min(length, limit))
        }
    }

    func knownRun(at offset: UInt64, limit: UInt64) -> MappedRun? { run(at: offset, limit: limit) }

    func readPacked(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        throw SystemError(errno: EINVAL, operation: "read a packed block at \(offset): a VHDX has none", path: path)
    }

    func makeWritable(at offset: UInt64, length: UInt64) throws(SystemError) -> [WritableRun] {
        try beginWriting()
        return try blocks.withLock { (blocks) throws(SystemError) in
            let missing = (Int(offset / shape.blockBytes)...Int((offset + length - 1) / shape.blockBytes)).filter { blocks.table.dataOffset(ofBlock: $0) == nil }
            try place(missing, &blocks)
            var runs: [WritableRun] = []
            var done: UInt64 = 0
            while done < length {
                let position = offset + done
                let offsetInBlock = position % shape.blockBytes
                let count = min(shape.blockBytes - offsetInBlock, length - done)
                guard let data = blocks.table.dataOffset(ofBlock: Int(position / shape.blockBytes)) else {
                    throw SystemError(errno: EIO, operation: "find the place of the disk's byte \(position)", path: path)
                }
                append(data + offsetInBlock, count, to: &runs)
                done += count
            }
            return runs
        }
    }

    /// The file is extended first: when that fails nothing has changed.
    private func place(_ missing: [Int], _ blocks: inout Blocks) throws(SystemError) {
        guard !missing.isEmpty else { return }
        let end = blocks.table.endOffset + UInt64(missing.count) * shape.blockBytes
        guard end <= UInt64(UInt32.max) * VHDXPlace.mebibyte else {
            throw SystemError(errno: EFBIG, operation: "place a block at \(blocks.table.endOffset)", path: path)
        }
        try file.changes.truncate(to: end)
        for block in missing { blocks.table.place(block: block) }
        blocks.uncommitted += missing
    }

    private func beginWriting() throws(SystemError) {
        guard !hasBegun.load(ordering: .acquiring) else { return }
        try flushing.withLock { (commit) throws(SystemError) in
            guard !hasBegun.load(ordering: .relaxed) else { return }
            try mend(&commit)
            try commit.begin(file.changes)
            hasBegun.store(true, ordering: .releasing)
        }
    }

    private func mend(_ commit: inout VHDXCommit) throws(SystemError) {
        try commit.mend(file.changes)
        file.noteComplete()
    }

    package func flush() throws(SystemError) {
        try flushing.withLock { (commit) throws(SystemError) in
            try mend(&commit)
            let (committing, fileBytes) = blocks.withLock { blocks in
                defer { blocks.uncommitted = [] }
                let placed = blocks.uncommitted.sorted().map { (block: $0, offset: UInt64(blocks.table.places[$0]) * VHDXPlace.mebibyte) }
                return (placed, blocks.table.endOffset)
            }
            do throws(SystemError) {
                try commit.write(committing, fileBytes: fileBytes, file.changes)
            } catch {
                blocks.withLock { $0.uncommitted += committing.map(\.block) }
                throw error
            }
        }
    }
}

/// How changes of the table reach the file: docs/formats/vhdx.md, section "Writing", steps 1 to 4.
struct VHDXCommit: Sendable {
    /// What one sector of descriptors holds beside the entry's header.
    private static let sectorsMax = 126

    private var headers: VHDXHeaders
    /// Of an earlier opening; carried out before anything else is written.
    private let replay: VHDXReplay
    private let shape: VHDXTableShape
    /// The half of the log that the current header may still name is left alone.
    private var writesSecondHalf = false
    private var isMended: Bool

    init(headers: VHDXHeaders, replay: VHDXReplay, shape: VHDXTableShape) {
        self.headers = headers
        self.replay = replay
        isMended = !headers.current.hasLog
        self.shape = shape
    }

    mutating func mend(_ file: borrowing ChangedFile) throws(SystemError) {
        guard !isMended else { return }
        try replay.carryOut(&headers, file)
        isMended = true
    }

    mutating func begin(_ file: borrowing ChangedFile) throws(SystemError) {
        let (fileWriteID, dataWriteID) = (newVHDXID(), newVHDXID())
        for _ in 0..<2 {
            try headers.change(file) { header in
                header.fileWriteID = fileWriteID
                header.dataWriteID = dataWriteID
            }
            try file.sync()
        }
    }

    /// `blocks` in rising order. All that was written before is durable when this returns.
    mutating func write(_ blocks: [(block: Int, offset: UInt64)], fileBytes: UInt64, _ file: borrowing ChangedFile) throws(SystemError) {
        let sectors = try changedSectors(blocks, file)
        if sectors.isEmpty { try file.sync() }
        for start in stride(from: 0, to: sectors.count, by: Self.sectorsMax) {
            try write(Array(sectors[start..<min(start + Self.sectorsMax, sectors.count)]), fileBytes, file)
        }
    }

    private mutating func write(_ sectors: [(offset: UInt64, bytes: [UInt8])], _ fileBytes: UInt64, _ file: borrowing ChangedFile) throws(SystemError) {
        let logID = newVHDXID()
        let place = writesSecondHalf ? UInt64(headers.current.logBytes) / 2 : 0
        let entry = VHDXLogEntry.encoded(sectors, id: logID, place: place, fileBytes: fileBytes)
        try file.write(entry, at: headers.current.logOffset + place)
        try file.sync()
        try headers.change(file) { $0.logID = logID }
        writesSecondHalf.toggle()
        try file.sync()
        for sector in sectors { try file.write(sector.bytes, at: sector.offset) }
        try file.sync()
        try headers.change(file) { $0.logID = VHDXHeader.noLog }
    }

    /// The table's sectors as they will be.
    private func changedSectors(_ blocks: [(block: Int, offset: UInt64)], _ file: borrowing ChangedFile) throws(SystemError) -> [(offset: UInt64, bytes: [UInt8])] {
        var sectors: [(offset: UInt64, bytes: [UInt8])] = []
        for (block, offset) in blocks {
            let place = shape.entryOffset(ofBlock: block)
            let sector = place & ~4095
            if sectors.last?.offset != sector { sectors.append((sector, try file.descriptor.read(count: 4096, at: sector))) }
            sectors[sectors.count - 1].bytes.withUnsafeMutableBytes { $0.putLE(VHDXTableShape.entry(presentAt: offset), at: Int(place - sector)) }
        }
        return sectors
    }
}
