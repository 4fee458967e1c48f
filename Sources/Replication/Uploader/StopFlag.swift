// Tells the uploader's threads to end: new work is not begun after `stop`, and work in progress may finish until the
// drain time is over. Set by a signal's thread, asked by every thread between two objects.

import BlockIO
import Synchronization

package final class StopFlag: Sendable {
    /// How long deltas in progress may go on after the stop was asked for.
    package static let drainSeconds: UInt64 = 30

    private let stopped = Mutex<UInt64?>(nil)
    /// Waits by the monotonic clock: by another, a wall clock that is set back would make a second's wait one of years.
    private let monitor = Monitor()
    private let changed = Signal()

    package init() {}

    package func stop() {
        stopped.withLock { $0 = $0 ?? Clock.monotonicNanoseconds() }
        monitor.lock()
        changed.wakeAll()
        monitor.unlock()
    }

    package var isStopping: Bool { stopped.withLock { $0 != nil } }

    /// The drain time is over as well.
    package var isOver: Bool {
        guard let since = stopped.withLock({ $0 }) else { return false }
        return Clock.monotonicNanoseconds() - since > Self.drainSeconds * 1_000_000_000
    }

    /// Sleeps for at most `milliseconds`, shorter when `stop` comes.
    package func sleep(milliseconds: Int) {
        monitor.lock()
        defer { monitor.unlock() }
        if !isStopping { monitor.wait(for: changed, milliseconds: milliseconds) }
    }
}

/// The attempt ended because the uploader is stopping: no failure of the disk.
package struct Stopped: Error {}

/// The attempt ended because a person paused the disk: no failure of it.
struct Paused: Error, CustomStringConvertible {
    var description: String { "the upload was paused" }
}
