// The time by which the uploader's schedules run: that of the machine, or a test's own, by which hours pass in
// milliseconds. Requests, drains and bandwidth go by real time whatever this says.

import BlockIO

package struct UploadClock: Sendable {
    /// Nanoseconds, never going back.
    package let now: @Sendable () -> UInt64
    /// Waits so many milliseconds, shorter when the flag says to stop.
    package let sleep: @Sendable (Int, StopFlag) -> Void

    package init(now: @escaping @Sendable () -> UInt64, sleep: @escaping @Sendable (Int, StopFlag) -> Void) {
        self.now = now
        self.sleep = sleep
    }

    package static let system = UploadClock(now: { Clock.monotonicNanoseconds() }, sleep: { $1.sleep(milliseconds: $0) })
}
