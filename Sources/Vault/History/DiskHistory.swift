// What can be read of a disk: its points, and for a sequence the map and the segments that give the state there
// (docs/formats/vault.md section 9). Reads few manifests: those since the last full one, or one full one found over
// references that double their distance; several at a time, and none twice. Below the window there are the kept points only.

import Synchronization

/// What gives the state at `sequence`: a map, and the records up to `sequence` of segments laid over it.
package struct ReadPlan: Sendable {
    package let sequence: UInt64
    package let sizeBytes: UInt64
    /// The map, of the state at `baseSequence`.
    package let root: MapRoot
    package let baseSequence: UInt64
    /// Rising; their lineage is always filled in, and what they change where a manifest carries it.
    package let segments: [SegmentEntry]
    /// The points after `baseSequence` up to `sequence`.
    package let points: [RecoveryPoint]
    /// The point at `sequence`, which may be that of the map; nil where it is none.
    package let point: RecoveryPoint?
    /// Intervals up to `sequence` of which only the end can be read.
    let merged: [Manifest.MergedInterval]
    /// The newest full manifest at or before the sequence, its lineage filled in; nil for a kept point.
    let full: ManifestRef?
}

package struct DiskHistory: Sendable {
    private static let threads = 16

    package let vault: Vault
    package let state: DiskState
    /// The other disks of the group, in the same head: a point of the group is there when it is there on all of them.
    private let peers: [DiskState]
    private let keptRead = KeptRead()

    /// The points below the window, once they were read.
    private final class KeptRead: Sendable {
        let points = Mutex<[KeptPoint]?>(nil)
    }

    package init(vault: Vault, state: DiskState, peers: [DiskState] = []) {
        self.vault = vault
        self.state = state
        self.peers = peers.filter { $0.disk != state.disk }
    }

    /// The disk's newest state in the vault, or nil when nothing of it was replicated yet.
    package static func newest(_ vault: Vault, _ disk: Catalog.Disk) throws(VaultError) -> DiskHistory? {
        guard let head = try vault.heads(group: disk.group).newest(), let state = head.document.state(of: disk.id), !state.lineages.isEmpty else { return nil }
        return DiskHistory(vault: vault, state: state, peers: head.document.disks)
    }

    /// Whether a point that this disk has is one to tell of: those of a group only when every disk of the group has its part.
    /// What the disk had before it joined the group needs no other.
    package func isListed(_ point: RecoveryPoint) -> Bool {
        guard point.sequence >= state.oldestSequence else { return false }
        return point.sequence < state.since ?? 0 || !peers.contains { $0.isAwaited(at: point.sequence) }
    }

    package var newestSequence: UInt64 { state.current?.sequence ?? 0 }
    /// The newest sequence with a map of its own.
    package var checkpointSequence: UInt64 { state.current?.full.sequence ?? 0 }

    // MARK: Points

    /// The points below the window, rising.
    package func keptPoints() throws(VaultError) -> [KeptPoint] {
        guard let name = state.kept else { return [] }
        if let known = keptRead.points.withLock({ $0 }) { return known }
        let points = try vault.keptPoints(name, disk: state.disk).filter { $0.sequence < state.oldestSequence }
        keptRead.points.withLock { $0 = points }
        return points
    }

    /// Calls `body` with the manifests from the newest back, until it returns false: of each lineage the tail, then the
    /// full ones. Where a lineage branched off, its parent's full ones follow.
    private func visitManifests(_ body: (Manifest) throws(VaultError) -> Bool) throws(VaultError) {
        var seen: Set<Hash256> = []
        for lineage in state.lineages.reversed() where lineage.sequence >= state.oldestSequence {
            guard try visit(lineage, &seen, body) else { return }
        }
    }

    /// The same for the one history that `lineage` ends: its own manifests, then its parents' up to where it branched off.
    package func visitManifests(of lineage: LineageState, _ body: (Manifest) throws(VaultError) -> Bool) throws(VaultError) {
        var seen: Set<Hash256> = []
        _ = try visit(lineage, &seen, body)
    }

    private func visit(
        _ lineage: LineageState, _ seen: inout Set<Hash256>, _ body: (Manifest) throws(VaultError) -> Bool
    ) throws(VaultError) -> Bool {
        for ref in lineage.tail.reversed() where try !body(try manifest(ref, lineage.id)) { return false }
        var next: (ref: ManifestRef, lineage: VaultID)? = (lineage.full, lineage.id)
        while let (ref, named) = next, seen.insert(ref.hash).inserted {
            let full = try manifest(ref, named)
            guard try body(full) else { return false }
            let before = full.fulls?.max { $0.fullNumber < $1.fullNumber }
            next = before.flatMap {
                $0.sequence < state.oldestSequence ? nil : (ManifestRef(lineage: $0.lineage, sequence: $0.sequence, hash: $0.hash), full.lineage)
            }
        }
        return true
    }

    /// All points above `after`, oldest first.
    package func points(after: UInt64 = 0) throws(VaultError) -> [RecoveryPoint] {
        // By sequence: a branch repeats what its parent already told.
        var points: [UInt64: RecoveryPoint] = [:]
        try visitManifests { manifest throws(VaultError) in
            for point in manifest.points where point.sequence > after && isListed(point) { points[point.sequence] = point }
            return manifest.after >= after
        }
        if after < state.oldestSequence {
            for kept in try keptPoints() where kept.sequence > after { points[kept.sequence] = kept.point }
        }
        return points.values.sorted { $0.sequence < $1.sequence }
    }

    /// The newest point that fits.
    package func newestPoint(where fits: (RecoveryPoint) -> Bool) throws(VaultError) -> RecoveryPoint? {
        var found: RecoveryPoint?
        try visitManifests { manifest throws(VaultError) in
            found = manifest.points.last { isListed($0) && fits($0) }
            return found == nil
        }
        if let found { return found }
        return try keptPoints().last { fits($0.point) }?.point
    }

    // MARK: Reading a state

    package func plan(at sequence: UInt64) throws(VaultError) -> ReadPlan {
        if sequence < state.oldestSequence, let kept = try keptPoints().first(where: { $0.sequence == sequence }) {
            return ReadPlan(
                sequence: sequence, sizeBytes: kept.sizeBytes, root: kept.root, baseSequence: sequence, segments: [], points: [],
                point: kept.point, merged: [], full: nil)
        }
        // Sequences are never used twice: the oldest lineage that reaches so far is the one that wrote it.
        guard sequence >= state.oldestSequence, let lineage = state.lineages.first(where: { $0.sequence >= sequence }) else {
            let below = try keptPoints().isEmpty ? "" : ", and single points from before"
            throw .notFound("the vault has the disk from sequence \(state.oldestSequence) to \(newestSequence)\(below), not \(sequence)")
        }
        return sequence >= lineage.full.sequence ? try planInTail(lineage, sequence) : try planBetweenFulls(lineage, sequence)
    }

    private func planInTail(_ lineage: LineageState, _ sequence: UInt64) throws(VaultError) -> ReadPlan {
        let count = sequence > lineage.full.sequence ? (lineage.tail.firstIndex { $0.sequence >= sequence } ?? lineage.tail.count - 1) + 1 : 0
        let manifests = try self.manifests([lineage.full] + lineage.tail.prefix(count), lineage.id)
        let full = manifests[0]
        guard let root = full.root else { throw notFull(full) }
        var segments: [SegmentEntry] = []
        var points: [RecoveryPoint] = []
        var merged: [Manifest.MergedInterval] = []
        var reached = full.sequence
        for part in manifests.dropFirst() {
            guard part.after == reached, part.kind != .full else {
                throw .damaged(object: key(part), reason: "it does not continue the manifest at \(reached)")
            }
            try refuseMerged(part, sequence)
            segments += needed(part, sequence)
            points += part.points.filter { $0.sequence <= sequence }
            merged += (part.merged ?? []).filter { $0.through <= sequence }
            reached = part.sequence
        }
        return ReadPlan(
            sequence: sequence, sizeBytes: state.sizeBytes(at: sequence), root: root, baseSequence: full.sequence, segments: segments, points: points,
            point: manifests.flatMap(\.points).first { $0.sequence == sequence }, merged: merged,
            full: ManifestRef(lineage: full.lineage, sequence: full.sequence, hash: lineage.full.hash))
    }

    private func planBetweenFulls(_ lineage: LineageState, _ sequence: UInt64) throws(VaultError) -> ReadPlan {
        var full = try manifest(lineage.full, lineage.id)
        var ref = ManifestRef(lineage: full.lineage, sequence: full.sequence, hash: lineage.full.hash)
        while let hop = try hop(from: full, towards: sequence) { (ref, full) = hop }
        if full.sequence == sequence {
            guard let root = full.root else { throw notFull(full) }
            return ReadPlan(
                sequence: sequence, sizeBytes: state.sizeBytes(at: sequence), root: root, baseSequence: sequence, segments: [], points: [],
                point: full.points.last { $0.sequence == sequence }, merged: [], full: ref)
        }
        guard full.fullNumber != 1 else {
            throw .notFound("the vault has nothing at sequence \(sequence): the history after it begins at \(full.sequence)")
        }
        try refuseMerged(full, sequence)
        guard full.kind == .full, full.after <= sequence, let base = full.baseRoot, let before = full.fulls?.first(where: { $0.sequence == full.after }) else {
            throw .damaged(object: key(full), reason: "it does not cover sequence \(sequence), though the one before ends below it")
        }
        let baseRef = ManifestRef(lineage: before.lineage ?? full.lineage, sequence: before.sequence, hash: before.hash)
        return ReadPlan(
            sequence: sequence, sizeBytes: state.sizeBytes(at: sequence), root: base, baseSequence: full.after, segments: try indexed(needed(full, sequence), full),
            points: full.points.filter { $0.sequence <= sequence }, point: full.points.last { $0.sequence == sequence },
            merged: (full.merged ?? []).filter { $0.through <= sequence }, full: baseRef)
    }

    /// The farthest full manifest that `full` names and that is not yet below the sequence; where it is lost, a nearer one
    /// leads around it.
    private func hop(from full: Manifest, towards sequence: UInt64) throws(VaultError) -> (ManifestRef, Manifest)? {
        var failure: VaultError?
        for hop in (full.fulls ?? []).filter({ $0.sequence >= sequence }).sorted(by: { $0.fullNumber < $1.fullNumber }) {
            let ref = ManifestRef(lineage: hop.lineage ?? full.lineage, sequence: hop.sequence, hash: hop.hash)
            do throws(VaultError) {
                return (ref, try manifest(ref, full.lineage))
            } catch {
                guard error.isIntegrityDamage else { throw error }
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
        return nil
    }

    /// With what they change, from the parts of the full manifest that lists them.
    private func indexed(_ segments: [SegmentEntry], _ full: Manifest) throws(VaultError) -> [SegmentEntry] {
        guard let last = segments.last(where: { $0.index == nil }) else { return segments }
        var after = full.after
        let parts = (full.parts ?? []).filter { part in
            defer { after = part.sequence }
            return after < last.last
        }
        let read = try mapInParallel(parts, threads: Self.threads) { ref throws(VaultError) -> Manifest? in
            do throws(VaultError) { return try manifest(ref, full.lineage) } catch {
                // Then the segments are asked.
                guard error.isIntegrityDamage else { throw error }
                return nil
            }
        }
        var carried: [SegmentID: SegmentEntry] = [:]
        for part in read.compactMap(\.self) {
            for entry in part.segments { carried[SegmentID(lineage: entry.lineage ?? part.lineage, first: entry.first, last: entry.last)] = entry }
        }
        return segments.map { entry in
            guard entry.index == nil, let found = carried[SegmentID(lineage: entry.lineage ?? full.lineage, first: entry.first, last: entry.last)], found.hash == entry.hash else {
                return entry
            }
            return entry.carrying(found.index)
        }
    }

    private func needed(_ manifest: Manifest, _ sequence: UInt64) -> [SegmentEntry] {
        manifest.segments.filter { $0.first <= sequence }.map { $0.named(from: manifest.lineage) }
    }

    private func refuseMerged(_ manifest: Manifest, _ sequence: UInt64) throws(VaultError) {
        guard let interval = manifest.merged?.first(where: { $0.after < sequence && sequence < $0.through }) else { return }
        throw .notFound("of the writes after \(interval.after) up to \(interval.through) the vault has the end only, so \(sequence) between them cannot be read")
    }

    private func manifest(_ ref: ManifestRef, _ lineage: VaultID) throws(VaultError) -> Manifest {
        try vault.knownManifests.manifest(ref, disk: state.disk, lineage: lineage, in: vault)
    }

    /// Several, in their order.
    private func manifests(_ refs: [ManifestRef], _ lineage: VaultID) throws(VaultError) -> [Manifest] {
        try mapInParallel(refs, threads: Self.threads) { ref throws(VaultError) in try manifest(ref, lineage) }
    }

    private func key(_ manifest: Manifest) -> String {
        ObjectPlace.manifest(disk: manifest.disk, lineage: manifest.lineage, sequence: manifest.sequence).key
    }

    private func notFull(_ manifest: Manifest) -> VaultError { .damaged(object: key(manifest), reason: "a full manifest was named here") }
}
