// Disks served by the process that uses them, in a place nobody else sees: a mount namespace of its own. What was mounted in there is gone
// when the process ends, however it ends, so nothing of it has to be cleaned up. For throw-away copies of recovery points.

package import BlockIO
import CFuse
import CLinux
import Glibc

package final class PrivateExport: Sendable {
    package struct Served: Sendable {
        fileprivate let directory: ExportTree.Directory
        /// Where its `disk.raw` is, for this thread and the programs it starts.
        package let path: String
    }

    /// An empty directory of this process alone: mount points are made in here.
    package let place: String
    private let mount: FuseMount
    private let tree = ExportTree()
    private let session: FuseSession

    /// Call as root, and before other threads are started that shall see what is mounted.
    package init(place: String, log: @escaping @Sendable (String) -> Void) throws(SystemError) {
        try Directory.create(place, mode: 0o700)
        guard farshore_private_mounts(place) == 0 else { throw SystemError(errno: errno, operation: "make private mounts", path: place) }
        self.place = place
        mount = try FuseMount.mount(at: place + "/disks", allowOther: false)
        // File systems are mounted on what is served here: their memory is written back by this process.
        if farshore_set_io_flusher() != 0, errno != EPERM { log("cannot mark this process as an I/O flusher: errno \(errno)") }
        session = FuseSession(device: mount.device.raw, slots: try SlotMemory(descriptor: mount.slots.raw), tree: tree, spares: SpareReaders(), log: log)
        try session.start()
    }

    /// Takes the mount down; whatever is mounted on its disks must be gone. Call once.
    package func close() {
        if FuseMount.unmount(mount.directory) != .done { FuseMount.detach(mount.directory) }
        session.requestStop()
        _ = session.wait()
    }

    package func serve(_ disk: LazyDisk, sizeBytes: UInt64, as name: String) throws(ExportTreeError) -> Served {
        let directory = try tree.addDirectory(name)
        try tree.addDisk(disk, in: directory, sizeBytes: sizeBytes, isWritable: true, vhdFooter: nil)
        return Served(directory: directory, path: "\(mount.directory)/\(name)/disk.raw")
    }

    /// Takes a file system away that was mounted in `place`; `detaching` also while it is in use.
    package static func unmount(_ directory: String, detaching: Bool) throws(SystemError) {
        guard umount2(directory, detaching ? Int32(MNT_DETACH) : 0) == 0 else { throw SystemError(errno: errno, operation: "unmount", path: directory) }
    }

    package func remove(_ served: Served) {
        let removed = tree.remove(served.directory)
        session.waitUntilUnused(removed)
        removed.giveUpDisks()
    }
}
