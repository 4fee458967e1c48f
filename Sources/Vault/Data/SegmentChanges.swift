// What a segment changes on the disk, without its payload: as the manifest that names it carries it, so that a state opens without a
// request for each segment, else from the segment's own index. Points are read through it and maps are made from it.
// Form: docs/formats/vault.md section 9, `index`.

/// What a write, zero or discard record changes.
package struct DiskChange: Equatable, Sendable {
    package let sequence: UInt64
    package let startBlock: UInt64
    /// Bytes.
    package let length: UInt64
    /// Where a write's payload begins in the plaintext; nil: zeros.
    package let sourceBlock: UInt32?

    package init(sequence: UInt64, startBlock: UInt64, length: UInt64, sourceBlock: UInt32?) {
        self.sequence = sequence
        self.startBlock = startBlock
        self.length = length
        self.sourceBlock = sourceBlock
    }

    package var blockCount: UInt64 { (length + UInt64(FormatLimits.blockBytes) - 1) / UInt64(FormatLimits.blockBytes) }
    /// The first byte of the disk behind it.
    package var end: UInt64 { startBlock * UInt64(FormatLimits.blockBytes) + length }

    init?(_ record: SegmentRecord) {
        guard record.changesDisk else { return nil }
        self.init(
            sequence: record.sequence, startBlock: record.startBlock, length: record.length,
            sourceBlock: record.kind == .write ? UInt32(record.position / UInt64(FormatLimits.blockBytes)) : nil)
    }
}

