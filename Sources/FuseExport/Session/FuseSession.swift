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
    private let spares: SpareReaders
    private let end = Mutex<End?>(nil)
    private var threads: [OwnThread] = []
    /// Reader threads that have not ended.
    private let running = Atomic<Int>(0)
    private let monitor = Monitor()
    /// A stop began, or the last reader ended.
    private let ending = Signal()
    let log: @Sendable (String) -> Void

    /// `device` stays the caller's and must outlive the session.
    package init(device: Int32, slots: SlotMemory, tree: ExportTree, spares: SpareReaders, log: @escaping @Sendable (String) -> Void) {
        self.spares = spares
        self.device = device
        self.slots = slots
        self.tree = tree
        self.log = log
        gate = ReaderGate(hotReaders: FuseSession.hotReaders)
    }

    package func start() throws(SystemError) {
        FuseSession.installWakeSignal()
        for index in 0..<slots.slotCount + slots.spareCount {
            do throws(SystemError) {
                try startReader(index)
            } catch {
                running.subtract(1, ordering: .relaxed)
                // A spare with a request of a predecessor in it is as needed as any other.
                guard index >= slots.slotCount, slots.slot(index).isFree else { throw error }
                log("fewer requests go on beside writes that wait for room: \(error)")
            }
        }
    }

    private func startReader(_ index: Int) throws(SystemError) {
        running.add(1, ordering: .relaxed)
        threads.append(try OwnThread(name: "fuse-\(index)") { [self] in
            if index < slots.slotCount { readRequests(slots.slot(index)) } else { readInPlaceOfWaiting(index) }
            if running.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 { wakeWaiter() }
        })
    }

    /// Lets the readers finish the requests they hold and end; the mount stays.
    package func requestStop() {
        finish(.stopped)
    }

    /// Waits until all readers have ended and says why. Call once.
    package func wait() -> End {
        while running.load(ordering: .acquiring) > 0 {
            // A reader may enter read(2) just after it looked at the stop flag: the signal is repeated until all are out.
            if gate.isStopping { for thread in threads { thread.interrupt(FuseSession.wakeSignal) } }
            monitor.lock()
            if running.load(ordering: .acquiring) > 0 { monitor.wait(for: ending, milliseconds: gate.isStopping ? 1 : 1_000) }
            monitor.unlock()
        }
        for thread in threads { thread.join() }
        threads = []
        return end.withLock { $0 ?? .stopped }
    }

    /// Returns when no request on the removed files is being executed, so that their disk may be closed. Requests that
    /// come later find the files gone.
    package func waitUntilUnused(_ files: ExportTree.RemovedFiles) {
        // A reader looks at the file's mark after the kernel filled its slot. The pause lets a mark or a slot that is on
        // its way through another core's store buffer arrive before the second look.
        for _ in 0..<2 {
            for index in 0..<slots.slotCount + slots.spareCount {
                let seen = slots.slot(index).header
                guard seen.len != 0, files.ids.contains(seen.nodeid) else { continue }
                while case let header = slots.slot(index).header, header.len != 0, header.unique == seen.unique { usleep(200) }
            }
            usleep(1_000)
        }
    }

    private func finish(_ reason: End) {
        end.withLock { if $0 == nil { $0 = reason } }
        gate.stop()
        spares.stop(threads: slots.spareCount)
        wakeWaiter()
    }

    private func wakeWaiter() {
        monitor.lock()
        ending.wakeAll()
        monitor.unlock()
    }

    /// A handler that does nothing, without SA_RESTART: read(2) returns EINTR.
    private static func installWakeSignal() {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        sigaction(wakeSignal, &action, nil)
    }

    /// A spare slot has memory only while it is used.
    private func readInPlaceOfWaiting(_ index: Int) {
        let slot = slots.slot(index)
        if !slot.isFree {
            lockSpare(index)
            finishRecovered(slot)
            slots.releaseSpare(index)
        }
        while spares.enter() {
            // Others do without it: then requests wait behind the writes that wait for room.
            guard lockSpare(index) else {
                spares.leave()
                continue
            }
            readRequests(slot, asOneOf: spares)
            slots.releaseSpare(index)
        }
    }

    @discardableResult
    private func lockSpare(_ index: Int) -> Bool {
        do throws(SystemError) { try slots.lockSpare(index) } catch {
            log("\(error)")
            return false
        }
        return true
    }

    private func finishRecovered(_ slot: Slot) {
        guard !slot.isFree else { return }
        RequestExecution(session: self, slot: slot, isRecovered: true).run()
        slot.release()
    }

    private func readRequests(_ slot: Slot, asOneOf spares: SpareReaders? = nil) {
        finishRecovered(slot)
        while gate.enter(asOneOf: spares) {
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
