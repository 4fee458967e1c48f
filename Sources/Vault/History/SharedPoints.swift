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

    /// The group that `disk` is in.
    package init(_ vault: Vault, of disk: Catalog.Disk) throws(VaultError) {
        let catalog = try vault.catalog().document
        try self.init(vault, group: catalog.disks.first { $0.id == disk.id }?.group ?? disk.group, catalog: catalog)
    }

    package init(_ vault: Vault, group: VaultID, catalog: Catalog) throws(VaultError) {
        name = catalog.group(group)?.name
        var members: [Member] = []
        if let head = try vault.heads(group: group).newest()?.document {
            for disk in catalog.disks(inGroup: group).sorted(by: { $0.name < $1.name }) {
                guard let state = head.state(of: disk.id), !state.lineages.isEmpty else { continue }
                members.append(Member(disk: disk, history: DiskHistory(vault: vault, state: state, peers: head.disks)))
            }
        }
        self.members = members
    }

    package func history(of disk: VaultID) -> DiskHistory? { members.first { $0.disk.id == disk }?.history }

    /// The points of `disk`, oldest first, each with the disks of the group that have it.
    package func points(of disk: VaultID) throws(VaultError) -> [(point: RecoveryPoint, disks: [Catalog.Disk])] {
        var points: [VaultID: [RecoveryPoint]] = [:]
        for member in members { points[member.disk.id] = try member.history.points() }
        return self.points(of: disk, among: points)
    }

    /// The same among points that were looked up already, by disk.
    package func points(of disk: VaultID, among points: [VaultID: [RecoveryPoint]]) -> [(point: RecoveryPoint, disks: [Catalog.Disk])] {
        var holders: [PointKey: [Catalog.Disk]] = [:]
        for member in members {
            for point in points[member.disk.id] ?? [] { holders[PointKey(point), default: []].append(member.disk) }
        }
        return (points[disk] ?? []).map { ($0, holders[PointKey($0)] ?? []) }
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
