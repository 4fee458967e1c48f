// The worker's side of the supervision: takes the inherited descriptors, serves a tree on them, and ends when the mount
// is gone or the supervisor says so. Made first thing by the hidden worker command.
//
// When the supervisor itself is killed, the worker goes on serving (it holds the device too) and then heeds SIGTERM,
// which it otherwise leaves to the supervisor.

package import BlockIO
import CFuse
import Glibc

package final class WorkerProcess: @unchecked Sendable {
    // Sendable: the `var`s are guarded by `monitor`.
    private static let deviceDescriptor: Int32 = 3
    private static let slotsDescriptor: Int32 = 4
    private static let linkDescriptor: Int32 = 5
    static let firstLockDescriptor: Int32 = 6

    package let slots: SlotMemory
    private let log: @Sendable (String) -> Void

    private let monitor = Monitor()
    private let changed = Signal()
    private var session: FuseSession?
    private var isStopOrdered = false
    private var isHandingOver = false
    private var isOrphan = false
    /// Called once when the supervisor is gone.
    private var onOrphaned: (@Sendable () -> Void)?
    /// The supervisor's answers to `hold` and `release` that nobody has taken yet.
    private var answerCount = 0
    /// To be told of writes that wait for room.
    package let spareReaders = SpareReaders()

    /// Takes over descriptors 3, 4 and 5 and those of `locks`; throws when a person ran the command by hand. Call before
    /// other threads exist: it blocks signals.
    package init(locks: InheritedLocks, log: @escaping @Sendable (String) -> Void) throws(SystemError) {
        farshore_block_stop_signals()
        // Started by way of /proc/self/exe, it would show as "exe".
        farshore_name_process("farshore-worker")
        for descriptor in WorkerProcess.deviceDescriptor..<WorkerProcess.firstLockDescriptor + Int32(locks.count) {
            guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else {
                throw SystemError(errno: errno, operation: "take over an inherited descriptor", path: "descriptor \(descriptor)")
            }
        }
        slots = try WorkerProcess.mapSlots()
        self.log = log
        WorkerProcess.prepareForWriteback(log)
        _ = try OwnThread(name: "link") { [self] in watchLink() }
    }

    /// Locking the slots in memory may fail by a limit, which the person who mounts can raise.
    private static func mapSlots() throws(SystemError) -> SlotMemory {
        do throws(SystemError) {
            return try SlotMemory(descriptor: slotsDescriptor)
        } catch {
            _ = WorkerLink.send(
                .refused(WorkerRefusal(status: 1, message: "\(error)", remedy: "ulimit -l 65536, or LimitMEMLOCK=64M in the unit")), to: linkDescriptor)
            throw error
        }
    }

    /// Tells the person who mounts why this worker cannot start.
    package func refuse(_ refusal: WorkerRefusal) {
        if !WorkerLink.send(.refused(refusal), to: WorkerProcess.linkDescriptor) { log("cannot start: \(refusal.message)") }
    }

    /// Hands the supervisor locks that were taken after the mount, so that they outlive this worker; returns when it
    /// holds them, false when there is no supervisor.
    package func hold(_ name: String, _ descriptors: [Int32]) -> Bool { ask(.hold(name), descriptors) }

    /// Has the supervisor give up the locks of that name.
    package func release(_ name: String) -> Bool { ask(.release(name), []) }

    private func ask(_ message: WorkerMessage, _ descriptors: [Int32]) -> Bool {
        monitor.lock()
        defer { monitor.unlock() }
        guard !isOrphan, WorkerLink.send(message, descriptors: descriptors, to: WorkerProcess.linkDescriptor) else { return false }
        while answerCount == 0, !isOrphan { monitor.wait(for: changed) }
        guard answerCount > 0 else { return false }
        answerCount -= 1
        return true
    }

    /// Serves `tree` until the mount is gone or a stop was ordered; then no request is in hand any more.
    package func serve(_ tree: ExportTree, directory: String) throws(SystemError) -> FuseSession.End {
        try start(tree)
        ready()
        return wait(directory: directory)
    }

    /// From here on requests are answered, those that a dead worker had in hand first.
    package func start(_ tree: ExportTree) throws(SystemError) {
        let session = FuseSession(device: WorkerProcess.deviceDescriptor, slots: slots, tree: tree, spares: spareReaders, log: log)
        try session.start()
        monitor.lock()
        self.session = session
        if isStopOrdered { session.requestStop() }
        monitor.unlock()
    }

    /// Tells the supervisor that all is open and served.
    package func ready() { _ = WorkerLink.send(.ready, to: WorkerProcess.linkDescriptor) }

    /// Returns when the mount is gone or a stop was ordered, and no request is in hand any more. After `start`.
    package func wait(directory: String) -> FuseSession.End {
        monitor.lock()
        let session = self.session!
        monitor.unlock()
        let end = session.wait()
        monitor.lock()
        let ownsMount = isOrphan
        let isHandingOver = self.isHandingOver
        monitor.unlock()
        // What is acknowledged is in the log; all else would keep guests waiting for the successor.
        if isHandingOver { _exit(0) }
        if ownsMount, end == .stopped { FuseMount.detach(directory) }
        return end
    }

    /// Returns when no request on files that were taken out of the tree is being executed.
    package func waitUntilUnused(_ files: ExportTree.RemovedFiles) {
        monitor.lock()
        let session = self.session
        monitor.unlock()
        session?.waitUntilUnused(files)
    }

    private func watchLink() {
        while true {
            switch WorkerLink.receive(from: WorkerProcess.linkDescriptor, waiting: true).content {
            case .message(.stop): change { orderStop() }
            case .message(.handOver): change {
                isHandingOver = true
                orderStop()
            }
            case .message(.done): change { answerCount += 1 }
            case .message, .nothing: continue
            case .ended:
                change { isOrphan = true }
                log("the supervisor is gone; serving on until SIGTERM (pid \(getpid()))")
                tellOrphaned()
                farshore_wait_for_stop_signal()
                return change { orderStop() }
            }
        }
    }

    /// Whether a successor would be started if this worker ended.
    package var hasSupervisor: Bool {
        monitor.lock()
        defer { monitor.unlock() }
        return !isOrphan
    }

    /// `action` is called once, when the supervisor is gone or if it is already.
    package func whenOrphaned(_ action: @escaping @Sendable () -> Void) {
        change { onOrphaned = action }
        if !hasSupervisor { tellOrphaned() }
    }

    private func tellOrphaned() {
        monitor.lock()
        let action = onOrphaned
        onOrphaned = nil
        monitor.unlock()
        action?()
    }

    private func change(_ body: () -> Void) {
        monitor.lock()
        body()
        changed.wakeAll()
        monitor.unlock()
    }

    /// Under the monitor.
    private func orderStop() {
        isStopOrdered = true
        session?.requestStop()
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
