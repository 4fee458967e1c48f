// When destage works and when it leaves the disk to the guest: a pure state machine over a monotonic clock. Destage and log
// share a device, so each block destaged while the guest is busy is one the guest waits behind; left undone it costs log
// space only. So, with `pending` the bytes that are sealed and not in the image:
//
//   guest idle, or somebody waits for destage ─► work, no rest
//   busy, pending below the low mark          ─► rest, and look again
//   busy, between low and high mark           ─► work in small windows, and rest after each: the less room, the shorter
//   busy, pending above the high mark         ─► work, no rest
//
// Destage can therefore be put off, never starved: what is put off is bounded by the low mark.

package struct DestagePace {
    /// The most the guest's traffic lets destage put off; less for a log whose quarter is less.
    package static let lowMarkBytesMax: UInt64 = 1 << 30
    /// A guest that writes or reads this much a second is busy.
    static let busyBytesPerSecond: UInt64 = 4 << 20
    static let sampleNanoseconds: UInt64 = 100_000_000
    /// What is written to the image and waited for at a time while the guest is busy.
    static let busyWindowBytes = 2 << 20
    static let idleWindowBytes = 16 << 20
    /// At the low mark destage rests this many times as long as it worked.
    static let restFactorMax: UInt64 = 3

    /// What destage looks at, taken at one moment.
    package struct Load {
        package var pendingBytes: UInt64
        package var budgetBytes: UInt64
        /// Counts up with all the guest's traffic.
        package var trafficBytes: UInt64
        /// A write, a freeze or a merge waits for destage.
        package var isAwaited: Bool

        package init(pendingBytes: UInt64, budgetBytes: UInt64, trafficBytes: UInt64, isAwaited: Bool) {
            self.pendingBytes = pendingBytes
            self.budgetBytes = budgetBytes
            self.trafficBytes = trafficBytes
            self.isAwaited = isAwaited
        }
    }

    private var sampledAt: UInt64
    private var sampledTraffic: UInt64
    private(set) var isGuestBusy = false

    package init(trafficBytes: UInt64, now: UInt64) {
        sampledAt = now
        sampledTraffic = trafficBytes
    }

    /// Call often: the guest's rate is measured between calls that are far enough apart.
    package mutating func note(_ load: Load, now: UInt64) {
        let passed = now &- sampledAt
        guard passed >= Self.sampleNanoseconds else { return }
        let bytes = load.trafficBytes &- sampledTraffic
        isGuestBusy = bytes / max(passed / 1_000_000, 1) >= Self.busyBytesPerSecond / 1000
        sampledAt = now
        sampledTraffic = load.trafficBytes
    }

    /// Whether a batch may begin.
    package func mayBegin(_ load: Load) -> Bool {
        !isGuestBusy || load.isAwaited || load.pendingBytes >= lowMark(load)
    }

    /// How much to write to the image before its write-back is waited for.
    package func windowBytes(_ load: Load) -> Int {
        isGuestBusy && !load.isAwaited ? Self.busyWindowBytes : Self.idleWindowBytes
    }

    /// How long to rest after a window that took `worked`.
    package func restNanoseconds(_ load: Load, worked: UInt64) -> UInt64 {
        let (low, high) = (lowMark(load), highMark(load))
        guard isGuestBusy, !load.isAwaited, load.pendingBytes < high else { return 0 }
        let room = high - max(load.pendingBytes, low)
        // In percent, so that no product overflows.
        return min(worked, Self.sampleNanoseconds) * (Self.restFactorMax * room * 100 / max(high - low, 1)) / 100
    }

    private func lowMark(_ load: Load) -> UInt64 { min(load.budgetBytes / 4, Self.lowMarkBytesMax) }
    private func highMark(_ load: Load) -> UInt64 { max(load.budgetBytes / 2, lowMark(load) + 1) }
}
