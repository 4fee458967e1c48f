// Cuts a point at each interval, one number over all disks that share points, if anything was written to one of them
// since the last. Runs in the worker; a cut holds no write. Where a disk cannot take part (not served, log full or failed)
// none of them gets the point; that is tried again at the next interval, and health and events say what is wrong.

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

    /// A disk or group that was added is noticed after this at the latest.
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
            let groups = present()
            schedules = schedules.filter { id, _ in groups.contains { $0.id == id } }
            for group in groups where group.intervalSeconds > 0 {
                let interval = UInt64(group.intervalSeconds) * 1_000_000_000
                var schedule = schedules[group.id] ?? Schedule(due: now + interval, lastPoint: 0)
                if now >= schedule.due {
                    cut(group, &schedule)
                    // From the plan, not from now: the points keep their pace. After a standstill only one is made up for.
                    schedule.due = max(schedule.due + interval, now)
                }
                schedules[group.id] = schedule
            }
            let next = schedules.values.map(\.due).min() ?? .max
            guard pause(untilNanoseconds: next) else { return }
        }
    }

    private func present() -> [PointGroups.Group] {
        do {
            return try disks.points.groups(served: disks.all().map(\.disk))
        } catch {
            serviceLog("no point is cut, for it cannot be looked up which disks share points: \(error)")
            return []
        }
    }

    private func cut(_ group: PointGroups.Group, _ schedule: inout Schedule) {
        guard group.disks.contains(where: { $0.status.log.lastSequence > schedule.lastPoint }) else { return }
        if let obstacle = group.obstacle {
            disks.points.note(obstacle, of: group)
            return
        }
        do throws(SystemError) {
            schedule.lastPoint = try VirtualDisk.cutPoint(group.disks, tag: "")
            disks.points.note(nil, of: group)
        } catch {
            disks.points.note("no point could be cut: \(error)", of: group)
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
