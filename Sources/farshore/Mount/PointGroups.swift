// Which served disks share points, as the catalogue says now, and why some get none. Asked by the interval's thread and
// by the control socket; a change of machines and groups takes effect at the next question.

import Site
import Synchronization
import VirtualDisk

final class PointGroups: Sendable {
    struct Group: Sendable {
        let id: String
        let name: String
        let pointSeconds: Int
        /// Nil where no policy wants app-consistent points.
        let appSeconds: Int?
        let machines: [String]
        /// Those that are served, by name.
        let disks: [VirtualDisk]
        /// Those that are not.
        let missing: [String]

        func contains(_ disk: String) -> Bool { disks.contains { $0.name == disk } }

        /// Why it cannot be cut: a point of some of the disks must not be taken for one of all.
        var obstacle: String? {
            missing.first.map { "no point is cut over the disks of \(name): \($0) belongs to them and the mount does not serve it" }
        }
    }

    private let catalogue: Catalogue
    private struct State {
        struct Kind: Hashable {
            let group: String
            /// Of its app-consistent points.
            let isApp: Bool
        }

        /// Why the last cut failed, and the disks it concerns.
        var problems: [Kind: (disks: Set<String>, reason: String)] = [:]
        /// Disks that an `unprotect` took out of the mount: points go on without them.
        var released: Set<String> = []
    }

    private let state = Mutex(State())

    init(catalogue: Catalogue) { self.catalogue = catalogue }

    /// Those with a disk in `served`.
    func groups(served: [VirtualDisk]) throws(SiteError) -> [Group] {
        let released = state.withLock { $0.released }
        let known = Dictionary(uniqueKeysWithValues: served.map { ($0.name, $0) })
        let groups = try catalogue.consistencyGroups()
        // What was wrong with a group that is no more concerns nobody.
        state.withLock { state in
            // Nor does a problem with points that nobody wants any more.
            state.problems = state.problems.filter { kind, _ in groups.contains { $0.id == kind.group && (!kind.isApp || $0.appSeconds != nil) } }
        }
        return groups.compactMap { group in
            let disks = group.diskNames.compactMap { known[$0] }
            guard !disks.isEmpty else { return nil }
            let missing = group.disks.filter { known[$0.name] == nil && $0.isToBeServed && !released.contains($0.name) }.map(\.name)
            return Group(
                id: group.id, name: group.name, pointSeconds: group.pointSeconds, appSeconds: group.appSeconds, machines: Set(group.disks.map(\.machine)).sorted(),
                disks: disks, missing: missing)
        }
    }

    func setReleased(_ disk: String, _ isReleased: Bool) {
        state.withLock { state in
            if isReleased { state.released.insert(disk) } else { state.released.remove(disk) }
        }
    }

    /// Why the disk's last point was not cut.
    func problem(ofDisk name: String) -> String? {
        state.withLock { $0.problems.values.first { $0.disks.contains(name) }?.reason }
    }

    /// What came of the last cut; the first failure and the first success after one are events.
    func note(_ reason: String?, of group: Group, isApp: Bool = false) {
        let kind = State.Kind(group: group.id, isApp: isApp)
        let known = state.withLock { state in
            defer { state.problems[kind] = reason.map { (Set(group.disks.map(\.name)), $0) } }
            return state.problems[kind]?.reason
        }
        guard known != reason else { return }
        let text = reason ?? (isApp ? "points are app-consistent again" : "points are cut again")
        serviceLog("\(group.name): \(text)")
        do throws(SiteError) {
            try catalogue.record(reason == nil ? .information : .warning, disk: group.disks.count == 1 ? group.name : nil, "\(group.name): \(text)")
        } catch {
            serviceLog("\(group.name): this event could not be recorded: \(error)")
        }
    }
}
