// What segments changed that points were opened with, kept for the next ones: points between two maps read mostly the same.

import Synchronization
import Vault

final class KnownChanges: Sendable {
    private struct Key: Hashable {
        let disk: VaultID
        let id: SegmentID
    }

    private struct State {
        var kept: [Key: SegmentChanges] = [:]
        var changes = 0
    }

    /// 32 bytes each.
    private let changesMax: Int
    private let state = Mutex(State())

    init(changesMax: Int) { self.changesMax = changesMax }

    /// In the order of `entries`, whose lineages are filled in.
    func read(_ vault: Vault, _ disk: VaultID, _ entries: [SegmentEntry]) throws(VaultError) -> [SegmentChanges] {
        let keys = entries.map { Key(disk: disk, id: SegmentID(lineage: $0.lineage ?? disk, first: $0.first, last: $0.last)) }
        var found = state.withLock { state in keys.map { state.kept[$0] } }
        let missing = found.indices.filter { found[$0] == nil }
        let fetched = try SegmentChanges.readAll(vault, disk: disk, missing.map { entries[$0] }, manifestLineage: disk)
        for (place, changes) in zip(missing, fetched) { found[place] = changes }
        if changesMax > 0 { keep(zip(missing.map { keys[$0] }, fetched)) }
        return found.compactMap { $0 }
    }

    private func keep(_ segments: some Sequence<(Key, SegmentChanges)>) {
        state.withLock { state in
            for (key, segment) in segments {
                // Who walks along a history needs the old ones no more.
                if state.changes + segment.changes.count > changesMax { state = State() }
                if state.kept.updateValue(segment, forKey: key) == nil { state.changes += segment.changes.count }
            }
        }
    }
}
