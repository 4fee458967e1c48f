// Lets progress through to the catalogue at most twice a second: each note there is a durable write.

import BlockIO
import Synchronization

package final class ProgressGate: Sendable {
    private static let intervalNanoseconds: UInt64 = 500_000_000

    private let last = Mutex<UInt64>(0)

    package init() {}

    /// Called by every thread that sends. The time is taken under the lock, so that none lies before the last one.
    package func opens(isLast: Bool) -> Bool {
        last.withLock { last in
            let now = Clock.monotonicNanoseconds()
            guard isLast || now - last >= Self.intervalNanoseconds else { return false }
            last = now
            return true
        }
    }
}
