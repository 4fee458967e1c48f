// How far a walk over points or objects is, on stderr: one line that is written over on a terminal, a new one every ten seconds otherwise. Any
// thread may call `update`.

import BlockIO
import Glibc
import Synchronization

final class CountProgress: Sendable {
    private static let terminalInterval: UInt64 = 200_000_000
    private static let plainInterval: UInt64 = 10_000_000_000

    private let isTerminal = isatty(STDERR_FILENO) == 1
    /// Held while a line is written, so that none is written over a newer one.
    private let lastShown = Mutex(Clock.monotonicNanoseconds())

    func update(_ text: @autoclosure () -> String) {
        lastShown.withLock { last in
            let now = Clock.monotonicNanoseconds()
            guard now - last >= (isTerminal ? Self.terminalInterval : Self.plainInterval) else { return }
            last = now
            show(isTerminal ? "\r\u{1B}[K" + text() : text() + "\n")
        }
    }

    /// Before anything else is printed.
    func finish() {
        if isTerminal { show("\r\u{1B}[K") }
    }

    /// Of a check of a vault.
    func note(disk: String, done: Int, total: Int) { update("\(disk): \(done) of \(total) objects checked") }

    private func show(_ text: String) {
        let bytes = Array(text.utf8)
        _ = write(STDERR_FILENO, bytes, bytes.count)
    }
}
