// A disk that is shown before it is open, so that a worker that takes over serves each disk as soon as that one is ready:
// requests for the others wait here, in the reader threads. Made by MountedDisks.

import BlockIO
import FuseExport
import Glibc
import VirtualDisk

final class PendingDisk: @unchecked Sendable {
    // Sendable: `outcome` is guarded by `monitor`.
    let name: String
    let directory: ExportTree.Directory
    /// What its files show until it is open.
    let sizeBytes: UInt64
    private let monitor = Monitor()
    private let changed = Signal()
    private var outcome: Result<VirtualDisk, SystemError>?

    init(name: String, directory: ExportTree.Directory, sizeBytes: UInt64) {
        self.name = name
        self.directory = directory
        self.sizeBytes = sizeBytes
    }

    func fulfil(_ disk: VirtualDisk) { end(.success(disk)) }

    /// The disk is not served; its files are gone from the tree.
    func fail() { end(.failure(SystemError(errno: ESTALE, operation: "use a disk that did not open", path: name))) }

    private func end(_ outcome: Result<VirtualDisk, SystemError>) {
        monitor.lock()
        self.outcome = outcome
        changed.wakeAll()
        monitor.unlock()
    }

    /// The disk, once it is open.
    func wait() throws(SystemError) -> VirtualDisk {
        monitor.lock()
        defer { monitor.unlock() }
        while true {
            if let outcome { return try outcome.get() }
            monitor.wait(for: changed)
        }
    }
}