package struct SegmentChanges: Sendable {
    private static let threads = 16

    package let id: SegmentID
    /// Header and frame table, so that payload can be fetched without asking for them.
    package let object: SealedObject
    /// Sequences rise.
    package let changes: [DiskChange]

    /// Of several segments, in their order. Those that `entries` do not carry are asked, some at a time.
    package static func readAll(_ vault: Vault, disk: VaultID, _ entries: [SegmentEntry], manifestLineage: VaultID) throws(VaultError) -> [SegmentChanges] {
        let missing = entries.indices.filter { entries[$0].index == nil }
        let fetched = try mapInParallel(missing, threads: threads) { place throws(VaultError) in
            let index = try SegmentIndex.read(vault, disk: disk, entry: entries[place], manifestLineage: manifestLineage)
            return SegmentChanges(id: index.id, object: index.object, changes: index.records.compactMap(DiskChange.init))
        }
        var found = Dictionary(uniqueKeysWithValues: zip(missing, fetched))
        for (place, entry) in entries.enumerated() where found[place] == nil {
            found[place] = try carried(entry, vault, disk, SegmentID(lineage: entry.lineage ?? manifestLineage, first: entry.first, last: entry.last))
        }
        return entries.indices.compactMap { found[$0] }
    }

    private static func carried(_ entry: SegmentEntry, _ vault: Vault, _ disk: VaultID, _ id: SegmentID) throws(VaultError) -> SegmentChanges {
        let place = ObjectPlace.segment(disk: disk, lineage: id.lineage, first: id.first, last: id.last)
        let bytes = entry.index.map { Array($0) } ?? []
        let object = try vault.withKeys { keys throws(VaultError) in
            try bytes.withBytes { bytes throws(VaultError) in try SealedObject(bytes, place: place, keys: keys) }
        }
        var reader = ChangeReader(bytes: bytes, position: object.header.tableEnd, entry: entry)
        guard entry.isWithinLimits, entry.first > 0, entry.first <= entry.last, UInt64(object.table.objectBytes) == entry.bytes, UInt64(object.header.plaintextBytes) == entry.payloadOffset + entry.payloadBytes,
            let changes = reader.changes()
        else { throw .damaged(object: place.key, reason: "what its manifest carries of it is not valid") }
        return SegmentChanges(id: id, object: object, changes: changes)
    }

    // MARK: Carried by a manifest

    /// `start` is the segment's stored bytes, at least header and frame table.
    static func carried(_ changes: [DiskChange], first: UInt64, payloadOffset: Int, of start: ArraySlice<UInt8>) -> [UInt8] {
        var bytes = Array(start)
        var (sequence, block) = (first - 1, UInt64(0))
        var expected = UInt64(payloadOffset / FormatLimits.blockBytes)
        for change in changes {
            let form: UInt64 = if let source = change.sourceBlock { UInt64(source) == expected ? 0 : 1 } else { 2 }
            append(4 * (change.sequence - sequence) + form, to: &bytes)
            let distance = Int64(change.startBlock) - Int64(block)
            append(distance < 0 ? UInt64(-distance) * 2 - 1 : UInt64(distance) * 2, to: &bytes)
            append(change.length / 512, to: &bytes)
            if let source = change.sourceBlock {
                if form == 1 { append(UInt64(source), to: &bytes) }
                expected = UInt64(source) + change.blockCount
            }
            (sequence, block) = (change.sequence, change.startBlock + change.blockCount)
        }
        return bytes
    }

    private static func append(_ number: UInt64, to bytes: inout [UInt8]) {
        var rest = number
        while rest >= 0x80 {
            bytes.append(UInt8(rest & 0x7F) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }
}

/// Entry by entry; nil where something is not what the format allows.
private struct ChangeReader {
    let bytes: [UInt8]
    var position: Int
    let entry: SegmentEntry

    mutating func changes() -> [DiskChange]? {
        var changes: [DiskChange] = []
        changes.reserveCapacity(Int(entry.records))
        var (sequence, block) = (entry.first - 1, UInt64(0))
        var expected = entry.payloadOffset / UInt64(FormatLimits.blockBytes)
        while position < bytes.count {
            guard UInt64(changes.count) < entry.records, let change = change(after: sequence, block, expected) else { return nil }
            changes.append(change)
            (sequence, block) = (change.sequence, change.startBlock + change.blockCount)
            if let source = change.sourceBlock { expected = UInt64(source) + change.blockCount }
        }
        return changes
    }

    private mutating func change(after sequence: UInt64, _ block: UInt64, _ expected: UInt64) -> DiskChange? {
        guard let step = number(), let distance = number(), let sectors = number(), step >= 4, step / 4 <= entry.last - sequence else { return nil }
        let start = Int64(block) + (distance % 2 == 0 ? Int64(distance / 2) : -Int64(distance / 2) - 1)
        let blocksMax = FormatLimits.diskBytesMax / UInt64(FormatLimits.blockBytes)
        guard start >= 0, UInt64(start) < blocksMax, sectors > 0, sectors <= FormatLimits.diskBytesMax / 512 else { return nil }
        var source: UInt64?
        switch step % 4 {
        case 0: source = expected
        case 1:
            source = number()
            guard source != nil else { return nil }
        case 2: break
        default: return nil
        }
        let change = DiskChange(sequence: sequence + step / 4, startBlock: UInt64(start), length: sectors * 512, sourceBlock: source.flatMap { UInt32(exactly: $0) })
        guard change.end <= FormatLimits.diskBytesMax, source == nil || isPayload(change) else { return nil }
        return change
    }

    private func isPayload(_ change: DiskChange) -> Bool {
        guard let source = change.sourceBlock, change.length <= entry.payloadBytes else { return false }
        let start = UInt64(source) * UInt64(FormatLimits.blockBytes)
        return start >= entry.payloadOffset && start + change.blockCount * UInt64(FormatLimits.blockBytes) <= entry.payloadOffset + entry.payloadBytes
    }

    private mutating func number() -> UInt64? {
        var number: UInt64 = 0
        for place in 0..<9 {
            guard position < bytes.count else { return nil }
            let byte = bytes[position]
            position += 1
            number |= UInt64(byte & 0x7F) << UInt64(7 * place)
            if byte & 0x80 == 0 { return number }
        }
        return nil
    }
}
