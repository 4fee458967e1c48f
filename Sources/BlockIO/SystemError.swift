// The one error of every system call in the data path: what was tried, on what, and the errno.

import Glibc

package struct SystemError: Error, Equatable, CustomStringConvertible {
    /// The errno value (`EIO`, `ENOSPC`, …).
    package let errno: Int32
    /// The call that failed, in words: `write 4096 bytes at 8192`.
    package let operation: String
    /// The file it was tried on.
    package let path: String

    package init(errno: Int32, operation: String, path: String) {
        self.errno = errno
        self.operation = operation
        self.path = path
    }

    package var description: String { "\(path): cannot \(operation): \(String(cString: strerror(errno)))".shown }
}
