// Cuts a point on each disk at its interval, if anything was written since its last one. Runs in the worker; a cut
// holds no write. A failed cut (the log is full) is tried again at the next interval: health says what is wrong.

import BlockIO
import ChangeLog
import Glibc
import VirtualDisk

final class PointInterval: @unchecked Sendable {
    // Sendable: `isStopping` is guarded by `monitor`, the schedule belongs to the thread.
    private struct Schedule {
        var due: UInt64
        /// The sequence of the last point; 0 before the first, so that what a predecessor left gets a point soon.
        var lastPoint: UInt64
    }

    private static let pauseMillisecondsMax = 1_000

    private let disks: MountedDisks
    private let monitor = Monitor()
    private let stopping = Signal()
    private var isStopping = false
    private var thread: OwnThread?

    init(disks: MountedDisks) throws(SystemError) {
        self.disks = disks
        thread = try OwnThread(name: "points") { [self] in run() }
    }

    /// Returns when no cut is under way.
    func stop() {
        monitor.lock()
        isStopping = true
        stopping.wakeAll()
        monitor.unlock()
        thread?.join()
        thread = nil
    }

    private func run() {
        var schedules: [String: Schedule] = [:]
        while true {
            let now = Clock.monotonicNanoseconds()
            let entries = disks.all()
            schedules = schedules.filter { name, _ in entries.contains { $0.disk.name == name } }
            for entry in entries where entry.intervalSeconds > 0 {
                let interval = UInt64(entry.intervalSeconds) * 1_000_000_000
                var schedule = schedules[entry.disk.name] ?? Schedule(due: now + interval, lastPoint: 0)
                if now >= schedule.due {
                    cut(entry.disk, &schedule)
                    // From the plan, not from now: the points keep their pace. After a standstill only one is made up for.
                    schedule.due = max(schedule.due + interval, now)
                }
                schedules[entry.disk.name] = schedule
            }
            let next = schedules.values.map(\.due).min() ?? .max
            guard pause(untilNanoseconds: next) else { return }
        }
    }

    private func cut(_ disk: VirtualDisk, _ schedule: inout Schedule) {
        guard disk.status.log.lastSequence > schedule.lastPoint else { return }
        do throws(SystemError) {
            schedule.lastPoint = try VirtualDisk.cutPoint([disk], tag: "")
        } catch {
            serviceLog("\(disk.name): no point could be cut: \(error)")
        }
    }

    /// False when stopping.
    private func pause(untilNanoseconds due: UInt64) -> Bool {
        let now = Clock.monotonicNanoseconds()
        let milliseconds = due > now ? Int(clamping: (due - now) / 1_000_000) + 1 : 0
        monitor.lock()
        defer { monitor.unlock() }
        if !isStopping, milliseconds > 0 { monitor.wait(for: stopping, milliseconds: min(milliseconds, PointInterval.pauseMillisecondsMax)) }
        return !isStopping
    }
}
