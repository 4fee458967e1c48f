// Progress of long work on stderr: a bar with rate and time left on a terminal, a plain line every ten seconds
// otherwise. Used by upload, restore and convert; any thread may call `update`.

import BlockIO
import Foundation
import Glibc
import Synchronization

final class Progress: Sendable {
    private static let terminalInterval: UInt64 = 200_000_000
    private static let plainInterval: UInt64 = 10_000_000_000
    private static let barWidth = 24

    private struct State {
        var lastShown: UInt64 = 0
        var done: UInt64 = 0
        var total: UInt64 = 0
        /// Done already when the work began (a resumed restore): no part of the rate.
        var doneAtStart: UInt64?
    }

    private let label: String
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private let started = Clock.monotonicNanoseconds()
    private let state = Mutex(State())

    init(_ label: String) { self.label = label }

    func update(doneBytes: UInt64, totalBytes: UInt64) {
        let line: String? = state.withLock { state in
            // Under the lock: several threads come here, and a time taken before another's may come after it.
            let now = Clock.monotonicNanoseconds()
            if state.doneAtStart == nil { state.doneAtStart = doneBytes }
            state.done = doneBytes
            state.total = totalBytes
            guard now - state.lastShown >= (isTerminal ? Self.terminalInterval : Self.plainInterval) else { return nil }
            state.lastShown = now
            return render(state, now: now)
        }
        if let line { show(line, isLast: false) }
    }

    /// The last state, and the end of the bar's line.
    func finish() {
        let line = state.withLock { render($0, now: Clock.monotonicNanoseconds()) }
        show(line, isLast: true)
    }

    private func show(_ line: String, isLast: Bool) {
        let text = isTerminal ? "\r\u{1B}[K\(line)" + (isLast ? "\n" : "") : line + "\n"
        let bytes = Array(text.utf8)
        _ = write(STDERR_FILENO, bytes, bytes.count)
    }

    private func render(_ state: State, now: UInt64) -> String {
        let seconds = max(Double(now - started) / 1e9, 0.001)
        let rate = Double(state.done - min(state.done, state.doneAtStart ?? 0)) / seconds
        let part = state.total == 0 ? 1 : min(Double(state.done) / Double(state.total), 1)
        var text = "\(label): "
        if isTerminal {
            let filled = Int(part * Double(Self.barWidth))
            text += "[" + String(repeating: "#", count: filled) + String(repeating: ".", count: Self.barWidth - filled) + "] "
        }
        text += String(format: "%3.0f %%  ", part * 100) + "\(bytesText(state.done)) of \(bytesText(state.total))"
        text += "  \(bytesText(UInt64(rate)))/s"
        if rate > 0, state.total > state.done { text += "  \(durationText(seconds: Double(state.total - state.done) / rate)) left" }
        return text
    }
}
