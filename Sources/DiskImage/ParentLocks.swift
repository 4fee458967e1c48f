// Keeps the parents of an image from being written by others while it is used: a shared lock on each, taken on the file that was
// opened before its tables are read. Held by whoever holds the image's own lock.

import BlockIO
import Glibc
import Synchronization

package final class ParentLocks: Sendable {
    private let held = Mutex<[Int32]>([])

    package init() {}

    deinit { release() }

    /// Throws `inUse` where somebody writes to the file.
    func add(_ file: borrowing Descriptor) throws(ImageError) {
        let lock = try ImageLock.take(openedAs: file, for: .shared)
        let descriptor = try asImageError { () throws(SystemError) in try lock.handedOut() }
        held.withLock { $0.append(descriptor) }
    }

    /// For a process that is to hold the locks too.
    package var descriptors: [Int32] { held.withLock { $0 } }

    package func release() {
        held.withLock { descriptors in
            for descriptor in descriptors { close(descriptor) }
            descriptors = []
        }
    }
}
