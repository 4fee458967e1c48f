// Cuts a point at each interval, one number over all disks that share points, if anything was written to one of them
// since the last. Runs in the worker; a cut holds no write. Where a disk cannot take part (not served, log full or failed)
// none of them gets the point; that is tried again at the next interval, and health and events say what is wrong.
// A log whose storage hangs holds up the thread that cuts there: others go on with the points of other disks.

import BlockIO
import ChangeLog
import Glibc
import VirtualDisk

final class PointInterval: @unchecked Sendable {
    // Sendable: every `var` is guarded by `monitor`, but for `planner`, which belongs to the owner.
    private struct Schedule {
        var due: UInt64
        var interval: UInt64
        /// When an app-consistent point is due; nil where none is wanted.
        var appDue: UInt64?
        var wantsApp = false
        /// The sequence of the last point; 0 before the first, so that what a predecessor left gets a point soon.
        var lastPoint: UInt64
        /// It waits for a thread, or one is cutting it.
        var isUnderWay = false
    }

    /// A disk or group that was added is noticed after this at the latest.
    private static let pauseMillisecondsMax = 1_000
    /// One is enough while all logs answer. With so many held up the points of all others wait.
    private static let cuttersMax = 16
    private static let stopSecondsMax: UInt64 = 10
    /// After a start, so that an interval of days comes about although workers are replaced in between.
    private static let firstAppSeconds: UInt64 = 60

    private let disks: MountedDisks
    private let monitor = Monitor()
    private let stopping = Signal()
    private let work = Signal()
    private let ended = Signal()
    private var isStopping = false
    private var schedules: [String: Schedule] = [:]
    private var queue: [PointGroups.Group] = []
    private var cutterCount = 0
    private var idleCount = 0
    /// Taken from the queue so far, and when the planner looked last.
    private var takenCount = 0
    private var takenAtLook = 0
    private var planner: OwnThread?

    init(disks: MountedDisks) throws(SystemError) {
        self.disks = disks
        planner = try OwnThread(name: "points") { [self] in plan() }
    }

    /// Returns when no cut is under way, or those that are have been waited for long enough: their logs do not answer, and a
    /// record that comes after all is one as before a kill.
    func stop() {
        monitor.lock()
        isStopping = true
        stopping.wakeAll()
        work.wakeAll()
        monitor.unlock()
        planner?.join()
        planner = nil
        let deadline = Clock.monotonicNanoseconds() + Self.stopSecondsMax * 1_000_000_000
        monitor.lock()
        while cutterCount > 0, Clock.monotonicNanoseconds() < deadline { monitor.wait(for: ended, milliseconds: 100) }
        monitor.unlock()
    }

    private func plan() {
        while true {
            let groups = present()
            let now = Clock.monotonicNanoseconds()
            monitor.lock()
            schedules = schedules.filter { id, schedule in schedule.isUnderWay || groups.contains { $0.id == id } }
            for group in groups where group.pointSeconds > 0 { plan(group, now) }
            startCutter()
            work.wakeAll()
            let next = schedules.values.map { min($0.due, $0.appDue ?? .max) }.min() ?? .max
            let milliseconds = next > now ? Int(clamping: (next - now) / 1_000_000) + 1 : 0
            if !isStopping, milliseconds > 0 { monitor.wait(for: stopping, milliseconds: min(milliseconds, Self.pauseMillisecondsMax)) }
            let isOver = isStopping
            monitor.unlock()
            if isOver { return }
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

    /// The monitor is held.
    private func plan(_ group: PointGroups.Group, _ now: UInt64) {
        let interval = UInt64(group.pointSeconds) * 1_000_000_000
        var schedule = schedules[group.id] ?? Schedule(due: now + interval, interval: interval, lastPoint: 0)
        if schedule.interval != interval {
            // The policy changed.
            schedule.due = max(schedule.due - min(schedule.due, schedule.interval), now - min(now, interval)) + interval
            schedule.interval = interval
        }
        planApp(group, &schedule, now)
        if now >= schedule.due || schedule.wantsApp {
            if !schedule.isUnderWay { queue.append(group) }
            schedule.isUnderWay = true
            // From the plan, not from now: the points keep their pace. After a standstill only one is made up for.
            if now >= schedule.due { schedule.due = max(schedule.due + interval, now) }
        }
        schedules[group.id] = schedule
    }

    private func planApp(_ group: PointGroups.Group, _ schedule: inout Schedule, _ now: UInt64) {
        guard let interval = group.appSeconds.map({ UInt64($0) * 1_000_000_000 }) else {
            (schedule.appDue, schedule.wantsApp) = (nil, false)
            return
        }
        // A shorter interval of a changed policy counts from now.
        let due = min(schedule.appDue ?? now + min(interval, Self.firstAppSeconds * 1_000_000_000), now + interval)
        schedule.appDue = now >= due ? now + interval : due
        if now >= due { schedule.wantsApp = true }
    }

    /// One more where none is free and none was since the last look. The monitor is held.
    private func startCutter() {
        defer { takenAtLook = takenCount }
        guard !queue.isEmpty, idleCount == 0, takenCount == takenAtLook || cutterCount == 0, cutterCount < Self.cuttersMax, !isStopping else { return }
        do throws(SystemError) {
            // It ends by itself; `stop` may not be able to wait for it.
            _ = try OwnThread(name: "cut") { [self] in cutAll() }
            cutterCount += 1
        } catch {
            serviceLog("points may be late: \(error)")
        }
    }

    private func cutAll() {
        monitor.lock()
        while !isStopping {
            guard !queue.isEmpty else {
                idleCount += 1
                monitor.wait(for: work)
                idleCount -= 1
                continue
            }
            let group = queue.removeFirst()
            takenCount += 1
            let last = schedules[group.id]?.lastPoint ?? 0
            let wantsApp = schedules[group.id]?.wantsApp ?? false
            schedules[group.id]?.wantsApp = false
            monitor.unlock()
            let point = wantsApp ? cutApp(group, after: last) : cut(group, after: last)
            monitor.lock()
            schedules[group.id]?.lastPoint = point
            schedules[group.id]?.isUnderWay = false
        }
        cutterCount -= 1
        ended.wakeAll()
        monitor.unlock()
    }

    /// Also where nothing was written: what the machines hold in memory is not seen before they come to rest.
    private func cutApp(_ group: PointGroups.Group, after last: UInt64) -> UInt64 {
        if let obstacle = group.obstacle {
            disks.points.note(obstacle, of: group)
            return last
        }
        do throws(SystemError) {
            let point = try disks.appPoints.cut(group.disks, machines: group.machines, tag: "")
            disks.points.note(nil, of: group)
            disks.points.note(point.problem.map { "a point that was to be app-consistent is crash-consistent only: \($0)" }, of: group, isApp: true)
            return point.sequence
        } catch {
            disks.points.note("no point could be cut: \(error)", of: group)
            return last
        }
    }

    /// The sequence of the group's last point now.
    private func cut(_ group: PointGroups.Group, after last: UInt64) -> UInt64 {
        guard group.disks.contains(where: { $0.status.log.lastSequence > last }) else { return last }
        if let obstacle = group.obstacle {
            disks.points.note(obstacle, of: group)
            return last
        }
        do throws(SystemError) {
            let point = try VirtualDisk.cutPoint(group.disks, tag: "")
            disks.points.note(nil, of: group)
            return point
        } catch {
            disks.points.note("no point could be cut: \(error)", of: group)
            return last
        }
    }
}
