// How many threads wait in read(2). Two hot readers answer a single stream of requests fastest (their caches are warm,
// nobody else is woken); requests that block for long need many threads. So at most `hotReaders` wait in the kernel,
// the others are parked, and whoever leaves the kernel with a request as the last one wakes one of them.
// Used by the session's reader threads only.

import Glibc
import Synchronization

final class ReaderGate: @unchecked Sendable {
    // Sendable: the semaphore is made and destroyed once; everything else is atomic.
    private let reading = Atomic<Int>(0)
    private let parked = Atomic<Int>(0)
    private let stopping = Atomic<Bool>(false)
    private let seat: UnsafeMutablePointer<sem_t>
    private let hotReaders: Int

    init(hotReaders: Int) {
        self.hotReaders = hotReaders
        seat = .allocate(capacity: 1)
        sem_init(seat, 0, 0)
    }

    deinit {
        sem_destroy(seat)
        seat.deallocate()
    }

    var isStopping: Bool { stopping.load(ordering: .acquiring) }

    /// Returns when the caller is to read the next request; false when the session stops, or when the caller is one of
    /// `spares` and is needed no more.
    func enter(asOneOf spares: SpareReaders? = nil) -> Bool {
        while !isStopping {
            if let spares, spares.retire() {
                // It may have been woken to read.
                if reading.load(ordering: .sequentiallyConsistent) == 0, takeParked() { sem_post(seat) }
                return false
            }
            if reading.add(1, ordering: .sequentiallyConsistent).oldValue < hotReaders { return true }
            reading.subtract(1, ordering: .sequentiallyConsistent)
            parked.add(1, ordering: .sequentiallyConsistent)
            // Between the two, all readers may have left without seeing anyone to wake: then do not sleep. When a
            // waker was faster, its post is ours to take.
            if reading.load(ordering: .sequentiallyConsistent) == 0 || isStopping, takeParked() { continue }
            while sem_wait(seat) != 0 {}
        }
        return false
    }

    /// The caller has a request in hand (or an error).
    func leave() {
        if reading.subtract(1, ordering: .sequentiallyConsistent).newValue == 0, takeParked() { sem_post(seat) }
    }

    func stop() {
        stopping.store(true, ordering: .sequentiallyConsistent)
        while takeParked() { sem_post(seat) }
    }

    private func takeParked() -> Bool {
        var seen = parked.load(ordering: .sequentiallyConsistent)
        while seen > 0 {
            let (exchanged, original) = parked.weakCompareExchange(expected: seen, desired: seen - 1, ordering: .sequentiallyConsistent)
            if exchanged { return true }
            seen = original
        }
        return false
    }
}
