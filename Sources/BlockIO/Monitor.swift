// A mutex with signals: for state whose waiters sleep until another thread changes it (in-flight records, spare
// segments). Where nobody ever waits, `Mutex` is enough. The owner's class keeps the state and says what the lock protects.

import Glibc

package final class Monitor: @unchecked Sendable {
    // Sendable: a pthread mutex is made for use by many threads and never moves.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>

    package init() {
        mutex = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
    }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    package func lock() { pthread_mutex_lock(mutex) }
    package func unlock() { pthread_mutex_unlock(mutex) }

    /// Lets go of the lock until `signal` wakes, and takes it again. Wake-ups may be spurious: check the condition in a loop.
    package func wait(for signal: Signal) { pthread_cond_wait(signal.condition, mutex) }

    /// As above, but for at most `milliseconds`.
    package func wait(for signal: Signal, milliseconds: Int) {
        var until = timespec()
        clock_gettime(CLOCK_MONOTONIC, &until)
        let nanoseconds = until.tv_nsec + (milliseconds % 1000) * 1_000_000
        until.tv_sec += milliseconds / 1000 + nanoseconds / 1_000_000_000
        until.tv_nsec = nanoseconds % 1_000_000_000
        pthread_cond_timedwait(signal.condition, mutex, &until)
    }
}

/// What waiters of one kind wait for, so that the others are left asleep.
package final class Signal: @unchecked Sendable {
    // Sendable: as the monitor's mutex.
    fileprivate let condition: UnsafeMutablePointer<pthread_cond_t>

    package init() {
        condition = .allocate(capacity: 1)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    deinit {
        pthread_cond_destroy(condition)
        condition.deallocate()
    }

    package func wakeAll() { pthread_cond_broadcast(condition) }
}
