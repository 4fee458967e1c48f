// When a disk is uploaded: a pure state machine over a monotonic clock in nanoseconds. The uploader's thread of the disk
// asks `begin`, does the attempt, and tells how it `ended`.
//
//   due ──begin──► attempting ──succeeded──► due (an interval after the attempt began)
//                      ├──failed, may pass──► retrying ──begin──► attempting
//                      ├──failed for good───► stopped ──resume──► due
//                      └──fenced────────────► fenced (until the uploader is started again)

package struct UploadCycle: Equatable, Sendable {
    package enum State: Equatable, Sendable {
        case due(at: UInt64)
        case attempting(since: UInt64)
        case retrying(at: UInt64)
        case stopped
        case fenced
    }

    package enum Outcome: Equatable, Sendable { case succeeded, mayPass, forGood, fenced }

    package private(set) var state: State
    package private(set) var retry = RetrySchedule()
    private var intervalNanoseconds: UInt64
    /// When the attempt began that the next one is an interval after.
    private var lastBegan: UInt64?

    package init(intervalSeconds: Int, now: UInt64) {
        intervalNanoseconds = UInt64(max(intervalSeconds, 1)) * 1_000_000_000
        state = .due(at: now)
    }

    /// When `begin` will next return true; nil when only `resume` or a new start helps.
    package var wakeAt: UInt64? {
        switch state {
        case .due(let time), .retrying(let time): time
        case .attempting, .stopped, .fenced: nil
        }
    }

    /// The last attempt failed; `resume` makes the next one due.
    package var isHalted: Bool {
        switch state {
        case .retrying, .stopped: true
        case .due, .attempting, .fenced: false
        }
    }

    /// Begins an attempt when one is due.
    package mutating func begin(now: UInt64) -> Bool {
        guard let time = wakeAt, now >= time else { return false }
        state = .attempting(since: now)
        lastBegan = now
        return true
    }

    /// Legal while attempting only; anything else leaves the state alone.
    package mutating func ended(_ outcome: Outcome, now: UInt64) {
        guard case .attempting(let since) = state else { return }
        switch outcome {
        case .succeeded:
            retry.succeeded()
            state = .due(at: max(now, since + intervalNanoseconds))
        case .mayPass:
            state = .retrying(at: now + retry.failed() * 1_000_000_000)
        case .forGood:
            state = .stopped
        case .fenced:
            state = .fenced
        }
    }

    /// The administrator mended the cause: the next attempt is due now.
    package mutating func resume(now: UInt64) {
        switch state {
        case .retrying, .stopped:
            retry.succeeded()
            state = .due(at: now)
        case .due, .attempting, .fenced:
            break
        }
    }

    /// The log fills up: the next attempt is due now, whatever the interval. Waits after a failure stay as they are.
    package mutating func hasten(now: UInt64) {
        if case .due(let time) = state, time > now { state = .due(at: now) }
    }

    /// The policy's interval; where it changed, the next attempt is an interval of the new length after the last one began.
    package mutating func setInterval(seconds: Int) {
        let interval = UInt64(max(seconds, 1)) * 1_000_000_000
        guard interval != intervalNanoseconds else { return }
        intervalNanoseconds = interval
        if case .due = state, let lastBegan { state = .due(at: lastBegan + interval) }
    }
}
