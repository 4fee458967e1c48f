// Retention of a group's points: which ones leave, and the head without them (docs/formats/vault.md section 10). Deletes
// nothing. Called by the uploader (Sources/Replication/Publish/GroupRetention.swift), which publishes what this returns.

package struct Retention: Sendable {
    let vault: Vault
    let thinning: Thinning
    /// In which new map pages and kept points are written.
    let epoch: UInt32

    package init(vault: Vault, thinning: Thinning, epoch: UInt32) {
        self.vault = vault
        self.thinning = thinning
        self.epoch = epoch
    }

    /// What is to change in `head`; nil when nothing is. The states that guests went on from stay in the window
    /// until they are branched off there: below it a point is a map, and no history goes on from that.
    package func pruning(of head: Head, _ catalog: Catalog) throws(VaultError) -> Pruning? {
        // A disk that moves or still catches up has points that count differently soon.
        guard head.disks.allSatisfy({ $0.movedTo == nil && $0.since != DiskState.notYet }) else { return nil }
        let shared = SharedPoints(vault, head: head, catalog: catalog)
        let timeline = try Timeline(shared, clock: head.clock)
        guard let newest = timeline.moments.last else { return nil }
        var kept = timeline.kept(by: thinning)
        let pins = (head.pins ?? []).filter { $0.untilMicros ?? .max > newest.elapsedMicros }
        let edge = timeline.moments.first { $0.elapsedMicros + thinning.wholeMicros >= newest.elapsedMicros } ?? newest
        let begun = (head.lifeCycle?.points ?? []).map(\.sequence).min() ?? .max
        let cut = min(edge.sequence, begun, head.disks.map(\.newestSequence).min() ?? 0)
        for pin in pins { kept.insert(pin.sequence) }
        // A rule that was made longer moves nothing back.
        let counted = timeline.moments.last { $0.sequence < cut }.map(\.clock)
        var pruning = Pruning(head, pins: pins, clock: counted?.sequence ?? 0 > head.clock?.sequence ?? 0 ? counted : head.clock)
        for member in shared.members {
            let state = member.history.state
            let oldest = max(state.oldestSequence, cut)
            let before = try member.history.keptPoints()
            let after = try points(of: member.history, below: oldest, kept, timeline, pins)
            guard oldest != state.oldestSequence || after != before else { continue }
            let name = after == before ? state.kept : after.isEmpty ? nil : try vault.putKeptPoints(after, disk: state.disk, epoch: epoch)
            pruning.disks[state.disk] = Pruning.Disk(state, oldestSequence: oldest, kept: name)
        }
        return pruning.disks.isEmpty ? nil : pruning
    }

    /// Sequences of points that stay in `head`, whichever of them are below the window then.
    package func staying(in head: Head, _ catalog: Catalog) throws(VaultError) -> Set<UInt64> {
        let timeline = try Timeline(SharedPoints(vault, head: head, catalog: catalog), clock: head.clock)
        return timeline.kept(by: thinning).union((head.pins ?? []).map(\.sequence))
    }

    private func points(
        of history: DiskHistory, below oldest: UInt64, _ kept: Set<UInt64>, _ timeline: Timeline, _ pins: [Head.Pin]
    ) throws(VaultError) -> [KeptPoint] {
        let known = Dictionary(uniqueKeysWithValues: try history.keptPoints().map { ($0.sequence, $0) })
        let listed = timeline.points[history.state.disk] ?? []
        // A pin may name a state that was never cut as a point.
        let pinned = pins.filter { pin in pin.disk == history.state.disk && !listed.contains { $0.sequence == pin.sequence } }.map {
            RecoveryPoint(sequence: $0.sequence, timeMicros: $0.timeMicros, kind: .crash, tag: nil)
        }
        var found: [KeptPoint] = []
        for point in (listed + pinned).sorted(by: { $0.sequence < $1.sequence }) where point.sequence < oldest && kept.contains(point.sequence) {
            if found.last?.sequence == point.sequence { continue }
            if let same = known[point.sequence] {
                found.append(same)
            } else if point.sequence >= history.state.oldestSequence {
                found.append(try make(point, history, elapsedMicros: timeline.elapsedMicros(at: point.sequence)))
            }
        }
        return found
    }

    /// The map of the state at the point: new pages where records changed it since the last map, no data.
    private func make(_ point: RecoveryPoint, _ history: DiskHistory, elapsedMicros: UInt64) throws(VaultError) -> KeptPoint {
        let plan = try history.plan(at: point.sequence)
        let indexes = try SegmentChanges.readAll(vault, disk: history.state.disk, plan.segments, manifestLineage: history.state.disk)
        let root = try MapUpdate(vault: vault, epoch: epoch).apply(indexes, through: point.sequence, to: plan.root, sizeBytes: plan.sizeBytes)
        return KeptPoint(
            sequence: point.sequence, timeMicros: point.timeMicros, kind: point.kind, tag: point.tag, elapsedMicros: elapsedMicros, sizeBytes: plan.sizeBytes,
            root: root)
    }
}

/// The time as retention counts it at `timeMicros` of the wall clock: what a clock jumped by, or a long gap, does not count.
func countedMicros(_ shared: SharedPoints, clock: Head.Clock?, at timeMicros: UInt64) throws(VaultError) -> UInt64 {
    guard let newest = try Timeline(shared, clock: clock).moments.last else { return timeMicros }
    var time = RetentionTime(timeMicros: newest.timeMicros, elapsedMicros: newest.elapsedMicros)
    time.advance(to: timeMicros)
    return time.elapsedMicros
}

