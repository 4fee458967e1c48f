// Small state files: replaced as a whole or not at all, and durable when the call returns.

import CLinux
import Glibc
import Synchronization

package enum DurableFile {
    /// Two threads may replace one file at the same time: each writes a file of its own.
    private static let replacements = Atomic<UInt64>(0)

    /// Writes `bytes` beside `path`, syncs, renames over it and syncs the directory.
    package static func replace(_ path: String, with bytes: [UInt8], mode: UInt32 = 0o600) throws(SystemError) {
        let parent = Directory.parent(of: path) ?? "."
        let temporary = "\(path).\(getpid())-\(replacements.add(1, ordering: .relaxed).newValue).new"
        let file = try Descriptor.open(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode: mode)
        do {
            try file.write(bytes, at: 0)
            try file.sync()
            try file.close()
        } catch {
            unlink(temporary)
            throw error
        }
        guard rename(temporary, path) == 0 else {
            let failure = SystemError(errno: errno, operation: "rename into place", path: path)
            unlink(temporary)
            throw failure
        }
        try Directory.sync(parent)
    }

    /// Gives a finished file its name, durably; without `replacing`, one that is taken is `EEXIST`.
    package static func name(_ finished: String, _ path: String, replacing: Bool) throws(SystemError) {
        let isNamed = replacing ? rename(finished, path) : farshore_rename_noreplace(AT_FDCWD, finished, AT_FDCWD, path)
        guard isNamed == 0 else { throw SystemError(errno: errno, operation: "rename into place", path: path) }
        try Directory.sync(Directory.parent(of: path) ?? ".")
    }

    /// The file's bytes, or nil when it does not exist. A file over `limitBytes` is refused (`EFBIG`).
    package static func read(_ path: String, limitBytes: Int = 16 << 20) throws(SystemError) -> [UInt8]? {
        let raw = retryingInterrupts { farshore_open(path, O_RDONLY | O_CLOEXEC, 0) }
        if raw < 0, errno == ENOENT { return nil }
        guard raw >= 0 else { throw SystemError(errno: errno, operation: "open", path: path) }
        let file = Descriptor(owning: raw, path: path)
        let size = try file.status().sizeBytes
        guard size <= limitBytes else {
            throw SystemError(errno: EFBIG, operation: "read \(size) bytes, the limit is \(limitBytes)", path: path)
        }
        return try file.read(count: Int(size), at: 0)
    }

    /// Removes the file durably; one that is not there is no error.
    package static func remove(_ path: String) throws(SystemError) {
        guard unlink(path) == 0 || errno == ENOENT else { throw SystemError(errno: errno, operation: "remove", path: path) }
        try Directory.sync(Directory.parent(of: path) ?? ".")
    }
}
