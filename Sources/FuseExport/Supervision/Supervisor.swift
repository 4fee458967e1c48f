// Holds a mount for as long as it shall last, whatever happens to the worker that serves it: owns the descriptor of
// /dev/fuse, the request slots and the locks of the disks, starts the worker and, when it dies, its successor. It
// serves no request itself and uses no path below the mount, so nothing it does can wait for its own worker.
//
// Invariants: there is never more than one worker (the next is started after waitpid returned the last); what is to be
// unmounted is unmounted by a child process, because the unmount may need the worker, and the worker a successor.

package import BlockIO
import CFuse
import Glibc

package final class Supervisor {
    /// After a stop was asked for, how long users of the mount have before it is detached under them.
    package static let busySecondsMax: UInt64 = 10
    /// How often the log says that a worker has not ended yet.
    private static let drainNoticeSeconds: UInt64 = 60

    private enum Phase: Equatable {
        case serving
        /// An unmount is tried again and again until the deadline.
        case unmounting(deadline: UInt64)
        /// The mount is gone; the worker finishes, flushes and ends.
        case draining(nextNotice: UInt64)
    }

    final class Worker {
        let process: ChildProcess
        let link: Descriptor
        let started = Clock.monotonicNanoseconds()
        var isReady = false
        /// It was told to give way to a successor, or was killed by us.
        var isLeaving = false

        init(process: ChildProcess, link: consuming Descriptor) {
            self.process = process
            self.link = link
        }
    }

    let mount: FuseMount
    let plan: SupervisorPlan
    private let signals: Descriptor
    private var locks: HeldLocks
    private var phase = Phase.serving
    private var schedule = RestartSchedule()
    var worker: Worker?
    var nextStart: UInt64? = 0
    /// What workers are made of.
    var program: WorkerProgram
    /// While an upgrade is under way: how far, the program on trial, and the one before.
    var upgrade: WorkerUpgrade?
    var trial: ProgramTrial?
    var previousProgram: WorkerProgram?
    /// What the worker's threads did when it was looked at last.
    var statesBefore: ThreadStates?
    var hangWatch: HangWatch?
    var nextSample: UInt64 = 0
    private var unmounting: ChildProcess?
    private var refusal: WorkerRefusal?
    private var wasReady = false
    private var outcome: Result<Void, WorkerRefusal>?

    /// Blocks SIGTERM, SIGINT, SIGHUP and SIGCHLD in this thread and those it starts: call it before any other thread
    /// exists, so that the signals wait for the supervisor.
    package static func blockSignals() { farshore_block_supervisor_signals() }

    package init(mount: consuming FuseMount, locks: consuming HeldLocks, plan: SupervisorPlan) throws(SystemError) {
        let raw = farshore_supervisor_signals()
        guard raw >= 0 else { throw SystemError(errno: errno, operation: "watch signals", path: "signalfd") }
        signals = Descriptor(owning: raw, path: "signalfd")
        self.mount = mount
        self.locks = locks
        program = try WorkerProgram.own(version: plan.version)
        hangWatch = plan.hangSeconds.map { HangWatch(limitMilliseconds: $0 * 1_000) }
        self.plan = plan
    }

    /// Serves until the mount is gone: asked to by a signal, or unmounted by someone else. Throws when the worker
    /// cannot start, after the mount was taken away.
    package func run() throws(WorkerRefusal) {
        avoidOutOfMemoryKiller()
        while outcome == nil {
            startWorkerIfDue()
            waitForEvents()
            readSignals()
            readLink()
            reapWorker()
            reapUnmounting()
            advance()
            advanceUpgrade()
            watchForHang()
        }
        try outcome!.get()
    }

    // MARK: The worker

    private func startWorkerIfDue() {
        guard worker == nil, let due = nextStart, Clock.monotonicNanoseconds() >= due else { return }
        nextStart = nil
        do throws(SystemError) {
            var pair: (Int32, Int32) = (-1, -1)
            let made = withUnsafeMutableBytes(of: &pair) {
                socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, $0.baseAddress!.assumingMemoryBound(to: Int32.self))
            }
            guard made == 0 else { throw SystemError(errno: errno, operation: "make a socket pair", path: "worker") }
            let ours = Descriptor(owning: pair.0, path: "worker")
            let theirs = Descriptor(owning: pair.1, path: "supervisor")
            let process = try ChildProcess.spawn(
                program.executable, plan.workerArguments + locks.arguments,
                descriptors: [mount.device.raw, mount.slots.raw, theirs.raw] + locks.all,
                standardError: plan.workerStandardError)
            worker = Worker(process: process, link: ours)
        } catch {
            if fallBack(because: "\(error)") { return }
            plan.log("cannot start a worker: \(error); trying again")
            nextStart = Clock.monotonicNanoseconds() + 1_000_000_000
        }
    }

    private func readLink() {
        while let worker {
            let received = WorkerLink.receive(from: worker.link.raw, waiting: false)
            guard case .message(let message) = received.content else { return }
            switch message {
            case .ready:
                if !wasReady { plan.onReady() }
                wasReady = true
                worker.isReady = true
                completeUpgrade()
            case .refused(let reason): refusal = reason
            case .hold(let name):
                locks.adopt(name, received.descriptors)
                _ = WorkerLink.send(.done, to: worker.link.raw)
            case .release(let name):
                locks.release(name)
                _ = WorkerLink.send(.done, to: worker.link.raw)
            case .done, .stop, .handOver: break
            }
        }
    }

    private func reapWorker() {
        guard let ended = worker, let ending = ended.process.poll() else { return }
        readLink()
        let livedMilliseconds = Int(clamping: (Clock.monotonicNanoseconds() - ended.started) / 1_000_000)
        worker = nil
        let refusal = self.refusal
        self.refusal = nil
        let hasServed = self.hasServed
        if isDraining || hasServed && isUnmounted {
            // No guest waits for a successor.
            outcome = ending == .exited(0) ? .success(()) : .failure(unclosed(ending, refusal))
        } else if !hasServed {
            // Nobody waits for a successor yet; the reason is in the worker's log.
            FuseMount.detach(mount.directory)
            let status: Int32 = if case .exited(let code) = ending, code != 0 { code } else { 1 }
            outcome = .failure(refusal ?? WorkerRefusal(
                status: status, message: "the worker ended by \(describe(ending)) before it served anything", remedy: "farshore doctor, and the worker's log"))
        } else {
            startSuccessor(of: ended, ending, livedMilliseconds, refusal)
        }
    }

    /// Also where the worker died between its first answer and its word that it is ready: whoever saw the disks may use them.
    private var hasServed: Bool {
        if wasReady { return true }
        guard let hand = try? SlotMemory.requestsInHand(mount.slots, plan: mount.slotPlan) else { return true }
        return hand.mark != 0
    }

    private func unclosed(_ ending: ChildProcess.Ending, _ refusal: WorkerRefusal?) -> WorkerRefusal {
        let status: Int32 = if case .exited(let code) = ending, code != 0 { code } else { 1 }
        return WorkerRefusal(
            status: status,
            message: "\(mount.directory) is unmounted, but not closed cleanly: \(refusal?.message ?? "the worker ended by \(describe(ending))"); what was acknowledged is in the logs",
            remedy: "mend what the message names, then mount again: that recovers it")
    }

    /// Guests wait for it. There is no last attempt: a worker that says it cannot start is followed by another one too.
    private func startSuccessor(of ended: Worker, _ ending: ChildProcess.Ending, _ livedMilliseconds: Int, _ refusal: WorkerRefusal?) {
        let now = Clock.monotonicNanoseconds()
        nextStart = now
        if noteHandedOver(now: now) { return }
        let reason = refusal.map { "it cannot serve: \($0.message)" } ?? "it ended by \(describe(ending))"
        if fallBack(because: reason) { return }
        let delay = schedule.delayMilliseconds(livedMilliseconds: livedMilliseconds, wasReady: ended.isReady)
        plan.log("the worker ended by \(describe(ending)) after \(livedMilliseconds) ms\(refusal.map { ", it cannot serve: \($0.message)" } ?? "")"
            + "; starting its successor" + (delay > 0 ? " in \(delay) ms" : ""))
        nextStart = now + UInt64(delay) * 1_000_000
    }

    var isServing: Bool { phase == .serving }

    private func describe(_ ending: ChildProcess.Ending) -> String {
        switch ending {
        case .exited(let status): "exit status \(status)"
        case .killed(let signal): "signal \(signal) (\(String(cString: strsignal(signal))))"
        }
    }

    // MARK: Stopping

    private func readSignals() {
        while true {
            let signal = farshore_next_signal(signals.raw)
            if signal == 0 { return }
            guard signal != SIGCHLD, phase == .serving else { continue }
            if signal == SIGHUP {
                beginUpgrade()
                continue
            }
            plan.log("stopping: unmounting \(mount.directory)")
            phase = .unmounting(deadline: Clock.monotonicNanoseconds() + Supervisor.busySecondsMax * 1_000_000_000)
        }
    }

    private func reapUnmounting() {
        guard let child = unmounting, let ending = child.poll() else { return }
        unmounting = nil
        guard case .unmounting = phase, FuseMount.result(of: ending, mount.directory) == .done else { return }
        phase = .draining(nextNotice: Clock.monotonicNanoseconds() + Supervisor.drainNoticeSeconds * 1_000_000_000)
    }

    private func advance() {
        let now = Clock.monotonicNanoseconds()
        switch phase {
        case .serving: break
        case .unmounting(let deadline):
            guard unmounting == nil else { break }
            if now < deadline {
                unmounting = try? FuseMount.startUnmount(mount.directory, lazily: false)
            } else {
                detachUnderUsers()
                phase = .draining(nextNotice: now + Supervisor.drainNoticeSeconds * 1_000_000_000)
            }
        case .draining(let nextNotice):
            guard now >= nextNotice, let worker else { break }
            plan.log("still waiting for worker \(worker.process.pid) to flush and end; in D state it waits for storage")
            phase = .draining(nextNotice: now + Supervisor.drainNoticeSeconds * 1_000_000_000)
        }
        if case .draining = phase, worker == nil, outcome == nil { outcome = .success(()) }
    }

    private func detachUnderUsers() {
        let holders = MountHolders.of(mount.directory)
        plan.log("\(mount.directory) is still in use after \(Supervisor.busySecondsMax) s"
            + (holders.isEmpty ? "" : " by " + holders.joined(separator: ", ")) + "; detaching it, they will see I/O errors")
        FuseMount.detach(mount.directory)
        if let worker { _ = WorkerLink.send(.stop, to: worker.link.raw) }
    }

    private var isDraining: Bool {
        if case .draining = phase { true } else { false }
    }

    /// False also where it cannot be known: guests may wait for a successor.
    private var isUnmounted: Bool {
        do {
            guard let found = try MountedExport.at(mount.directory) else { return true }
            return found.directory != mount.directory || found.pid != getpid()
        } catch {
            plan.log("it cannot be seen whether \(mount.directory) is mounted: \(error)")
            return false
        }
    }

    // MARK: Waiting

    private func waitForEvents() {
        var polled = [pollfd(fd: signals.raw, events: Int16(POLLIN), revents: 0)]
        if let worker { polled.append(pollfd(fd: worker.link.raw, events: Int16(POLLIN), revents: 0)) }
        _ = poll(&polled, nfds_t(polled.count), timeoutMilliseconds)
        // An ended worker's link reads as end of file until SIGCHLD comes: do not spin on it.
        if polled.count > 1, polled[1].revents & Int16(POLLHUP) != 0, polled[0].revents == 0 { usleep(1_000) }
    }

    private var timeoutMilliseconds: Int32 {
        let now = Clock.monotonicNanoseconds()
        if let nextStart { return nextStart > now ? Int32(clamping: (nextStart - now) / 1_000_000 + 1) : 0 }
        if upgrade != nil { return 100 }
        switch phase {
        case .serving: return hangWatch == nil ? -1 : nextSample > now ? Int32(clamping: (nextSample - now) / 1_000_000 + 1) : 0
        case .unmounting: return 100
        case .draining: return 1_000
        }
    }

    /// Without the supervisor a guest's disk is gone; its memory is small, so killing it would gain nothing.
    private func avoidOutOfMemoryKiller() {
        do throws(SystemError) {
            let file = try Descriptor.open("/proc/self/oom_score_adj", O_WRONLY)
            try file.write(Array("-1000".utf8), at: 0)
        } catch where error.errno == EACCES || error.errno == EPERM {
            plan.log("not protected from the out-of-memory killer: CAP_SYS_RESOURCE is missing")
        } catch {
            plan.log("not protected from the out-of-memory killer: \(error)")
        }
    }
}
