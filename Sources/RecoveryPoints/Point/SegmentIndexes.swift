// Indexes of segments that points were opened with, kept for the next ones: points between two maps read mostly the same.

import Synchronization
import Vault

final class SegmentIndexes: Sendable {
    private struct Key: Hashable {
        let disk: VaultID
        let id: SegmentID
    }

    private struct State {
        var kept: [Key: SegmentIndex] = [:]
        var records = 0
    }

    /// 64 bytes each.
    private let recordsMax: Int
    private let state = Mutex(State())

    init(recordsMax: Int) { self.recordsMax = recordsMax }

    /// In the order of `entries`, whose lineages are filled in.
    func read(_ vault: Vault, _ disk: VaultID, _ entries: [SegmentEntry]) throws(VaultError) -> [SegmentIndex] {
        let keys = entries.map { Key(disk: disk, id: SegmentID(lineage: $0.lineage ?? disk, first: $0.first, last: $0.last)) }
        var found = state.withLock { state in keys.map { state.kept[$0] } }
        let missing = found.indices.filter { found[$0] == nil }
        let fetched = try SegmentIndex.readAll(vault, disk: disk, missing.map { entries[$0] }, manifestLineage: disk)
        for (place, index) in zip(missing, fetched) { found[place] = index }
        if recordsMax > 0 { keep(zip(missing.map { keys[$0] }, fetched)) }
        return found.compactMap { $0 }
    }

    private func keep(_ indexes: some Sequence<(Key, SegmentIndex)>) {
        state.withLock { state in
            for (key, index) in indexes {
                // Who walks along a history needs the old ones no more.
                if state.records + index.records.count > recordsMax { state = State() }
                if state.kept.updateValue(index, forKey: key) == nil { state.records += index.records.count }
            }
        }
    }
}
