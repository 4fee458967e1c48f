// Keeps the parents of an image from being written by others while it is used: a shared lock on each. Held by whoever holds the
// image's own lock.

import BlockIO
import Glibc
import Synchronization

package final class ParentLocks: Sendable {
    private let held: Mutex<[Int32]>

    /// Throws `inUse` where somebody writes to a parent.
    package init(of image: any ImageFile) throws(ImageError) {
        held = Mutex([])
        for path in image.files.dropFirst() {
            let lock = try ImageLock.take(path, for: .shared)
            let descriptor = try asImageError { () throws(SystemError) in try lock.handedOut() }
            held.withLock { $0.append(descriptor) }
        }
    }

    deinit { release() }

    /// For a process that is to hold the locks too.
    package var descriptors: [Int32] { held.withLock { $0 } }

    package func release() {
        held.withLock { descriptors in
            for descriptor in descriptors { close(descriptor) }
            descriptors = []
        }
    }
}
