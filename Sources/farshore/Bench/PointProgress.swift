// How far a walk over recovery points is, on stderr: one line that is written over on a terminal, a new one every ten seconds otherwise.

import BlockIO
import Glibc

final class PointProgress {
    private static let plainInterval: UInt64 = 10_000_000_000

    private let total: Int
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private var lastShown = Clock.monotonicNanoseconds()

    init(total: Int) { self.total = total }

    func update(done: Int, looks: Int) {
        let now = Clock.monotonicNanoseconds()
        guard isTerminal || now - lastShown >= Self.plainInterval else { return }
        lastShown = now
        show((isTerminal ? "\r\u{1B}[K" : "") + "\(done) of \(total) points, \(looks) opened" + (isTerminal ? "" : "\n"))
    }

    func finish() {
        if isTerminal { show("\r\u{1B}[K") }
    }

    private func show(_ text: String) {
        let bytes = Array(text.utf8)
        _ = write(STDERR_FILENO, bytes, bytes.count)
    }
}