/// The listed points of all disks of a group in one line of time.
private struct Timeline {
    struct Moment {
        let sequence: UInt64
        let timeMicros: UInt64
        let elapsedMicros: UInt64

        var clock: Head.Clock { Head.Clock(sequence: sequence, timeMicros: timeMicros, elapsedMicros: elapsedMicros) }
    }

    private(set) var moments: [Moment] = []
    /// Of each disk.
    private(set) var points: [VaultID: [RecoveryPoint]] = [:]
    /// Which disks have the point.
    private var holders: [UInt64: [VaultID]] = [:]

    init(_ shared: SharedPoints, clock: Head.Clock?) throws(VaultError) {
        var all: [VaultID: [RecoveryPoint]] = [:]
        var times: [UInt64: UInt64] = [:]
        var counted: [UInt64: UInt64] = [:]
        for member in shared.members {
            all[member.disk.id] = try member.history.points()
            for kept in try member.history.keptPoints() { counted[kept.sequence] = kept.elapsedMicros }
        }
        for member in shared.members {
            let listed = shared.points(of: member.disk.id, among: all)
            points[member.disk.id] = listed.map(\.point)
            for (point, disks) in listed {
                times[point.sequence] = point.timeMicros
                holders[point.sequence] = disks.map(\.id)
            }
        }
        let sorted = times.sorted { $0.key < $1.key }
        moments = Self.counted(sorted.filter { $0.key <= clock?.sequence ?? 0 }, counted, clock)
        var time = clock.map { RetentionTime(timeMicros: $0.timeMicros, elapsedMicros: $0.elapsedMicros) }
        for (sequence, micros) in sorted where sequence > clock?.sequence ?? 0 {
            time?.advance(to: micros)
            let now = time ?? RetentionTime(timeMicros: micros)
            time = now
            moments.append(Moment(sequence: sequence, timeMicros: micros, elapsedMicros: now.elapsedMicros))
        }
    }

    /// Up to the clock: times that were counted when the points were kept. Points that a disk brought along when it joined
    /// were not, and are counted back from the next one.
    private static func counted(_ times: [(key: UInt64, value: UInt64)], _ counted: [UInt64: UInt64], _ clock: Head.Clock?) -> [Moment] {
        guard let clock else { return [] }
        var moments: [Moment] = []
        var (nextTime, nextElapsed) = (clock.timeMicros, clock.elapsedMicros)
        for (sequence, micros) in times.reversed() {
            let step = min(nextTime > micros ? nextTime - micros : 0, RetentionTime.stepMicrosMax)
            (nextTime, nextElapsed) = (micros, min(counted[sequence] ?? (nextElapsed - min(nextElapsed, step)), nextElapsed))
            moments.append(Moment(sequence: sequence, timeMicros: micros, elapsedMicros: nextElapsed))
        }
        return moments.reversed()
    }

    /// Points that the same disks have are thinned together, so that what stays of a shared point stays on all of its disks.
    func kept(by thinning: Thinning) -> Set<UInt64> {
        guard let newest = moments.last else { return [] }
        let classes = Dictionary(grouping: moments) { holders[$0.sequence] ?? [] }
        return classes.values.reduce(into: [newest.sequence]) { kept, moments in
            kept.formUnion(thinning.kept(moments.map { Thinning.Candidate(sequence: $0.sequence, elapsedMicros: $0.elapsedMicros) }, newestMicros: newest.elapsedMicros))
        }
    }

    func elapsedMicros(at sequence: UInt64) -> UInt64 { (moments.last { $0.sequence <= sequence } ?? moments.first)?.elapsedMicros ?? 0 }
}

/// The change of a head that retention found.
package struct Pruning: Sendable {
    struct Disk: Sendable {
        let before: DiskState
        let oldestSequence: UInt64
        let kept: Hash256?

        init(_ state: DiskState, oldestSequence: UInt64, kept: Hash256?) {
            before = state
            self.oldestSequence = oldestSequence
            self.kept = kept
        }

        /// The history went on meanwhile, and nothing that was looked at is another.
        func fits(_ state: DiskState?) -> Bool {
            state?.oldestSequence == before.oldestSequence && state?.kept == before.kept && state?.current?.id == before.current?.id
        }
    }

    private let pinsBefore: [Head.Pin]?
    private let pins: [Head.Pin]
    private let clock: Head.Clock?
    var disks: [VaultID: Disk] = [:]

    init(_ head: Head, pins: [Head.Pin], clock: Head.Clock?) {
        pinsBefore = head.pins
        self.pins = pins
        self.clock = clock
    }

    /// False, and nothing changed, when the head is another one by now in what matters: then it is to be looked at again.
    @discardableResult
    package func apply(to head: inout Head) -> Bool {
        guard head.pins == pinsBefore, disks.allSatisfy({ $1.fits(head.state(of: $0)) }) else { return false }
        for (id, change) in disks {
            guard var state = head.state(of: id) else { continue }
            state.oldestSequence = change.oldestSequence
            state.kept = change.kept
            let current = state.current?.id
            state.end { $0.sequence < change.oldestSequence && $0.id != current }
            head.set(state)
        }
        head.pins = pins.isEmpty ? nil : pins
        head.clock = clock
        return true
    }
}
