// Disks served by this process in a place nobody else sees: a mount namespace of their own. What was mounted in there is gone when the process
// ends, however it ends, so nothing of it has to be cleaned up. For throw-away copies of recovery points.
//
// Who serves the disks is not in that namespace: a process of its own holds it, and programs are started in it. A process that did both and was
// killed would hang for ever: its last thread takes the file systems down before it closes the FUSE device, and they wait for an answer on it.
// docs/decisions/0605-who-serves-a-bench.md

package import BlockIO
import CFuse
import CLinux
import Glibc

package final class PrivateExport: Sendable {
    package struct Served: Sendable {
        fileprivate let directory: ExportTree.Directory
        /// Where its `disk.raw` is, for programs that are started with `words`.
        package let path: String
    }

    /// An empty directory in the namespace: mount points are made in here. No part of the path is a link.
    package let place: String
    private let mounts: PrivateMounts
    private let mount: FuseMount
    private let tree = ExportTree()
    private let session: FuseSession

    /// Call as root.
    package init(place: String, log: @escaping @Sendable (String) -> Void) throws(SystemError) {
        try Directory.create(place, mode: 0o700)
        // What is reached through the holder's root must meet no absolute link on its way.
        guard let place = try FuseMount.absolute(place, throughDeadMount: false) else { throw SystemError(errno: ENOENT, operation: "find", path: place) }
        self.place = place
        mounts = try PrivateMounts(place)
        mount = try mounts.takeMount()
        // File systems are mounted on what is served here: their memory is written back by this process.
        if farshore_set_io_flusher() != 0, errno != EPERM { log("cannot mark this process as an I/O flusher: errno \(errno)") }
        session = FuseSession(device: mount.device.raw, slots: try SlotMemory(descriptor: mount.slots.raw), tree: tree, spares: SpareReaders(), log: log)
        try session.start()
    }

    /// Takes the mount down; whatever is mounted on its disks must be gone. Call once.
    package func close() {
        mounts.end()
        session.requestStop()
        _ = session.wait()
    }

    package func serve(_ disk: LazyDisk, sizeBytes: UInt64, as name: String) throws(ExportTreeError) -> Served {
        let directory = try tree.addDirectory(name)
        try tree.addDisk(disk, in: directory, sizeBytes: sizeBytes, isWritable: true, vhdFooter: nil)
        return Served(directory: directory, path: "\(mount.directory)/\(name)/disk.raw")
    }

    /// The command that starts a program where the disks are seen; in this process's working directory, where root may read that.
    package func words(_ command: [String]) -> [String] {
        ["nsenter", "--target", "\(mounts.holder)", "--mount", "--root"] + (access(".", R_OK | X_OK) == 0 ? ["--wd"] : []) + command
    }

    /// The path by which this process reaches what is at `path` for those programs.
    package func reached(_ path: String) -> String { "/proc/\(mounts.holder)/root\(path)" }

    package func remove(_ served: Served) {
        let removed = tree.remove(served.directory)
        session.waitUntilUnused(removed)
        removed.giveUpDisks()
    }
}
