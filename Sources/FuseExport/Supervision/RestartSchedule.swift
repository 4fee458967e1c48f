// When a successor of a dead worker starts: at once, unless workers die at once, then after growing waits. There is no
// last attempt: while the supervisor lives, guests wait and get no error.

struct RestartSchedule {
    static let quickDeathMilliseconds = 250
    static let delayMillisecondsMax = 5_000

    private var quickDeaths = 0

    /// The wait before the next start, given how long the dead worker had lived and whether it had come to serve.
    mutating func delayMilliseconds(livedMilliseconds: Int, wasReady: Bool) -> Int {
        guard livedMilliseconds < RestartSchedule.quickDeathMilliseconds || !wasReady else {
            quickDeaths = 0
            return 0
        }
        quickDeaths += 1
        if quickDeaths == 1 { return 0 }
        return min(10 << min(quickDeaths, 10), RestartSchedule.delayMillisecondsMax)
    }
}
