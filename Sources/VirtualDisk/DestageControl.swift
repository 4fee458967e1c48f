// Who may destage and why it stands still: the frozen sequence, the last error, the background thread.

import BlockIO
import Synchronization

final class DestageControl: Sendable {
    struct State {
        var frozenSequence: UInt64?
        /// Why the last batch failed; nil after one that worked.
        var error: DiskError?
        /// Why the image's last flush failed; a raw image or VHD stays failed until it is opened again.
        var imageFailure: SystemError?
        /// Space ran out: one segment at a time, with the log's reserve, until the reserve is back.
        var isTight = false
        /// Ranges of the map that may be empty and were busy when their memory was to be given back.
        var untrimmedRanges: Set<Int> = []
        /// The same of pages of covers.
        var untrimmedCoverPages: Set<Int> = []
    }

    /// Held for a whole batch: a freeze, a merge and the background thread take turns.
    let turn = Mutex<Void>(())
    /// The background thread is to end: a batch in progress is given up between two writes, however slow the image is.
    let isStopping = Atomic<Bool>(false)
    let state: Mutex<State>
    let thread = Mutex<OwnThread?>(nil)
    /// Threads that wait for the turn, or have it and wait for a merge: no rest meanwhile.
    let hurried = Atomic<Int>(0)

    /// Takes the turn for a caller who waits.
    func withTurnNow<R>(_ body: () throws -> R) throws -> R {
        hurried.add(1, ordering: .relaxed)
        defer { hurried.subtract(1, ordering: .relaxed) }
        return try turn.withLock { _ in try body() }
    }

    init(frozenSequence: UInt64?) {
        state = Mutex(State(frozenSequence: frozenSequence))
    }

    var frozenSequence: UInt64? { state.withLock { $0.frozenSequence } }
}
