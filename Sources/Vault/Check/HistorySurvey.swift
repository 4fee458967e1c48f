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
            finding.widen(from: 1, to: max(state.oldestSequence, 2) - 1, ranges: [ByteRange(offset: 0, length: state.sizeBytes)])
            findings[damage.object] = finding
        }
        var seen: Set<Hash256> = []
        // Each with the lineage it is named in, and the sequences that cannot be read without it.
        var open: [(ref: ManifestRef, lineage: VaultID, needed: ClosedRange<UInt64>?)] = []
        for lineage in state.lineages where lineage.sequence >= state.oldestSequence {
            open.append((lineage.full, lineage.id, lineage.full.sequence...lineage.sequence))
            open += lineage.tail.map { ($0, lineage.id, $0.sequence...lineage.sequence) }
        }
        while let (ref, lineage, needed) = open.popLast() {
            guard seen.insert(ref.hash).inserted else { continue }
            do {
                let manifest = try vault.manifest(ref, disk: state.disk, lineage: lineage)
                if needed == nil { unneededCount += 1 } else { manifests[ref.hash] = manifest }
                for full in (manifest.fulls ?? []).reversed() where full.sequence >= state.oldestSequence {
                    open.append((ManifestRef(lineage: full.lineage, sequence: full.sequence, hash: full.hash), manifest.lineage, full.sequence...full.sequence))
                }
                if followPrevious, let previous = manifest.previous { open.insert((previous, manifest.lineage, nil), at: 0) }
            } catch {
                // Nothing reads what was rolled up: collection may have removed it.
                if needed == nil, case .missing = error { continue }
                guard let damage = error.damage else { throw error }
                var finding = CheckFinding(object: damage.object, reason: damage.reason)
                if let needed { finding.widen(from: needed.lowerBound, to: needed.upperBound, ranges: [ByteRange(offset: 0, length: state.sizeBytes)]) }
                findings[damage.object] = finding
            }
        }
    }

    /// Maps with the sequences of the states that are read through them.
    var roots: [(root: MapRoot, first: UInt64, last: UInt64)] {
        let fulls = manifests.values.filter { $0.kind == .full }.sorted { ($0.fullNumber ?? 0) < ($1.fullNumber ?? 0) }
        return fulls.flatMap { full -> [(root: MapRoot, first: UInt64, last: UInt64)] in
            let next = fulls.first { $0.after == full.sequence && $0.fullNumber == (full.fullNumber ?? 0) + 1 }
            let end = next.map { max(full.sequence, $0.sequence &- 1) } ?? state.lineages.map(\.sequence).max() ?? full.sequence
            let own = full.root.map { [(root: $0, first: full.sequence, last: end)] } ?? []
            let base = full.baseRoot.map { [(root: $0, first: full.after, last: max(full.after, full.sequence &- 1))] } ?? []
            return base + own
        } + kept.map { (root: $0.root, first: $0.sequence, last: $0.sequence) }
    }

    /// Manifests whose segment lists are read: full ones, and the tails.
    var coverings: [Manifest] {
        let tails = Set(state.lineages.flatMap(\.tail).map(\.hash))
        return manifests.filter { $0.value.kind == .full || tails.contains($0.key) }.map(\.value)
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
