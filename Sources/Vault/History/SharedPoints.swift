// The points that the disks of a group share. A cut gives all of its disks a point with one number and one time, so the
// same point in several histories is the same cut; where one of the disks lacks it, it is none of all of them.

package struct SharedPoints: Sendable {
    package struct Member: Sendable {
        package let disk: Catalog.Disk
        package let history: DiskHistory
    }

    /// What the catalog calls the group; nil for a disk on its own.
    package let name: String?
    /// The disks of the group that the vault has something of, by name.
    package let members: [Member]
    /// Of all its disks.
    package let pins: [Head.Pin]
    package let verdicts: [Head.Verdict]

    /// The group that `disk` is in.
    package init(_ vault: Vault, of disk: Catalog.Disk) throws(VaultError) {
        let catalog = try vault.catalog().document
        try self.init(vault, group: catalog.disks.first { $0.id == disk.id }?.group ?? disk.group, catalog: catalog)
    }

    package init(_ vault: Vault, group: VaultID, catalog: Catalog) throws(VaultError) {
        self.init(vault, group: group, head: try vault.heads(group: group).newest()?.document, catalog: catalog)
    }

    package init(_ vault: Vault, head: Head, catalog: Catalog) { self.init(vault, group: head.group, head: head, catalog: catalog) }

    private init(_ vault: Vault, group: VaultID, head: Head?, catalog: Catalog) {
        name = catalog.group(group)?.name
        pins = head?.pins ?? []
        verdicts = head?.verdicts ?? []
        members = catalog.disks(inGroup: group).sorted { $0.name < $1.name }.compactMap { disk in
            guard let head, let state = head.state(of: disk.id), !state.lineages.isEmpty else { return nil }
            return Member(disk: disk, history: DiskHistory(vault: vault, state: state, peers: head.disks))
        }
    }

    package func history(of disk: VaultID) -> DiskHistory? { members.first { $0.disk.id == disk }?.history }

    /// The points of `disk`, oldest first, each with the disks of the group that have it.
    package func points(of disk: VaultID) throws(VaultError) -> [(point: RecoveryPoint, disks: [Catalog.Disk])] {
        var points: [VaultID: [RecoveryPoint]] = [:]
        for member in members { points[member.disk.id] = try member.history.points() }
        return self.points(of: disk, among: points)
    }

    /// The same among points that were looked up already, by disk. `incomplete`: disks of which some could not be read.
    ///
    /// A point that one of the disks lacks is listed of none: the host died while it was cut, or a power loss cut one of the
    /// logs below it. What a disk had before it took part needs no other.
    package func points(
        of disk: VaultID, among points: [VaultID: [RecoveryPoint]], incomplete: Set<VaultID> = []
    ) -> [(point: RecoveryPoint, disks: [Catalog.Disk])] {
        var holders: [PointKey: [Catalog.Disk]] = [:]
        for member in members {
            for point in points[member.disk.id] ?? [] { holders[PointKey(point), default: []].append(member.disk) }
        }
        let since = history(of: disk)?.state.since ?? 0
        return (points[disk] ?? []).compactMap { point in
            let having = holders[PointKey(point)] ?? []
            let isWhole = point.sequence < since || members.allSatisfy { member in
                !member.history.state.takesPart(at: point.sequence) || incomplete.contains(member.disk.id) || having.contains { $0.id == member.disk.id }
            }
            return isWhole ? (point, having) : nil
        }
    }

    /// The newest listed point of `disk` that fits.
    package func newest(on disk: VaultID, where fits: (RecoveryPoint) -> Bool) throws(VaultError) -> RecoveryPoint? {
        guard members.count > 1, let history = history(of: disk) else { return try self.history(of: disk)?.newestPoint(where: fits) }
        for after in [history.checkpointSequence, 0] {
            let own = try history.points(after: after).filter(fits)
            if own.isEmpty { continue }
            var points = [disk: own]
            var incomplete: Set<VaultID> = []
            for member in members where member.disk.id != disk {
                do throws(VaultError) {
                    points[member.disk.id] = try member.history.points(after: after)
                } catch {
                    // What one disk lost must not make the others less readable.
                    guard error.isIntegrityDamage else { throw error }
                    incomplete.insert(member.disk.id)
                }
            }
            if let found = self.points(of: disk, among: points, incomplete: incomplete).last { return found.point }
        }
        return nil
    }

    /// The newest point that every disk of the group has, but for disks that still catch up after they joined; nil when
    /// there is none.
    package func newest(where fits: (RecoveryPoint) -> Bool = { _ in true }) throws(VaultError) -> RecoveryPoint? {
        // Most often one of the last few: the manifests since the newest map of each disk tell.
        let recent = members.map(\.history.checkpointSequence).max() ?? 0
        for after in [recent, 0] {
            var points: [VaultID: [RecoveryPoint]] = [:]
            for member in members { points[member.disk.id] = try member.history.points(after: after) }
            if let found = newest(of: points, where: fits) { return found }
        }
        return nil
    }

    /// The same among points that were looked up already, by disk.
    package func newest(of points: [VaultID: [RecoveryPoint]], where fits: (RecoveryPoint) -> Bool = { _ in true }) -> RecoveryPoint? {
        let needed = members.filter { $0.history.state.since != DiskState.notYet }
        guard let first = needed.first else { return nil }
        var common = (points[first.disk.id] ?? []).filter(fits)
        for member in needed.dropFirst() where !common.isEmpty {
            let keys = Set((points[member.disk.id] ?? []).map(PointKey.init))
            common = common.filter { keys.contains(PointKey($0)) }
        }
        return common.last
    }
}

/// What makes two points one cut.
private struct PointKey: Hashable {
    let sequence: UInt64
    let timeMicros: UInt64

    init(_ point: RecoveryPoint) {
        sequence = point.sequence
        timeMicros = point.timeMicros
    }
}
