// All manifests of a disk that can be reached, and what they name; damaged ones do not stop the walk, because full
// manifests are also named by later ones.

struct HistorySurvey {
    let vault: Vault
    let state: DiskState
    /// Also read manifests that only their successor names (deltas that were rolled up).
    let followPrevious: Bool

    /// Those that a reader may need.
    private(set) var manifests: [Hash256: Manifest] = [:]
    /// How many others were read: what they name may be gone.
    private(set) var unneededCount = 0
    /// The points below the window.
    private(set) var kept: [KeptPoint] = []
    /// By object key.
    private(set) var findings: [String: CheckFinding] = [:]

    init(vault: Vault, state: DiskState, followPrevious: Bool) {
        self.vault = vault
        self.state = state
        self.followPrevious = followPrevious
    }

    mutating func run() throws(VaultError) {
        do {
            kept = try DiskHistory(vault: vault, state: state).keptPoints()
        } catch {
            guard let damage = error.damage else { throw error }
            var finding = CheckFinding(object: damage.object, reason: damage.reason)
            finding.hidesPoints = true
            finding.widen(from: 1, to: max(state.oldestSequence, 2) - 1, ranges: [ByteRange(offset: 0, length: state.sizeBytes)])
            findings[damage.object] = finding
        }
        try visitManifests()
    }

    private mutating func visitManifests() throws(VaultError) {
        var seen: Set<Hash256> = []
        // Each with the lineage it is named in, and whether a reader may need it.
        var open: [(ref: ManifestRef, lineage: VaultID, isNeeded: Bool)] = []
        for lineage in state.lineages where lineage.sequence >= state.oldestSequence { open += ([lineage.full] + lineage.tail).map { ($0, lineage.id, true) } }
        var fulls = Set(state.lineages.map(\.full.sequence))
        var damaged: [(ref: ManifestRef, object: String, reason: String)] = []
        while let (ref, lineage, isNeeded) = open.popLast() {
            guard seen.insert(ref.hash).inserted else { continue }
            do {
                let manifest = try vault.manifest(ref, disk: state.disk, lineage: lineage)
                if isNeeded { manifests[ref.hash] = manifest } else { unneededCount += 1 }
                for full in (manifest.fulls ?? []).reversed() where full.sequence >= state.oldestSequence {
                    fulls.insert(full.sequence)
                    open.append((ManifestRef(lineage: full.lineage, sequence: full.sequence, hash: full.hash), manifest.lineage, true))
                }
                if followPrevious, let previous = manifest.previous { open.insert((previous, manifest.lineage, false), at: 0) }
            } catch {
                // Nothing reads what was rolled up: collection may have removed it.
                if !isNeeded, case .missing = error { continue }
                guard let damage = error.damage else { throw error }
                if isNeeded { damaged.append((ref, damage.object, damage.reason)) } else { findings[damage.object] = CheckFinding(object: damage.object, reason: damage.reason) }
            }
        }
        for (ref, object, reason) in damaged {
            var finding = CheckFinding(object: object, reason: reason)
            finding.hidesPoints = true
            for span in spans(without: ref, fulls) { finding.widen(from: span.first, to: span.last, ranges: [ByteRange(offset: 0, length: state.sizeBytes)]) }
            findings[object] = finding
        }
    }

    /// The states that cannot be read without a manifest. What lies before the newest full one of a lineage is found through that, what lies before
    /// another full one through the others.
    private func spans(without ref: ManifestRef, _ fulls: Set<UInt64>) -> [(first: UInt64, last: UInt64)] {
        var spans: [(first: UInt64, last: UInt64)] = []
        for lineage in state.lineages {
            let start = max(firstSequence(readThrough: lineage.id), state.oldestSequence)
            if lineage.full.hash == ref.hash { spans.append((start, lineage.sequence)) }
            guard let place = lineage.tail.firstIndex(where: { $0.hash == ref.hash }) else { continue }
            spans.append((max(start, (place > 0 ? lineage.tail[place - 1] : lineage.full).sequence + 1), lineage.sequence))
        }
        guard spans.isEmpty else { return spans }
        let before = fulls.filter { $0 < ref.sequence }.max()
        return [(before.map { $0 + 1 } ?? state.oldestSequence, ref.sequence)]
    }

    /// Sequences are never used twice: what an older lineage reaches is read through that.
    func firstSequence(readThrough lineage: VaultID) -> UInt64 {
        guard let place = state.lineages.firstIndex(where: { $0.id == lineage }), place > 0 else { return 0 }
        return state.lineages[place - 1].sequence + 1
    }

    /// Maps with the sequences of the states that are read through them: none where the last is below the first.
    var roots: [(root: MapRoot, first: UInt64, last: UInt64)] {
        let fulls = manifests.filter { $0.value.kind == .full }
        let sequences = Set(fulls.values.map(\.sequence))
        return fulls.flatMap { hash, full -> [(root: MapRoot, first: UInt64, last: UInt64)] in
            let start = firstSequence(readThrough: full.lineage)
            let tails = state.lineages.filter { $0.full.hash == hash }.map { (first: max(full.sequence, firstSequence(readThrough: $0.id)), last: $0.sequence) }
            let own = full.root.map { root in ([(first: full.sequence, last: full.sequence)] + tails).map { (root: root, first: $0.first, last: $0.last) } } ?? []
            let base = full.baseRoot.map { [(root: $0, first: max(start, full.after + (sequences.contains(full.after) ? 1 : 0)), last: full.sequence &- 1)] } ?? []
            return base + own
        } + kept.map { (root: $0.root, first: $0.sequence, last: $0.sequence) }
    }

    /// Segment lists that are read: of full manifests and of the tails, each with the sequences of the states that may be laid over them.
    var coverings: [(manifest: Manifest, first: UInt64, last: UInt64)] {
        manifests.flatMap { hash, manifest -> [(manifest: Manifest, first: UInt64, last: UInt64)] in
            // The state of the full one itself is its map.
            if manifest.kind == .full { return [(manifest, max(manifest.after + 1, firstSequence(readThrough: manifest.lineage)), manifest.sequence &- 1)] }
            return state.lineages.filter { $0.tail.contains { $0.hash == hash } }
                .map { (manifest, max(manifest.after + 1, firstSequence(readThrough: $0.id)), $0.sequence) }
        }
    }

    var segments: [SegmentID: SegmentEntry] {
        var found: [SegmentID: SegmentEntry] = [:]
        for manifest in manifests.values {
            for entry in manifest.segments { found[SegmentID(lineage: entry.lineage ?? manifest.lineage, first: entry.first, last: entry.last)] = entry }
        }
        return found
    }

    var points: [RecoveryPoint] {
        var found: [UInt64: RecoveryPoint] = [:]
        for point in manifests.values.flatMap(\.points) where point.sequence >= state.oldestSequence { found[point.sequence] = point }
        for point in kept { found[point.sequence] = point.point }
        return found.values.sorted { $0.sequence < $1.sequence }
    }
}
