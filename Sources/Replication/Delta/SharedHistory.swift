// Whether what the vault has after the last mark came from this log. It did when an uploader here died between a head
// and its mark; it did not when another host replicated a copy of this disk meanwhile: then two histories under one
// lineage must not be mixed. The newest record of the vault decides: its time, place and checksum are those of the log's.

package import ChangeLog
package import Vault

package struct SharedHistory {
    let vault: Vault
    let disk: VaultID
    let reader: LogReader

    package init(vault: Vault, disk: VaultID, reader: LogReader) {
        self.vault = vault
        self.disk = disk
        self.reader = reader
    }

    /// `current` reaches beyond `mark`.
    package func includes(_ current: LineageState, after mark: UInt64) throws -> Bool {
        let manifest = try vault.manifest(current.tail.last ?? current.full, disk: disk, lineage: current.id)
        // An initial state has no records.
        guard let entry = manifest.segments.last else { return true }
        let index = try SegmentIndex.read(vault, disk: disk, entry: entry, manifestLineage: manifest.lineage)
        guard let newest = index.records.last(where: { $0.sequence <= current.sequence }), newest.sequence > mark else { return true }
        var isSame = false
        _ = try reader.records(after: newest.sequence - 1, through: newest.sequence) { record, _ in
            isSame = SegmentRecordKind(record.kind) == newest.kind && record.diskOffset == newest.diskOffset && record.length == newest.length
                && record.wallNanoseconds == newest.wallNanoseconds
        }
        return isSame
    }
}
