// Reader threads beside the usual ones: a write that waits for room in a log keeps its thread and slot, and for each of them
// one spare thread reads on in its place, so that reads and other disks do not wait behind it. Told by the logs, asked by
// the session's spare threads.

import Glibc
import Synchronization

package final class SpareReaders: @unchecked Sendable {
    // Sendable: the semaphore is made and destroyed once; everything else is atomic.
    private let waiting = Atomic<Int>(0)
    private let active = Atomic<Int>(0)
    private let stopping = Atomic<Bool>(false)
    private let seat: UnsafeMutablePointer<sem_t>

    package init() {
        seat = .allocate(capacity: 1)
        sem_init(seat, 0, 0)
    }

    deinit {
        sem_destroy(seat)
        seat.deallocate()
    }

    /// A thread with a request in hand begins or ends to wait for room. Takes no lock: called under the log's.
    package func note(waits: Bool) {
        if waits {
            waiting.add(1, ordering: .sequentiallyConsistent)
            sem_post(seat)
        } else {
            waiting.subtract(1, ordering: .sequentiallyConsistent)
        }
    }

    /// Returns when the calling spare thread is needed; false when the session stops.
    func enter() -> Bool {
        while !stopping.load(ordering: .acquiring) {
            while sem_wait(seat) != 0 {}
            if take() { return true }
        }
        return false
    }

    /// Whether the caller, a spare thread at work, is one too many: then it works no more.
    func retire() -> Bool {
        var seen = active.load(ordering: .sequentiallyConsistent)
        while seen > waiting.load(ordering: .sequentiallyConsistent) {
            let (exchanged, original) = active.weakCompareExchange(expected: seen, desired: seen - 1, ordering: .sequentiallyConsistent)
            // A wait that began meanwhile may have woken one that still saw the caller at work.
            if exchanged { return !take() }
            seen = original
        }
        return false
    }

    /// The caller cannot work after all.
    func leave() { active.subtract(1, ordering: .sequentiallyConsistent) }

    /// Never more than are needed, not for a moment: one that retires would go by it.
    private func take() -> Bool {
        var seen = active.load(ordering: .sequentiallyConsistent)
        while seen < waiting.load(ordering: .sequentiallyConsistent) {
            let (exchanged, original) = active.weakCompareExchange(expected: seen, desired: seen + 1, ordering: .sequentiallyConsistent)
            if exchanged { return true }
            seen = original
        }
        return false
    }

    func stop(threads: Int) {
        stopping.store(true, ordering: .sequentiallyConsistent)
        for _ in 0..<threads { sem_post(seat) }
    }
}
