// A recovery point that can be written to and is thrown away: what is written goes into a file without a name, everything else comes from
// the point. So a file system in it can replay its journal, a check can mend and a guest can boot, and the vault sees nothing of it.
// It remembers which blocks of the point were looked at: another point where they are the same would have given the same answers.

package import BlockIO
import Glibc
import Synchronization
package import VirtualDisk
import Vault

package final class ScratchDisk: ServedDisk {
    private static let blockBytes = UInt64(FormatLimits.blockBytes)

    private struct State {
        /// Blocks that are in the file.
        var written = BlockSet()
        /// Blocks that were read from the point.
        var seen = BlockSet()
    }

    package let name: String
    package var sizeBytes: UInt64 { point.sizeBytes }
    package var isWritable: Bool { true }
    private let point: any ServedDisk
    private let file: Descriptor
    private let limitBytes: UInt64
    private let state = Mutex(State())
    /// One write at a time: a block that is written in part is completed from the point first.
    private let writing = Mutex<Void>(())

    /// What is written is kept in `folder`, at most `limitBytes` of it; it is gone when the process ends.
    package init(_ point: any ServedDisk, folder: String, limitBytes: UInt64) throws(SystemError) {
        self.point = point
        self.limitBytes = limitBytes
        name = point.name
        let path = "\(folder)/.farshore-scratch-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        file = try Descriptor.open(path, O_RDWR | O_CREAT | O_EXCL)
        guard unlink(path) == 0 else { throw SystemError(errno: errno, operation: "remove", path: path) }
    }

    /// Blocks of the point that were read so far.
    package var seen: BlockSet { state.withLock { $0.seen } }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        let end = offset + UInt64(buffer.count)
        var position = offset
        while position < end {
            let block = position / Self.blockBytes
            let (isWritten, runEnd) = state.withLock { state in
                let run = state.written.endOfRun(from: block, before: (end + Self.blockBytes - 1) / Self.blockBytes)
                let isWritten = state.written.contains(block)
                if !isWritten { state.seen.insert(block..<run) }
                return (isWritten, run)
            }
            let until = min(end, runEnd * Self.blockBytes)
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[Int(position - offset)..<Int(until - offset)])
            if isWritten { try readFile(part, at: position) } else { try point.read(into: part, at: position) }
            position = until
        }
    }

    /// The file may end before what was made zero.
    private func readFile(_ part: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        let count = try file.readUpTo(part, at: offset)
        if count < part.count { UnsafeMutableRawBufferPointer(rebasing: part[count...]).initializeMemory(as: UInt8.self, repeating: 0) }
    }

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        try change(offset, UInt64(buffer.count)) { () throws(SystemError) in try file.write(buffer, at: offset) }
    }

    package func zero(at offset: UInt64, length: UInt64, mayFree: Bool, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        try change(offset, length) { () throws(SystemError) in try file.punchHole(at: offset, length: length) }
    }

    private func change(_ offset: UInt64, _ length: UInt64, _ body: () throws(SystemError) -> Void) throws(SystemError) {
        guard length > 0 else { return }
        let end = offset + length
        try writing.withLock { _ throws(SystemError) in
            let blocks = offset / Self.blockBytes..<(end + Self.blockBytes - 1) / Self.blockBytes
            guard try file.status().allocatedBytes + min(length, limitBytes) <= limitBytes else {
                throw SystemError(errno: ENOSPC, operation: "keep more than \(limitBytes) bytes of writes to a throw-away copy", path: name)
            }
            if offset % Self.blockBytes != 0 { try complete(blocks.lowerBound) }
            if end % Self.blockBytes != 0, end < sizeBytes { try complete(blocks.upperBound - 1) }
            try body()
            state.withLock { $0.written.insert(blocks) }
        }
    }

    private func complete(_ block: UInt64) throws(SystemError) {
        guard !state.withLock({ $0.written.contains(block) }) else { return }
        let start = block * Self.blockBytes
        let count = Int(min(Self.blockBytes, sizeBytes - start))
        try withUnsafeTemporaryAllocation(byteCount: count, alignment: 16) { bytes throws(SystemError) in
            try point.read(into: bytes, at: start)
            try file.write(UnsafeRawBufferPointer(bytes), at: start)
        }
        state.withLock {
            $0.seen.insert(block..<block + 1)
            $0.written.insert(block..<block + 1)
        }
    }

    package func flush() throws(SystemError) {}
    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? { offset < sizeBytes ? offset : nil }
    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 { sizeBytes }
    package func holdsRecord(sequence: UInt64) -> Bool { false }
}

/// A partition of a disk, as a disk.
package final class DiskSlice: ServedDisk {
    package let name: String
    package var sizeBytes: UInt64 { range.upperBound - range.lowerBound }
    package var isWritable: Bool { disk.isWritable }
    private let disk: any ServedDisk
    private let range: Range<UInt64>

    package init(_ disk: any ServedDisk, _ range: Range<UInt64>) {
        self.disk = disk
        self.range = range
        name = disk.name
    }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try disk.read(into: buffer, at: range.lowerBound + offset)
    }

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        try disk.write(buffer, at: range.lowerBound + offset, sequenceSlot: sequenceSlot)
    }

    package func zero(at offset: UInt64, length: UInt64, mayFree: Bool, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        try disk.zero(at: range.lowerBound + offset, length: length, mayFree: mayFree, sequenceSlot: sequenceSlot)
    }

    package func flush() throws(SystemError) { try disk.flush() }

    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? {
        guard let found = try disk.nextData(from: range.lowerBound + offset), found < range.upperBound else { return nil }
        return found - range.lowerBound
    }

    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        min(try disk.nextHole(from: range.lowerBound + offset), range.upperBound) - range.lowerBound
    }

    package func holdsRecord(sequence: UInt64) -> Bool { disk.holdsRecord(sequence: sequence) }
}
