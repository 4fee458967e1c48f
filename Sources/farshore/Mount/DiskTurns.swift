// One thread at a time opens, freezes or releases a disk. Those of other disks do not wait for it: its storage may hang.

import BlockIO
import Glibc
import Synchronization

final class DiskTurns: @unchecked Sendable {
    // Sendable: `taken` is guarded by `monitor`.
    private let monitor = Monitor()
    private let ended = Signal()
    private var taken: Set<String> = []

    func withTurn<R>(of disk: String, _ body: () throws -> R) rethrows -> R {
        monitor.lock()
        while taken.contains(disk) { monitor.wait(for: ended) }
        taken.insert(disk)
        monitor.unlock()
        defer {
            monitor.lock()
            taken.remove(disk)
            ended.wakeAll()
            monitor.unlock()
        }
        return try body()
    }
}

/// Attempts that may hang, each on a thread of its own: never two of one disk, and at most `attemptsMax` at a time.
final class DiskAttempts: Sendable {
    private static let attemptsMax = 8
    private static let waitSecondsMax: UInt64 = 10

    private final class Attempt: Sendable {
        let isOver = Atomic<Bool>(false)
        let thread = Mutex<OwnThread?>(nil)
    }

    private let running = Mutex<[String: Attempt]>([:])

    /// Begins those that are not under way.
    func begin(_ disks: [String], _ body: @escaping @Sendable (String) -> Void) {
        running.withLock { running in
            for (disk, attempt) in running where attempt.isOver.load(ordering: .acquiring) {
                attempt.thread.withLock { $0.take() }?.join()
                running[disk] = nil
            }
            for disk in disks where running[disk] == nil && running.count < Self.attemptsMax {
                let attempt = Attempt()
                // Where no thread can be had the next look tries again.
                guard let thread = try? OwnThread(name: "reopen", { body(disk); attempt.isOver.store(true, ordering: .releasing) }) else { return }
                attempt.thread.withLock { $0 = thread }
                running[disk] = attempt
            }
        }
    }

    /// Returns when none is under way, or those that are have been waited for long enough: an opening whose storage hangs must
    /// not keep the disks that are open from being closed. It leaves what a kill leaves.
    func wait() {
        let all = running.withLock { running in
            defer { running = [:] }
            return Array(running.values)
        }
        let deadline = Clock.monotonicNanoseconds() + Self.waitSecondsMax * 1_000_000_000
        for attempt in all {
            while !attempt.isOver.load(ordering: .acquiring), Clock.monotonicNanoseconds() < deadline { usleep(10_000) }
            guard attempt.isOver.load(ordering: .acquiring) else { continue }
            attempt.thread.withLock { $0.take() }?.join()
        }
    }
}
