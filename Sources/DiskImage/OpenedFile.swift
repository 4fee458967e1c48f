// A file as it was found when it was opened. Its name may go, or be given to another file, while the descriptor serves on: who
// notes what he left behind, or reads a file by name that another process has open, must ask.

package import BlockIO
import CLinux
import Glibc

/// Which file it is, on this host and while it is open.
struct FileKey: Equatable, Sendable {
    private let device: UInt64
    private let inode: UInt64

    init(_ descriptor: borrowing Descriptor) throws(SystemError) {
        var info = stat()
        guard fstat(descriptor.raw, &info) == 0 else { throw SystemError(errno: errno, operation: "stat", path: descriptor.path) }
        // The node of a block device may be made anew, the device is the same.
        let isDevice = info.st_mode & S_IFMT == S_IFBLK
        (device, inode) = isDevice ? (UInt64(info.st_rdev), 0) : (UInt64(info.st_dev), UInt64(info.st_ino))
    }
}

package struct OpenedFile: Equatable, Sendable {
    package let path: String
    private let key: FileKey

    package init(_ descriptor: borrowing Descriptor) throws(SystemError) {
        path = descriptor.path
        key = try FileKey(descriptor)
    }

    /// The name still stands for the file that was opened.
    package func isThere() throws(SystemError) -> Bool { try found() == key }

    /// The name stands for another file.
    package func isReplaced() throws(SystemError) -> Bool {
        guard let found = try found() else { return false }
        return found != key
    }

    private func found() throws(SystemError) -> FileKey? {
        do throws(SystemError) {
            // Without opening it for anything: it may be a pipe by now.
            return try FileKey(Descriptor.open(path, farshore_o_path))
        } catch where error.errno == ENOENT || error.errno == ENOTDIR {
            return nil
        }
    }

    /// Opens the file once more; nil where its name stands for another one, or for none.
    package func opened(_ flags: Int32) throws(SystemError) -> Descriptor? {
        do throws(SystemError) {
            let named = try Descriptor.open(path, farshore_o_path)
            guard try FileKey(named) == key else { return nil }
            return try named.reopened(flags)
        } catch where error.errno == ENOENT || error.errno == ENOTDIR {
            return nil
        }
    }
}

/// Whether both names stand for one file or device, which is there.
package func isSameFile(_ path: String, _ other: String) -> Bool {
    func key(_ path: String) -> FileKey? {
        guard let file = try? Descriptor.open(path, farshore_o_path) else { return nil }
        return try? FileKey(file)
    }
    guard let own = key(path) else { return false }
    return own == key(other)
}
