// Descriptors whose locks must not be free between two workers, by the name of what they guard. Owned by the
// supervisor; each worker inherits duplicates, which share the locks (they belong to the open file description).

package import BlockIO
import Glibc

package struct HeldLocks: ~Copyable, Sendable {
    private var names: [String] = []
    private var descriptors: [[Int32]] = []

    package init() {}

    deinit { for descriptor in descriptors.joined() { close(descriptor) } }

    /// Holds `borrowed` too; the caller may close its own.
    package mutating func hold(_ name: String, _ borrowed: [Int32]) throws(SystemError) {
        var owned: [Int32] = []
        for descriptor in borrowed {
            let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 64)
            guard copy >= 0 else {
                let failure = SystemError(errno: errno, operation: "hold the lock", path: name)
                for descriptor in owned { close(descriptor) }
                throw failure
            }
            owned.append(copy)
        }
        adopt(name, owned)
    }

    /// Takes over `owned`, in place of what was held under the name.
    mutating func adopt(_ name: String, _ owned: [Int32]) {
        release(name)
        names.append(name)
        descriptors.append(owned)
    }

    mutating func release(_ name: String) {
        guard let index = names.firstIndex(of: name) else { return }
        for descriptor in descriptors[index] { close(descriptor) }
        names.remove(at: index)
        descriptors.remove(at: index)
    }

    /// For the worker's command line: `NAME:COUNT`, in the order of the inherited descriptors.
    var arguments: [String] { zip(names, descriptors).map { "\($0):\($1.count)" } }

    var all: [Int32] { Array(descriptors.joined()) }
}

/// The worker's view: which inherited descriptors hold which lock.
package struct InheritedLocks: Sendable {
    package let descriptors: [String: [Int32]]
    let count: Int

    /// Reads `arguments` as the supervisor wrote them; nil when they are not of its making.
    package init?(_ arguments: [String]) {
        var next = WorkerProcess.firstLockDescriptor
        var found: [String: [Int32]] = [:]
        for argument in arguments {
            guard let colon = argument.lastIndex(of: ":"), let count = Int32(argument[argument.index(after: colon)...]), (0...96).contains(count) else { return nil }
            found[String(argument[..<colon])] = Array(next..<next + count)
            next += count
        }
        descriptors = found
        count = Int(next - WorkerProcess.firstLockDescriptor)
    }
}
