// The worker's side of the supervision: takes the inherited descriptors, serves a tree on them, and ends when the mount
// is gone or the supervisor says so. Made first thing by the hidden worker command.
//
// When the supervisor itself is killed, the worker goes on serving (it holds the device too) and then heeds SIGTERM,
// which it otherwise leaves to the supervisor.

package import BlockIO
import CFuse
import Glibc
import Synchronization

package final class WorkerProcess: Sendable {
    private static let deviceDescriptor: Int32 = 3
    private static let slotsDescriptor: Int32 = 4
    private static let linkDescriptor: Int32 = 5
    private static let firstLockDescriptor: Int32 = 6

    package let slots: SlotMemory
    private let log: @Sendable (String) -> Void
    private let isOrphan = Atomic<Bool>(false)

    /// Takes over descriptors 3, 4 and 5 and `lockCount` more; throws when a person ran the command by hand. Call
    /// before other threads exist: it blocks signals.
    package init(lockCount: Int, log: @escaping @Sendable (String) -> Void) throws(SystemError) {
        farshore_block_stop_signals()
        // Started by way of /proc/self/exe, it would show as "exe".
        farshore_name_thread("farshore-worker")
        for descriptor in WorkerProcess.deviceDescriptor..<WorkerProcess.firstLockDescriptor + Int32(lockCount) {
            guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else {
                throw SystemError(errno: errno, operation: "take over an inherited descriptor", path: "descriptor \(descriptor)")
            }
        }
        slots = try SlotMemory(descriptor: WorkerProcess.slotsDescriptor)
        self.log = log
        WorkerProcess.prepareForWriteback(log)
    }

    /// Tells the person who mounts why this worker cannot start.
    package func refuse(_ refusal: WorkerRefusal) {
        if !WorkerMessage.refused(refusal).send(to: WorkerProcess.linkDescriptor) { log("cannot start: \(refusal.message)") }
    }

    /// Serves `tree` until the mount is gone or a stop was ordered; then no request is in hand any more.
    package func serve(_ tree: ExportTree, directory: String) throws(SystemError) -> FuseSession.End {
        let session = FuseSession(device: WorkerProcess.deviceDescriptor, slots: slots, tree: tree, log: log)
        try session.start()
        guard NativeThread.start("link", { [self] in watchLink(session) }) != nil else {
            throw SystemError(errno: EAGAIN, operation: "start a thread", path: "worker")
        }
        _ = WorkerMessage.ready.send(to: WorkerProcess.linkDescriptor)
        let end = session.wait()
        if isOrphan.load(ordering: .acquiring), end == .stopped { FuseMount.detach(directory) }
        return end
    }

    private func watchLink(_ session: FuseSession) {
        while true {
            switch WorkerMessage.receive(from: WorkerProcess.linkDescriptor, waiting: true) {
            case .message(.stop): return session.requestStop()
            case .message, .nothing: continue
            case .ended:
                isOrphan.store(true, ordering: .releasing)
                log("the supervisor is gone; serving on until SIGTERM (pid \(getpid()))")
                farshore_wait_for_stop_signal()
                return session.requestStop()
            }
        }
    }

    /// A guest's memory pressure may wait for writes through this very process.
    private static func prepareForWriteback(_ log: @Sendable (String) -> Void) {
        do throws(SystemError) {
            // The supervisor's protection from the OOM killer is inherited: take the usual place again.
            let file = try Descriptor.open("/proc/self/oom_score_adj", O_WRONLY)
            try file.write(Array("0".utf8), at: 0)
        } catch {
            log("oom_score_adj stays inherited: \(error)")
        }
        if farshore_set_io_flusher() != 0, errno != EPERM { log("cannot mark this process as an I/O flusher: errno \(errno)") }
    }
}
