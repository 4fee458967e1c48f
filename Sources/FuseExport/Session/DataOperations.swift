// Operations on a file's bytes. Nothing here allocates for reads and writes: data goes between the disk and the slot's
// payload pages.

import BlockIO
import CFuse
import CLinux
import Glibc
import VirtualDisk

extension RequestExecution {
    func readData(_ file: borrowing ServedFile) throws(SystemError) {
        let request = slot.body(fuse_read_in.self)
        guard request.offset < file.sizeBytes else { return reply.payload(0) }
        let count = Int(min(UInt64(min(Int(request.size), slot.payloadBytes)), file.sizeBytes - request.offset))
        let fromDisk = request.offset < file.diskBytes ? Int(min(UInt64(count), file.diskBytes - request.offset)) : 0
        if fromDisk > 0 {
            let buffer = UnsafeMutableRawBufferPointer(start: slot.payload, count: fromDisk)
            try file.disk.get().read(into: buffer, at: request.offset)
        }
        for index in fromDisk..<count {
            let position = Int(request.offset + UInt64(index) - file.diskBytes)
            slot.payload.storeBytes(of: file.tail[position], toByteOffset: index, as: UInt8.self)
        }
        slot.counters.pointee.bytesRead &+= UInt64(count)
        reply.payload(count)
    }

    /// Writes at the end are cut short there, as on a block device; the file never grows.
    func writeData(_ file: borrowing ServedFile) throws(SystemError) {
        let request = slot.body(fuse_write_in.self)
        guard file.isWritable else { throw SystemError(errno: EROFS, operation: "write", path: "a read-only file") }
        guard Int(request.size) <= slot.payloadBytes, Int(header.len) == Slot.headBytes + Int(request.size) else {
            throw SystemError(errno: EINVAL, operation: "take a write of \(request.size) bytes in a request of \(header.len)", path: "/dev/fuse")
        }
        guard request.offset < file.diskBytes || request.size == 0 else {
            throw SystemError(errno: EFBIG, operation: "write beyond the end of the disk", path: "disk.raw")
        }
        let count = request.size == 0 ? 0 : Int(min(UInt64(request.size), file.diskBytes - request.offset))
        let disk = try file.disk.get()
        if count > 0, !(isRecovered && disk.holdsRecord(of: slot)) {
            try disk.write(UnsafeRawBufferPointer(start: slot.payload, count: count), at: request.offset, sequenceSlot: slot.sequence)
        }
        if request.write_flags & UInt32(FUSE_WRITE_CACHE) != 0 { slot.counters.pointee.writesFromMappings &+= 1 }
        // Under direct I/O the kernel sends no FSYNC for O_SYNC and O_DSYNC files: the answer is the promise.
        if request.flags & UInt32(bitPattern: O_DSYNC) != 0 { try disk.flush() }
        file.noteWrite()
        slot.counters.pointee.bytesWritten &+= UInt64(count)
        reply.body(fuse_write_out(size: UInt32(count), padding: 0))
    }

    func syncData(_ file: borrowing ServedFile) throws(SystemError) {
        if file.isWritable { try file.disk.get().flush() }
        reply.done()
    }

    /// Punching and zeroing really read as zeros afterwards. Reserving space is refused: the log cannot promise that a
    /// later write will find room.
    func allocate(_ file: borrowing ServedFile) throws(SystemError) {
        let request = slot.body(fuse_fallocate_in.self)
        let mode = Int32(bitPattern: request.mode)
        let keepsSize = mode & FALLOC_FL_KEEP_SIZE != 0
        let punches = mode == FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        guard file.isWritable else { throw SystemError(errno: EROFS, operation: "allocate", path: "a read-only file") }
        guard punches || mode & ~FALLOC_FL_KEEP_SIZE == FALLOC_FL_ZERO_RANGE else {
            throw SystemError(errno: EOPNOTSUPP, operation: "allocate in mode \(mode)", path: "disk.raw")
        }
        let (end, overflow) = request.offset.addingReportingOverflow(request.length)
        guard !overflow, keepsSize || end <= file.diskBytes else {
            throw SystemError(errno: EFBIG, operation: "grow the disk", path: "disk.raw")
        }
        if request.offset < file.diskBytes {
            let disk = try file.disk.get()
            if !(isRecovered && disk.holdsRecord(of: slot)) {
                let length = min(request.length, file.diskBytes - request.offset)
                try disk.zero(at: request.offset, length: length, mayFree: punches, sequenceSlot: slot.sequence)
            }
            file.noteWrite()
        }
        reply.done()
    }

    func seek(_ file: borrowing ServedFile) throws(SystemError) {
        let request = slot.body(fuse_lseek_in.self)
        let seeksData = request.whence == UInt32(SEEK_DATA)
        guard seeksData || request.whence == UInt32(SEEK_HOLE) else {
            throw SystemError(errno: EINVAL, operation: "seek by \(request.whence)", path: "disk.raw")
        }
        guard request.offset < file.sizeBytes else {
            throw SystemError(errno: ENXIO, operation: "seek beyond the end", path: "disk.raw")
        }
        reply.body(fuse_lseek_out(offset: seeksData ? try nextData(file, request.offset) : try nextHole(file, request.offset)))
    }

    private func nextData(_ file: borrowing ServedFile, _ offset: UInt64) throws(SystemError) -> UInt64 {
        if offset >= file.diskBytes { return offset }
        if let found = try file.disk.get().nextData(from: offset) { return found }
        guard !file.tail.isEmpty else { throw SystemError(errno: ENXIO, operation: "find data", path: "disk.raw") }
        return file.diskBytes
    }

    /// The footer is data up to the file's end.
    private func nextHole(_ file: borrowing ServedFile, _ offset: UInt64) throws(SystemError) -> UInt64 {
        if offset >= file.diskBytes { return file.sizeBytes }
        let found = try file.disk.get().nextHole(from: offset)
        return found >= file.diskBytes ? file.sizeBytes : found
    }
}

extension ServedDisk {
    /// Whether what this slot's request wrote is in the log already.
    func holdsRecord(of slot: Slot) -> Bool {
        let sequence = farshore_load_acquire(slot.sequence)
        if sequence != 0, holdsRecord(sequence: sequence) { return true }
        // Said once, for the next successor too: when the segment is recycled, the log would count the number as written.
        farshore_store_release(slot.sequence, 0)
        return false
    }
}
