// A change of the worker's program, as a state machine: trial, a look whether the worker waits for storage, then it hands over,
// then the new one starts. The program before is kept until the new one serves, and takes its place again when it does not.

import BlockIO
import Glibc

/// What came of an upgrade, for whoever asked.
package struct UpgradeOutcome: Equatable, Sendable {
    package let oldVersion: String
    package let newVersion: String
    /// From the order to hand over until the successor served.
    package let pauseMilliseconds: Int
    /// Why the old program serves on; nil when the new one does.
    package let failure: String?

    package init(oldVersion: String, newVersion: String, pauseMilliseconds: Int, failure: String?) {
        self.oldVersion = oldVersion
        self.newVersion = newVersion
        self.pauseMilliseconds = pauseMilliseconds
        self.failure = failure
    }
}

struct WorkerUpgrade {
    /// A worker with a thread that waits for storage for so long is not asked to hand over: it could not end.
    static let storageWaitMilliseconds: UInt64 = 2_000
    /// A worker that has not handed over by then is killed: the slots keep what it has in hand.
    static let handOverMilliseconds: UInt64 = 5_000
    /// A new worker that does not serve by then gives way to the old program.
    static let startMilliseconds: UInt64 = 60_000

    enum Step: Equatable { case trial, look(version: String, deadline: UInt64), handOver(deadline: UInt64), starting(deadline: UInt64) }

    private(set) var step = Step.trial
    private var began: UInt64 = 0

    /// The program has passed its trial, and some thread of the worker waits for storage.
    mutating func beginLook(version: String, now: UInt64) {
        step = .look(version: version, deadline: now + Self.storageWaitMilliseconds * 1_000_000)
    }

    /// The worker was told to hand over.
    mutating func beginHandOver(now: UInt64) {
        began = now
        step = .handOver(deadline: now + Self.handOverMilliseconds * 1_000_000)
    }

    /// The old worker is gone, its successor starts.
    mutating func beginStart(now: UInt64) {
        if began == 0 { began = now }
        step = .starting(deadline: now + Self.startMilliseconds * 1_000_000)
    }

    /// Whether the worker has used up its time in this step.
    func isOverdue(now: UInt64) -> Bool {
        switch step {
        case .trial: false
        case .look(_, let deadline), .handOver(let deadline), .starting(let deadline): now > deadline
        }
    }

    /// It may wait for storage, killed or not.
    mutating func waitOn(now: UInt64) {
        step = isStarting ? .starting(deadline: now + Self.handOverMilliseconds * 1_000_000) : .handOver(deadline: now + Self.handOverMilliseconds * 1_000_000)
    }

    var isStarting: Bool { if case .starting = step { true } else { false } }

    func pauseMilliseconds(now: UInt64) -> Int { began == 0 ? 0 : Int(clamping: (now - began) / 1_000_000) }
}
