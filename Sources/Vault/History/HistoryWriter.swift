// Adds one step to the history of a disk: decides whether it is a delta, a roll-up or a full manifest, builds the map
// for a full one, and puts the manifest (docs/formats/vault.md section 9). The caller publishes the state it returns in
// a head; until then the step does not exist. Used by the one uploader of the disk, on one thread.

package final class HistoryWriter {
    private let vault: Vault
    private let disk: VaultID
    private let limits: Limits
    /// Manifests the next steps need, so that steady replication reads none.
    private var known: [Hash256: Manifest] = [:]

    /// When a full manifest is due; smaller in tests.
    package struct Limits: Sendable {
        package var manifestsPerFull = UInt64(FormatLimits.manifestsPerFullMax)
        package var payloadBytesPerFull = FormatLimits.payloadBytesPerFullMax
        package var recordsPerFull = FormatLimits.recordsPerFullMax
        package var deltasPerRollup = FormatLimits.deltasPerRollupMax

        package init() {}
    }

    package init(vault: Vault, disk: VaultID, limits: Limits = Limits()) {
        self.vault = vault
        self.disk = disk
        self.limits = limits
    }

    /// The first state of a disk: the map of its chunks, read while the image was frozen at `sequence`.
    package func start(lineage: VaultID, sequence: UInt64, sizeBytes: UInt64, root: MapRoot, point: RecoveryPoint) throws(VaultError) -> DiskState {
        let manifest = Manifest(
            vault: vault.id, disk: disk, lineage: lineage, kind: .full, after: sequence, sequence: sequence, number: 1, previous: nil, sizeBytes: sizeBytes,
            segments: [], points: [point], root: root, fullNumber: 1, fulls: [])
        let ref = try put(manifest)
        return DiskState(
            disk: disk, sizeBytes: sizeBytes, oldestSequence: sequence, lineages: [LineageState(id: lineage, sequence: sequence, full: ref)])
    }

    /// Adds `segments` and `points`, all after the state's sequence and up to `sequence`; of a `merged` interval the segments give the end only. With `checkpoint` a full manifest is written in any case.
    /// The size is `state`'s: see `DiskState.noteSize`. A full manifest's map names what was `moved` where it was moved to.
    package func extend(
        _ state: DiskState, through sequence: UInt64, segments: [SegmentEntry], points: [RecoveryPoint], merged: [Manifest.MergedInterval] = [],
        moved: [MovedBlocks] = [], checkpoint: Bool = false, epoch: UInt32
    ) throws(VaultError) -> DiskState {
        guard var lineage = state.current else { throw .refused("the disk \(disk) has no lineage yet") }
        guard sequence > lineage.sequence else { throw .refused("the vault already has the disk \(disk) up to \(lineage.sequence)") }
        try refuseUsed([sequence] + segments.map(\.first) + points.map(\.sequence), in: state)
        let step = try self.step(lineage)
        let added = Added(sequence: sequence, segments: segments, points: points, merged: merged)
        var next = state
        if checkpoint || isFullDue(step, adding: segments) {
            // A collection may have deleted what was made under an earlier epoch.
            lineage.full = try full(step, lineage, state, added, moved.filter { $0.to?.epoch ?? epoch >= epoch }, epoch)
            lineage.tail = []
        } else {
            let trailing = step.tail.reversed().prefix { $0.kind == .delta }
            if trailing.count + 1 >= limits.deltasPerRollup {
                let covered = Array(trailing.reversed())
                let ref = try part(.rollup, step, lineage, state.sizeBytes, covered, added)
                lineage.tail = lineage.tail.dropLast(covered.count) + [ref]
            } else {
                lineage.tail.append(try part(.delta, step, lineage, state.sizeBytes, [], added))
            }
        }
        lineage.sequence = sequence
        next.lineages[next.lineages.count - 1] = lineage
        forgetAll(except: lineage)
        return next
    }

    /// A state is found by its number alone, so a number that a lineage left behind has given is not given again.
    private func refuseUsed(_ sequences: [UInt64], in state: DiskState) throws(VaultError) {
        let left = state.lineages.dropLast().map(\.sequence).max() ?? 0
        guard let used = sequences.min(), used <= left else { return }
        throw .refused("the disk \(disk) would get sequence \(used) a second time: the vault has it up to \(left) in a history that was left; an older copy of its log and of the site's directory was put back",
            try: "docs/operating/running.md: decide which copy is right before anything is sent again")
    }

    /// A new lineage that begins with the state at `branch`, which may lie in a lineage that was left before: the disk goes on from there.
    package func branch(_ state: DiskState, to lineage: VaultID, at branch: UInt64, epoch: UInt32) throws(VaultError) -> DiskState {
        guard let parent = state.current else { throw .refused("the disk \(disk) has no lineage yet") }
        let plan = try DiskHistory(vault: vault, state: state).plan(at: branch)
        guard let baseRef = plan.full else { throw .notFound("the disk \(disk) cannot go on from the kept point \(branch), which is below its window") }
        let base = try manifest(baseRef, parent.id)
        let indexes = try SegmentChanges.readAll(vault, disk: disk, plan.segments, manifestLineage: parent.id)
        let root = try MapUpdate(vault: vault, epoch: epoch).apply(indexes, through: branch, to: plan.root, sizeBytes: plan.sizeBytes)
        let newest = try step(parent)
        let last = parent.tail.last ?? parent.full
        let manifest = Manifest(
            vault: vault.id, disk: disk, lineage: lineage, kind: .full, after: plan.baseSequence, sequence: branch, number: newest.newest.number + 1,
            previous: ManifestRef(lineage: last.lineage ?? parent.id, sequence: last.sequence, hash: last.hash), sizeBytes: plan.sizeBytes,
            segments: plan.segments, points: plan.points, merged: plan.merged.orNil, root: root, baseRoot: plan.root, fullNumber: (base.fullNumber ?? 0) + 1,
            fulls: try fulls(after: base, baseRef, oldest: state.oldestSequence))
        let ref = try put(manifest)
        // Whose state it is; the current one may have branched off below.
        let holder = state.lineages.first { $0.sequence >= branch } ?? parent
        var next = state
        // A parent that ends where it branched has nothing of its own: the new lineage leads to all of it.
        if parent.sequence == branch { next.lineages.removeLast() }
        next.lineages.append(LineageState(id: lineage, parent: holder.id, branchSequence: branch, sequence: branch, full: ref))
        return next
    }

    // MARK: Resynchronisation

    /// The map of the newest state.
    package func newestMap(of state: DiskState, epoch: UInt32) throws(VaultError) -> MapRoot {
        guard let lineage = state.current else { throw .refused("the disk \(disk) has no lineage yet") }
        let step = try self.step(lineage)
        guard let root = step.full.root else { throw .refused("the disk \(disk) has no map") }
        let indexes = try SegmentChanges.readAll(vault, disk: disk, step.segments, manifestLineage: lineage.id)
        return try MapUpdate(vault: vault, epoch: epoch).apply(indexes, through: lineage.sequence, to: root, sizeBytes: step.newest.sizeBytes)
    }

    /// Goes on with the state at `point`, whose map was found by comparing and not from records: what lies between it and the newest
    /// state cannot be read. The size is `state`'s.
    package func resynchronise(_ state: DiskState, to point: RecoveryPoint, root: MapRoot) throws(VaultError) -> DiskState {
        guard var lineage = state.current else { throw .refused("the disk \(disk) has no lineage yet") }
        guard point.sequence > lineage.sequence else { throw .refused("the vault already has the disk \(disk) up to \(lineage.sequence)") }
        try refuseUsed([point.sequence], in: state)
        let step = try self.step(lineage)
        let manifest = Manifest(
            vault: vault.id, disk: disk, lineage: lineage.id, kind: .full, after: step.full.sequence, sequence: point.sequence, number: step.newest.number + 1,
            previous: lineage.tail.last ?? lineage.full, sizeBytes: state.sizeBytes, segments: step.segments, points: step.tail.flatMap(\.points) + [point],
            merged: step.merged + [Manifest.MergedInterval(after: lineage.sequence, through: point.sequence)], root: root, baseRoot: step.full.root,
            fullNumber: (step.full.fullNumber ?? 0) + 1, fulls: try fulls(after: step.full, lineage.full, oldest: state.oldestSequence))
        lineage.full = try put(manifest)
        lineage.tail = []
        lineage.sequence = point.sequence
        var next = state
        next.lineages[next.lineages.count - 1] = lineage
        forgetAll(except: lineage)
        return next
    }

    /// Whether the newest manifest is the state that a resynchronisation, or an initial replication, made at `sequence`.
    package func isWhole(_ state: DiskState, at sequence: UInt64) throws(VaultError) -> Bool {
        guard let lineage = state.current, lineage.tail.isEmpty, lineage.sequence == sequence else { return false }
        let full = try manifest(lineage.full, lineage.id)
        // One that a log merged has records at its end.
        return full.merged?.last.map { $0.through == sequence && full.segments.last?.last ?? 0 <= $0.after } ?? false || full.after == sequence
    }

    // MARK: Steps

    private struct Step {
        let full: Manifest
        let tail: [Manifest]

        var newest: Manifest { tail.last ?? full }
        var segments: [SegmentEntry] { tail.flatMap(\.segments) }
        var merged: [Manifest.MergedInterval] { tail.flatMap { $0.merged ?? [] } }
    }

    private struct Added {
        let sequence: UInt64
        let segments: [SegmentEntry]
        let points: [RecoveryPoint]
        let merged: [Manifest.MergedInterval]
    }

    private func step(_ lineage: LineageState) throws(VaultError) -> Step {
        var tail: [Manifest] = []
        for ref in lineage.tail { tail.append(try manifest(ref, lineage.id)) }
        return Step(full: try manifest(lineage.full, lineage.id), tail: tail)
    }

    private func isFullDue(_ step: Step, adding segments: [SegmentEntry]) -> Bool {
        let all = step.segments + segments
        // A newest manifest numbered below the full one cannot be; then a full one is no harm.
        return step.newest.number < step.full.number || step.newest.number - step.full.number + 1 >= limits.manifestsPerFull || all.reduce(0) { $0 + $1.payloadBytes } >= limits.payloadBytesPerFull
            || all.reduce(0) { $0 + $1.records } >= limits.recordsPerFull
    }

    /// How near the next full manifest is, from 0 to 1 and more. Asks nothing: 0 for a state that this writer did not make.
    package func fullness(of state: DiskState) -> Double {
        guard let lineage = state.current, let full = known[lineage.full.hash] else { return 0 }
        let tail = lineage.tail.compactMap { known[$0.hash] }
        guard tail.count == lineage.tail.count else { return 0 }
        let segments = tail.flatMap(\.segments)
        let steps = (Double((tail.last ?? full).number) - Double(full.number) + 1) / Double(limits.manifestsPerFull)
        let bytes = Double(segments.reduce(0) { $0 + $1.payloadBytes }) / Double(limits.payloadBytesPerFull)
        return max(steps, bytes, Double(segments.reduce(0) { $0 + $1.records }) / Double(limits.recordsPerFull))
    }

    private func part(
        _ kind: Manifest.Kind, _ step: Step, _ lineage: LineageState, _ sizeBytes: UInt64, _ covered: [Manifest], _ added: Added
    ) throws(VaultError) -> ManifestRef {
        try put(Manifest(
            vault: vault.id, disk: disk, lineage: lineage.id, kind: kind, after: covered.first?.after ?? lineage.sequence, sequence: added.sequence,
            number: step.newest.number + 1, previous: lineage.tail.last ?? lineage.full, sizeBytes: sizeBytes,
            segments: covered.flatMap(\.segments) + added.segments, points: covered.flatMap(\.points) + added.points,
            merged: (covered.flatMap { $0.merged ?? [] } + added.merged).orNil))
    }

    private func full(
        _ step: Step, _ lineage: LineageState, _ state: DiskState, _ added: Added, _ moved: [MovedBlocks], _ epoch: UInt32
    ) throws(VaultError) -> ManifestRef {
        let sizeBytes = state.sizeBytes
        let segments = step.segments + added.segments
        let indexes = try SegmentChanges.readAll(vault, disk: disk, segments, manifestLineage: lineage.id)
        let update = MapUpdate(vault: vault, epoch: epoch)
        let root: MapRoot
        do throws(VaultError) {
            root = try update.apply(indexes, through: added.sequence, to: step.full.root, sizeBytes: sizeBytes, moved: moved)
        } catch {
            guard error.isIntegrityDamage, !moved.isEmpty else { throw error }
            // A damaged page that no record touches must not hold them up: nothing is named in its copy this time.
            root = try update.apply(indexes, through: added.sequence, to: step.full.root, sizeBytes: sizeBytes)
        }
        let manifest = Manifest(
            vault: vault.id, disk: disk, lineage: lineage.id, kind: .full, after: step.full.sequence, sequence: added.sequence, number: step.newest.number + 1,
            previous: lineage.tail.last ?? lineage.full, sizeBytes: sizeBytes, segments: step.segments.map(\.withoutIndex) + added.segments,
            points: step.tail.flatMap(\.points) + added.points, merged: (step.merged + added.merged).orNil, parts: lineage.tail, root: root,
            baseRoot: step.full.root, fullNumber: (step.full.fullNumber ?? 0) + 1, fulls: try fulls(after: step.full, lineage.full, oldest: state.oldestSequence))
        return try put(manifest)
    }

    /// References to the full manifests 1, 2, 4, 8 … before the one that follows `last`, as far back as the window goes.
    private func fulls(after last: Manifest, _ ref: ManifestRef, oldest: UInt64) throws(VaultError) -> [Manifest.FullRef] {
        let number = (last.fullNumber ?? 0) + 1
        var found = [Manifest.FullRef(fullNumber: number - 1, lineage: last.lineage, sequence: last.sequence, hash: ref.hash)]
        var manifest = last
        var distance: UInt64 = 2
        while distance < number, let next = manifest.fulls?.first(where: { $0.fullNumber == number - distance }), next.sequence >= oldest {
            let absolute = Manifest.FullRef(
                fullNumber: next.fullNumber, lineage: next.lineage ?? manifest.lineage, sequence: next.sequence, hash: next.hash)
            found.append(absolute)
            manifest = try self.manifest(ManifestRef(lineage: absolute.lineage, sequence: next.sequence, hash: next.hash), last.lineage)
            distance *= 2
        }
        return found
    }

    private func manifest(_ ref: ManifestRef, _ lineage: VaultID) throws(VaultError) -> Manifest {
        if let manifest = known[ref.hash] { return manifest }
        let manifest = try vault.manifest(ref, disk: disk, lineage: lineage)
        known[ref.hash] = manifest
        return manifest
    }

    private func put(_ manifest: Manifest) throws(VaultError) -> ManifestRef {
        let ref = try vault.putManifest(manifest)
        known[ref.hash] = manifest
        return ref
    }

    private func forgetAll(except lineage: LineageState) {
        let needed = Set([lineage.full.hash] + lineage.tail.map(\.hash))
        known = known.filter { needed.contains($0.key) }
    }
}

extension [Manifest.MergedInterval] {
    /// As a manifest has it: absent where there is none.
    fileprivate var orNil: Self? { isEmpty ? nil : self }
}
