// An owned file descriptor: the only way the data path touches a file. Positional calls only, so one descriptor
// serves many threads; every call either transfers all bytes or throws. Closing reports its error; `deinit` is the net.

import CLinux
import Glibc

package struct Descriptor: ~Copyable, Sendable {
    package private(set) var raw: Int32
    package let path: String

    package init(owning raw: Int32, path: String) {
        self.raw = raw
        self.path = path
    }

    /// Opens `path` with `flags` (`O_RDWR | O_CREAT` …); `O_CLOEXEC` is always added.
    package static func open(_ path: String, _ flags: Int32, mode: UInt32 = 0o600) throws(SystemError) -> Descriptor {
        let raw = retryingInterrupts { farshore_open(path, flags | O_CLOEXEC, mode) }
        guard raw >= 0 else { throw SystemError(errno: errno, operation: "open", path: path) }
        return Descriptor(owning: raw, path: path)
    }

    /// Closes and reports the kernel's error: on some filesystems the last chance to hear of a failed write.
    package consuming func close() throws(SystemError) {
        let owned = raw
        raw = -1
        guard Glibc.close(owned) == 0 || errno == EINTR else { throw SystemError(errno: errno, operation: "close", path: path) }
    }

    deinit {
        if raw >= 0 { _ = Glibc.close(raw) }
    }

    /// Fills all of `buffer` from `offset`; a file that ends earlier is an error (`ENODATA`).
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        let count = try readUpTo(buffer, at: offset)
        guard count == buffer.count else {
            throw SystemError(errno: ENODATA, operation: "read \(buffer.count) bytes at \(offset): only \(count) are there", path: path)
        }
    }

    /// Reads until `buffer` is full or the file ends; returns the bytes read.
    package func readUpTo(_ buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) -> Int {
        var done = 0
        while done < buffer.count {
            let count = pread(raw, buffer.baseAddress! + done, buffer.count - done, off_t(truncatingIfNeeded: offset) + off_t(done))
            if count == 0 { break }
            if count < 0 {
                if errno == EINTR { continue }
                throw SystemError(errno: errno, operation: "read \(buffer.count) bytes at \(offset)", path: path)
            }
            done += count
        }
        return done
    }

    /// Fills `buffer` when all of it is in the page cache. False otherwise: then what is missing is on its way from the disk
    /// (where the filesystem can do that), and `read` has to be called for it.
    package func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool {
        guard let start = buffer.baseAddress else { return true }
        return farshore_pread_nowait(raw, start, buffer.count, Int64(truncatingIfNeeded: offset)) == buffer.count
    }

    package func read(count: Int, at offset: UInt64) throws(SystemError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var failure: SystemError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(SystemError) { try read(into: buffer, at: offset) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        var done = 0
        while done < buffer.count {
            let count = pwrite(raw, buffer.baseAddress! + done, buffer.count - done, off_t(truncatingIfNeeded: offset) + off_t(done))
            if count < 0 {
                if errno == EINTR { continue }
                throw SystemError(errno: errno, operation: "write \(buffer.count) bytes at \(offset)", path: path)
            }
            done += count
        }
    }

    package func write(_ bytes: [UInt8], at offset: UInt64) throws(SystemError) {
        var failure: SystemError?
        bytes.withUnsafeBytes { buffer in
            do throws(SystemError) { try write(buffer, at: offset) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    /// Data and the metadata needed to read it back are on stable storage when this returns.
    package func syncData() throws(SystemError) {
        guard retryingInterrupts({ fdatasync(raw) }) == 0 else { throw SystemError(errno: errno, operation: "fdatasync", path: path) }
    }

    /// Writes the range's pages to the device and waits for that; not durable. A failure is told once, by the kernel as by
    /// `syncData`: who goes on after it must not trust a later sync.
    package func writeBack(at offset: UInt64, length: UInt64) throws(SystemError) {
        let flags = UInt32(SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)
        guard retryingInterrupts({ sync_file_range(raw, off_t(truncatingIfNeeded: offset), off_t(truncatingIfNeeded: length), flags) }) == 0 else {
            throw SystemError(errno: errno, operation: "write back \(length) bytes at \(offset)", path: path)
        }
    }

    package func sync() throws(SystemError) {
        guard retryingInterrupts({ fsync(raw) }) == 0 else { throw SystemError(errno: errno, operation: "fsync", path: path) }
    }

    package func truncate(to bytes: UInt64) throws(SystemError) {
        guard retryingInterrupts({ ftruncate(raw, off_t(truncatingIfNeeded: bytes)) }) == 0 else {
            throw SystemError(errno: errno, operation: "set the size to \(bytes) bytes", path: path)
        }
    }

    /// Reserves blocks, so that later writes into the range cannot fail for want of space.
    package func allocate(at offset: UInt64, length: UInt64) throws(SystemError) {
        guard retryingInterrupts({ fallocate(raw, 0, off_t(truncatingIfNeeded: offset), off_t(truncatingIfNeeded: length)) }) == 0 else {
            throw SystemError(errno: errno, operation: "allocate \(length) bytes at \(offset)", path: path)
        }
    }

    /// Frees the range; it reads as zeros. Throws `EOPNOTSUPP` where the filesystem or device cannot.
    package func punchHole(at offset: UInt64, length: UInt64) throws(SystemError) {
        let mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        guard retryingInterrupts({ fallocate(raw, mode, off_t(truncatingIfNeeded: offset), off_t(truncatingIfNeeded: length)) }) == 0 else {
            throw SystemError(errno: errno, operation: "punch \(length) bytes at \(offset)", path: path)
        }
    }

    /// Makes the range read as zeros without giving its blocks back. `EOPNOTSUPP` where not possible.
    package func zeroRange(at offset: UInt64, length: UInt64) throws(SystemError) {
        let mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
        guard retryingInterrupts({ fallocate(raw, mode, off_t(truncatingIfNeeded: offset), off_t(truncatingIfNeeded: length)) }) == 0 else {
            throw SystemError(errno: errno, operation: "zero \(length) bytes at \(offset)", path: path)
        }
    }

    /// The first offset at or after `offset` that holds data, or nil when only a hole follows.
    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? {
        let found = lseek(raw, off_t(truncatingIfNeeded: offset), SEEK_DATA)
        if found >= 0 { return UInt64(found) }
        guard errno == ENXIO else { throw SystemError(errno: errno, operation: "seek data from \(offset)", path: path) }
        return nil
    }

    /// The first offset at or after `offset` that lies in a hole; the end of the file counts as one.
    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        let found = lseek(raw, off_t(truncatingIfNeeded: offset), SEEK_HOLE)
        guard found >= 0 else { throw SystemError(errno: errno, operation: "seek hole from \(offset)", path: path) }
        return UInt64(found)
    }

    /// Opens `path` below this directory; a symbolic link on the way is `ELOOP`, a way out `EXDEV`.
    package func openBeneath(_ path: String, _ flags: Int32) throws(SystemError) -> Descriptor {
        let place = "\(self.path)/\(path)"
        let opened = retryingInterrupts { farshore_open_beneath(raw, path, flags | O_CLOEXEC) }
        guard opened >= 0 else { throw SystemError(errno: errno, operation: "open", path: place) }
        return Descriptor(owning: opened, path: place)
    }

    /// Opens `path` with this directory as its root, for its name alone (O_PATH): links are followed, and nothing leads out of it. Nil
    /// where there is nothing.
    package func findInRoot(_ path: String) throws(SystemError) -> Descriptor? {
        let opened = retryingInterrupts { farshore_open_in_root(raw, path, farshore_o_path | O_CLOEXEC) }
        if opened < 0, errno == ENOENT || errno == ENOTDIR { return nil }
        guard opened >= 0 else { throw SystemError(errno: errno, operation: "open", path: path) }
        return Descriptor(owning: opened, path: path)
    }

    /// A second open file description of the same file. By /proc: the path may name another file by now.
    package func reopened(_ flags: Int32) throws(SystemError) -> Descriptor {
        let again = retryingInterrupts { farshore_open("/proc/self/fd/\(raw)", flags | O_CLOEXEC, 0) }
        guard again >= 0 else { throw SystemError(errno: errno, operation: "open again", path: path) }
        return Descriptor(owning: again, path: path)
    }

    /// The kernel reads what is asked for and nothing ahead of it; only a hint, so no error is reported.
    package func adviseRandomReads() { _ = posix_fadvise(raw, 0, 0, POSIX_FADV_RANDOM) }

    /// Tells the kernel that the range will not be read again soon; only a hint, so no error is reported.
    package func dropFromPageCache(at offset: UInt64 = 0, length: UInt64 = 0) {
        _ = posix_fadvise(raw, off_t(truncatingIfNeeded: offset), off_t(truncatingIfNeeded: length), POSIX_FADV_DONTNEED)
    }

    /// Tells the kernel that the range will be needed soon; only a hint.
    package func prefetch(at offset: UInt64, length: UInt64) {
        _ = posix_fadvise(raw, off_t(truncatingIfNeeded: offset), off_t(truncatingIfNeeded: length), POSIX_FADV_WILLNEED)
    }

    package func status() throws(SystemError) -> FileStatus {
        var info = stat()
        guard fstat(raw, &info) == 0 else { throw SystemError(errno: errno, operation: "stat", path: path) }
        return try FileStatus(info, descriptor: raw, path: path)
    }
}

/// Runs a call again while a signal interrupts it.
func retryingInterrupts(_ call: () -> Int32) -> Int32 {
    while true {
        let result = call()
        if result >= 0 || errno != EINTR { return result }
    }
}
