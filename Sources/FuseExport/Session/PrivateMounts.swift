// A mount namespace with a FUSE mount in it, and the process that holds it. A thread makes both and leaves again, and then only lives: when it
// ends, because the process was killed, the holder takes the mount away. Then also a thread that reads a file system on it, and would
// wait for this process's own answer for ever, gets an error and can end.

import BlockIO
import CLinux
import Glibc

final class PrivateMounts: @unchecked Sendable {
    // Sendable: what changes is under `monitor`, but for `thread`, written once before the object is handed out.
    private struct State: ~Copyable {
        var mount: FuseMount?
        var holder: pid_t = -1
        var pipe: Int32 = -1
        var failure: SystemError?
        var isMade = false
        var isOver = false
    }

    private let monitor = Monitor()
    private let changed = Signal()
    private var state = State()
    private var thread: OwnThread?

    /// The process that has the namespace.
    var holder: pid_t {
        monitor.lock()
        defer { monitor.unlock() }
        return state.holder
    }

    /// An empty file system at `place`, and FUSE in `place`/disks.
    init(_ place: String) throws(SystemError) {
        thread = try OwnThread(name: "mounts") { [self] in
            do throws(SystemError) { try make(place) } catch { note(error) }
            monitor.lock()
            state.isMade = true
            changed.wakeAll()
            while !state.isOver { monitor.wait(for: changed) }
            monitor.unlock()
        }
        monitor.lock()
        while !state.isMade { monitor.wait(for: changed) }
        let failure = state.failure
        monitor.unlock()
        if let failure {
            end()
            throw failure
        }
    }

    func takeMount() throws(SystemError) -> FuseMount {
        monitor.lock()
        defer { monitor.unlock() }
        guard let mount = state.mount.take() else { throw SystemError(errno: EINVAL, operation: "mount", path: "twice") }
        return mount
    }

    /// Returns when what was mounted is gone, unless a program still has it. Call once.
    func end() {
        monitor.lock()
        let (pipe, holder) = (state.pipe, state.holder)
        monitor.unlock()
        if pipe >= 0 { close(pipe) }
        if holder > 0 { _ = ChildProcess(pid: holder).wait() }
        monitor.lock()
        state.isOver = true
        changed.wakeAll()
        monitor.unlock()
        thread?.join()
    }

    /// On the thread of its own: mounts and working directory of the others stay what they are.
    private func make(_ place: String) throws(SystemError) {
        let outside = try Descriptor.open("/proc/self/ns/mnt", O_RDONLY)
        guard farshore_private_mounts(place) == 0 else { throw SystemError(errno: errno, operation: "make private mounts", path: place) }
        let mount = try FuseMount.mount(at: place + "/disks", allowOther: false)
        var pipe: Int32 = -1
        let holder = farshore_hold_mounts(mount.directory, &pipe)
        guard holder > 0 else { throw SystemError(errno: errno, operation: "start a process", path: "for private mounts") }
        monitor.lock()
        (state.holder, state.pipe) = (holder, pipe)
        state.mount = consume mount
        monitor.unlock()
        guard farshore_leave_mounts(outside.raw) == 0 else { throw SystemError(errno: errno, operation: "leave private mounts", path: place) }
    }

    private func note(_ error: SystemError) {
        monitor.lock()
        state.failure = error
        monitor.unlock()
    }
}
