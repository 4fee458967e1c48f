// Disks served by this process in a place nobody else sees: a mount namespace of their own. What was mounted in there is gone when the process
// ends, however it ends, so nothing of it has to be cleaned up. For throw-away copies of recovery points.
//
// Who serves the disks is not in that namespace: a process of its own holds it, and programs are started in it. A process that did both and was
// killed would hang for ever: its last thread takes the file systems down before it closes the FUSE device, and they wait for an answer on it.

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

    /// An empty directory in the namespace: mount points are made in here.
    package let place: String
    private let holder: MountHolder
    private let mount: FuseMount
    private let tree = ExportTree()
    private let session: FuseSession

    /// Call as root, and before other threads are started.
    package init(place: String, log: @escaping @Sendable (String) -> Void) throws(SystemError) {
        try Directory.create(place, mode: 0o700)
        let outside = try Descriptor.open("/proc/self/ns/mnt", O_RDONLY)
        let folder = try Descriptor.open(".", O_RDONLY | O_DIRECTORY)
        guard farshore_private_mounts(place) == 0 else { throw SystemError(errno: errno, operation: "make private mounts", path: place) }
        self.place = place
        mount = try FuseMount.mount(at: place + "/disks", allowOther: false)
        holder = try MountHolder()
        guard farshore_leave_mounts(outside.raw, folder.raw) == 0 else { throw SystemError(errno: errno, operation: "leave private mounts", path: place) }
        // File systems are mounted on what is served here: their memory is written back by this process.
        if farshore_set_io_flusher() != 0, errno != EPERM { log("cannot mark this process as an I/O flusher: errno \(errno)") }
        session = FuseSession(device: mount.device.raw, slots: try SlotMemory(descriptor: mount.slots.raw), tree: tree, spares: SpareReaders(), log: log)
        try session.start()
    }

    /// Takes the mount down; whatever is mounted on its disks must be gone. Call once.
    package func close() {
        holder.end()
        session.requestStop()
        _ = session.wait()
    }

    package func serve(_ disk: LazyDisk, sizeBytes: UInt64, as name: String) throws(ExportTreeError) -> Served {
        let directory = try tree.addDirectory(name)
        try tree.addDisk(disk, in: directory, sizeBytes: sizeBytes, isWritable: true, vhdFooter: nil)
        return Served(directory: directory, path: "\(mount.directory)/\(name)/disk.raw")
    }

    /// The command that starts a program where the disks are seen, in this process's working directory.
    package func words(_ command: [String]) -> [String] { ["nsenter", "--target", "\(holder.pid)", "--mount", "--wd"] + command }

    /// The path by which this process reaches what is at `path` for those programs.
    package func reached(_ path: String) -> String { "/proc/\(holder.pid)/root\(path)" }

    package func remove(_ served: Served) {
        let removed = tree.remove(served.directory)
        session.waitUntilUnused(removed)
        removed.giveUpDisks()
    }
}

/// A process that has the calling thread's mounts, and nothing else, until `end` or until this process is gone.
private final class MountHolder: Sendable {
    let pid: pid_t
    private let pipe: Int32

    init() throws(SystemError) {
        var pipe: Int32 = -1
        pid = farshore_hold_mounts(&pipe)
        guard pid > 0 else { throw SystemError(errno: errno, operation: "start a process", path: "for private mounts") }
        self.pipe = pipe
    }

    /// Returns when what was mounted is gone, unless a program still has it. Call once.
    func end() {
        close(pipe)
        _ = ChildProcess(pid: pid).wait()
    }
}
