// A disk that is opened when it is first used and then stays open until its files are taken away; its `disk.raw` and
// `disk.vhd` share one. Used by the reader threads without a lock once it is open.

package import BlockIO
import Glibc
import Synchronization
package import VirtualDisk

package final class LazyDisk: @unchecked Sendable {
    // Sendable: `opened` is written under `lock` before `isOpen` is released, and read only after it was acquired; it is
    // taken back when no reader uses it any more.
    private var opened: (any ServedDisk)?
    private let isOpen = Atomic<Bool>(false)
    private let lock = Mutex<Void>(())
    private var open: @Sendable () throws(SystemError) -> any ServedDisk

    package init(open: @escaping @Sendable () throws(SystemError) -> any ServedDisk) { self.open = open }

    /// The disk, opened by the first caller while others wait; an error is that caller's, the next one tries again.
    package func get() throws(SystemError) -> any ServedDisk {
        if isOpen.load(ordering: .acquiring), let opened { return opened }
        return try lock.withLock { _ throws(SystemError) in
            if let opened { return opened }
            let disk = try open()
            opened = disk
            isOpen.store(true, ordering: .releasing)
            return disk
        }
    }

    /// Forgets the disk, for good; its files are gone and no request on them runs.
    func giveUp() {
        lock.withLock { _ in
            isOpen.store(false, ordering: .releasing)
            opened = nil
            open = { () throws(SystemError) in throw SystemError(errno: ESTALE, operation: "use a file that was taken away", path: "disk") }
        }
    }
}
