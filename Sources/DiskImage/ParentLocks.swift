// Keeps the parents of an image from being written by others while it is used: a shared lock on each, taken on the file that was
// opened before its tables are read. Held by whoever holds the image's own lock. A worker's successor is handed the locks, and reads
// through the very files that they are on: what their names stand for by now is another disk.

import BlockIO
import Glibc
import Synchronization

package final class ParentLocks: Sendable {
    private let held: Mutex<[Int32]>
    /// The chain is made of the files that are held, and of no others.
    let areHandedDown: Bool

    package init() {
        held = Mutex([])
        areHandedDown = false
    }

    /// Takes over `descriptors`, in the order of the chain; none where nothing is known of parents.
    package init(handedDown descriptors: [Int32]) {
        held = Mutex(descriptors)
        areHandedDown = !descriptors.isEmpty
    }

    deinit { release() }

    /// Throws `inUse` where somebody writes to the file.
    func add(_ file: borrowing Descriptor) throws(ImageError) {
        let lock = try ImageLock.take(openedAs: file, for: .shared)
        let descriptor = try asImageError { () throws(SystemError) in try lock.handedOut() }
        held.withLock { $0.append(descriptor) }
    }

    /// The very file that one of `descriptors` holds, for reading.
    func open(_ descriptor: Int32, as path: String) throws(SystemError) -> ContainerFile {
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw SystemError(errno: errno, operation: "use the lock of", path: path) }
        return try ContainerFile(Descriptor(owning: copy, path: path).reopened(O_RDONLY))
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
