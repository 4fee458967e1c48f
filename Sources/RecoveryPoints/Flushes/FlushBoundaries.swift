// Picking a moment of a disk's history in the vault: the flush boundaries there are, and what a time or a number
// stands for among them and the cut points. Called by `point list`, `point mount` and `restore`.

package import Vault

extension DiskHistory {
    /// The newest boundaries that fit, of all histories of the disk.
    package func flushBoundaries(_ query: FlushQuery) throws(VaultError) -> FlushPage {
        var pages: [FlushPage] = []
        for lineage in state.lineages where lineage.sequence >= state.oldestSequence {
            // Points bound the search by time: without them a far moment would be looked for in every segment.
            var after = before(max(query.fromSequence, state.oldestSequence))
            if query.fromNanoseconds > 0, let point = try bracket(lineage, micros: query.fromNanoseconds / 1000).point {
                after = max(after, before(point.sequence))
            }
            var through = min(query.throughSequence, lineage.sequence)
            if query.throughNanoseconds < .max { through = min(through, try bracket(lineage, micros: query.throughNanoseconds / 1000).last) }
            // What a listed parent has is told of by the parent, but for the boundary where this one branched off.
            if let parent = lineage.parent, let branch = lineage.branchSequence, state.lineages.contains(where: { $0.id == parent }) {
                after = max(after, before(branch))
            }
            guard after < through else { continue }
            var page = FlushPage(query)
            var walk = FlushWalk(self, after: after, through: through)
            try walk.run(lineage) { page.offer($0) }
            pages.append(page)
        }
        return FlushPage.merged(pages, query)
    }

    /// The newest cut point or flush boundary at or before the time. Cut points find the place in the history, as they
    /// are listed; then the boundaries up to the next one count.
    package func newest(atOrBefore micros: UInt64) throws(VaultError) -> UInt64 {
        for lineage in state.lineages.reversed() where lineage.sequence >= state.oldestSequence {
            let place = try bracket(lineage, micros: micros)
            guard let point = place.point else { continue }
            var newest = point.sequence
            var walk = FlushWalk(self, after: point.sequence, through: place.last)
            try walk.run(lineage) { boundary in
                guard boundary.wallNanoseconds / 1000 <= micros else { return true }
                newest = boundary.sequence
                return false
            }
            return newest
        }
        if let kept = try keptPoints().last(where: { $0.timeMicros <= micros }) { return kept.sequence }
        throw .notFound("the disk has no point at or before that time")
    }

    /// `sequence` if it is a cut point, a flush boundary or the end of a publication. Any other number would open a
    /// state that no flush vouches for, and is most likely a slip of the pen.
    package func opened(at sequence: UInt64) throws(VaultError) -> UInt64 {
        let plan = try plan(at: sequence)
        guard let lineage = state.lineages.first(where: { $0.sequence >= sequence }), !isPublished(sequence), plan.baseSequence != sequence,
            plan.points.last?.sequence != sequence
        else { return sequence }
        var below = plan.points.last?.sequence ?? plan.baseSequence
        var walk = FlushWalk(self, after: below, through: sequence)
        do throws(VaultError) {
            try walk.run(lineage) { boundary in
                below = boundary.sequence
                return false
            }
        } catch {
            // The check guards against slips, not against damage: what can be read of a damaged vault must stay readable.
            if error.isIntegrityDamage { return sequence }
            throw error
        }
        guard below != sequence else { return sequence }
        throw .notFound(
            "#\(sequence) is neither a recovery point nor a flush boundary; the nearest are #\(below) and #\(walk.next ?? lineage.sequence)")
    }

    private func isPublished(_ sequence: UInt64) -> Bool {
        state.lineages.contains { $0.sequence == sequence || $0.branchSequence == sequence || $0.full.sequence == sequence || $0.tail.contains { $0.sequence == sequence } }
    }

    private func before(_ sequence: UInt64) -> UInt64 { sequence > 0 ? sequence - 1 : 0 }

    /// The newest point of the history at or before the time, and the last sequence before the next point.
    private func bracket(_ lineage: LineageState, micros: UInt64) throws(VaultError) -> (point: RecoveryPoint?, last: UInt64) {
        var found: RecoveryPoint?
        var last = lineage.sequence
        try visitManifests(of: lineage) { manifest throws(VaultError) in
            for point in manifest.points.reversed() where found == nil && point.sequence >= state.oldestSequence {
                if point.timeMicros <= micros { found = point } else { last = before(point.sequence) }
            }
            return found == nil
        }
        return (found, last)
    }
}
