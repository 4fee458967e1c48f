// Tells the uploader's threads to end: new work is not begun after `stop`, and work in progress may finish until the
// drain time is over. Set by a signal's thread, asked by every thread between two objects.

import BlockIO
import Foundation
import Synchronization

package final class StopFlag: Sendable {
    /// How long deltas in progress may go on after the stop was asked for.
    package static let drainSeconds: UInt64 = 30

    private let stopped = Mutex<UInt64?>(nil)
    private let changed = NSCondition()

    package init() {}

    package func stop() {
        stopped.withLock { $0 = $0 ?? Clock.monotonicNanoseconds() }
        changed.lock()
        changed.broadcast()
        changed.unlock()
    }

    package var isStopping: Bool { stopped.withLock { $0 != nil } }

    /// The drain time is over as well.
    package var isOver: Bool {
        guard let since = stopped.withLock({ $0 }) else { return false }
        return Clock.monotonicNanoseconds() - since > Self.drainSeconds * 1_000_000_000
    }

    /// Sleeps for at most `milliseconds`, shorter when `stop` comes.
    package func sleep(milliseconds: Int) {
        changed.lock()
        defer { changed.unlock() }
        if !isStopping { _ = changed.wait(until: Date(timeIntervalSinceNow: Double(milliseconds) / 1000)) }
    }
}

/// The attempt ended because the uploader is stopping: no failure of the disk.
package struct Stopped: Error {}
