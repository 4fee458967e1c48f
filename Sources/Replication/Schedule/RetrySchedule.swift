// How long to wait after an attempt failed for a reason that may pass: 1, 2, 4, 8, 10 minutes, then every 30 minutes.
// A request's own quick retries (seconds) belong to its attempt and are the store's business, not this one's.

package struct RetrySchedule: Equatable, Sendable {
    package static let waitsSeconds: [UInt64] = [60, 120, 240, 480, 600]
    package static let laterWaitSeconds: UInt64 = 1800

    /// Attempts that failed since the last that succeeded.
    package private(set) var failures = 0

    package init() {}

    /// Counts a failed attempt; the seconds to wait before the next.
    package mutating func failed() -> UInt64 {
        defer { failures += 1 }
        return failures < Self.waitsSeconds.count ? Self.waitsSeconds[failures] : Self.laterWaitSeconds
    }

    package mutating func succeeded() { failures = 0 }
}
