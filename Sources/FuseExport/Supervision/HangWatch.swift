// When a worker counts as hung: requests are in hand or wait in the kernel, and for a stated time none was finished or begun, nothing was written
// anywhere, and no thread waited for storage. A pure state machine over samples; ThreadStates.swift takes them.
//
// Time is counted in samples, not by the clock: while the supervisor itself stands still (a frozen group, a paused
// machine) nothing is held against the worker.

package struct HangWatch {
    package struct Sample: Equatable, Sendable {
        /// In hand, and one more when some wait in the kernel.
        package var requestsInHand: Int
        /// Changes with every request that is begun or finished.
        package var requestMark: UInt64
        /// Bytes the process has written by any call.
        package var writtenBytes: UInt64
        /// Some thread is in uninterruptible sleep, or a debugger holds one.
        package var waitsForOthers: Bool

        package init(requestsInHand: Int, requestMark: UInt64, writtenBytes: UInt64, waitsForOthers: Bool) {
            self.requestsInHand = requestsInHand
            self.requestMark = requestMark
            self.writtenBytes = writtenBytes
            self.waitsForOthers = waitsForOthers
        }
    }

    package enum Verdict: Equatable, Sendable {
        case fine
        /// It stands still because storage (or a debugger) does; said once each time.
        case waits
        case movesAgain
        case hung
    }

    let limitMilliseconds: Int
    private var last: Sample?
    private var stillMilliseconds = 0
    private var waitingMilliseconds = 0
    private var saidWaiting = false

    package init(limitMilliseconds: Int) { self.limitMilliseconds = limitMilliseconds }

    /// How often to look.
    package var sampleMilliseconds: Int { min(1_000, max(50, limitMilliseconds / 10)) }

    /// `sample` was taken one interval after the one before.
    package mutating func note(_ sample: Sample) -> Verdict {
        defer { last = sample }
        guard let last, sample.requestsInHand > 0, sample.requestMark == last.requestMark, sample.writtenBytes == last.writtenBytes else {
            return moved()
        }
        if sample.waitsForOthers {
            stillMilliseconds = 0
            waitingMilliseconds += sampleMilliseconds
            guard waitingMilliseconds >= limitMilliseconds, !saidWaiting else { return .fine }
            saidWaiting = true
            return .waits
        }
        stillMilliseconds += sampleMilliseconds
        guard stillMilliseconds >= limitMilliseconds else { return .fine }
        _ = moved()
        return .hung
    }

    private mutating func moved() -> Verdict {
        let wasWaiting = saidWaiting
        stillMilliseconds = 0
        waitingMilliseconds = 0
        saidWaiting = false
        return wasWaiting ? .movesAgain : .fine
    }
}
