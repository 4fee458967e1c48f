// Lets progress through to the catalogue at most twice a second: each note there is a durable write.

import BlockIO
import Synchronization

final class ProgressGate: Sendable {
    private static let intervalNanoseconds: UInt64 = 500_000_000

    private let last = Mutex<UInt64>(0)

    func opens(isLast: Bool) -> Bool {
        let now = Clock.monotonicNanoseconds()
        return last.withLock { last in
            guard isLast || now - last >= Self.intervalNanoseconds else { return false }
            last = now
            return true
        }
    }
}
