// Serves one mount: reader threads take requests from /dev/fuse into their slots, execute them and answer. Made by the
// worker process (or by a command that serves read-only points itself); the descriptor and the slots are the
// supervisor's and outlive it.
//
// One thread, one slot: a slot is filled by the kernel, and freed after the kernel took the answer. A thread that
// starts first finishes what its predecessor in a dead worker had in hand.

package import BlockIO
import CFuse
import Glibc
import Synchronization

package final class FuseSession: @unchecked Sendable {
    // Sendable: `threads` is touched by the owner's thread only (start, wait); all else is immutable or atomic.

    /// Why serving ended.
    package enum End: Equatable, Sendable {
        case unmounted
        case stopped
        case failed(SystemError)
    }

    static let hotReaders = 2
    private static let wakeSignal = SIGUSR2

    let device: Int32
    let slots: SlotMemory
    let tree: ExportTree
    private let gate: ReaderGate
    private let end = Mutex<End?>(nil)
    private var threads: [NativeThread] = []
    let log: @Sendable (String) -> Void

    /// `device` stays the caller's and must outlive the session.
    package init(device: Int32, slots: SlotMemory, tree: ExportTree, log: @escaping @Sendable (String) -> Void) {
        self.device = device
        self.slots = slots
        self.tree = tree
        self.log = log
        gate = ReaderGate(hotReaders: FuseSession.hotReaders)
    }

    package func start() throws(SystemError) {
        FuseSession.installWakeSignal()
        for index in 0..<slots.slotCount {
            guard let thread = NativeThread.start("fuse-\(index)", { [self] in readRequests(slots.slot(index)) }) else {
                throw SystemError(errno: EAGAIN, operation: "start reader thread \(index)", path: "fuse")
            }
            threads.append(thread)
        }
    }

    /// Lets the readers finish the requests they hold and end; the mount stays.
    package func requestStop() {
        end.withLock { if $0 == nil { $0 = .stopped } }
        gate.stop()
    }

    /// Waits until all readers have ended and says why. Call once.
    package func wait() -> End {
        for thread in threads {
            // A reader may enter read(2) just after it looked at the stop flag: the signal is repeated until it is out.
            while !thread.hasEnded {
                if gate.isStopping { thread.interrupt(FuseSession.wakeSignal) }
                usleep(gate.isStopping ? 1_000 : 20_000)
            }
            thread.join()
        }
        threads = []
        return end.withLock { $0 ?? .stopped }
    }

    private func finish(_ reason: End) {
        end.withLock { if $0 == nil { $0 = reason } }
        gate.stop()
    }

    /// A handler that does nothing, without SA_RESTART: read(2) returns EINTR.
    private static func installWakeSignal() {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        sigaction(wakeSignal, &action, nil)
    }

    private func readRequests(_ slot: Slot) {
        if !slot.isFree {
            RequestExecution(session: self, slot: slot, isRecovered: true).run()
            slot.release()
        }
        while gate.enter() {
            slot.release()
            let count = read(device, slot.head, Slot.headBytes + slot.payloadBytes)
            let code = errno
            gate.leave()
            if count >= MemoryLayout<fuse_in_header>.size {
                RequestExecution(session: self, slot: slot, isRecovered: false).run()
                slot.release()
            } else if count < 0, !keepsReading(code) {
                return
            }
        }
    }

    private func keepsReading(_ code: Int32) -> Bool {
        switch code {
        case EINTR, EAGAIN, ENOENT: return true
        case ENODEV, ECONNABORTED: finish(.unmounted)
        default: finish(.failed(SystemError(errno: code, operation: "read requests", path: "/dev/fuse")))
        }
        return false
    }
}
