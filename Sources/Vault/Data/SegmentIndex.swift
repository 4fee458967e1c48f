// The index of a stored segment, read without its payload: one ranged GET; every field is checked before it is believed. What reads
// flush boundaries and what checks a vault uses it, and SegmentChanges where no manifest carries it.

import BlockIO
import ObjectStore

package struct SegmentIndex: Sendable {
    package let id: SegmentID
    package let records: [SegmentRecord]
    /// Header and frame table, so that payload can be fetched without asking for them again.
    package let object: SealedObject

    /// Reads the index of `entry`, a segment of `disk`. `manifestLineage` is the lineage of the manifest that names it.
    package static func read(_ vault: Vault, disk: VaultID, entry: SegmentEntry, manifestLineage: VaultID) throws(VaultError) -> SegmentIndex {
        let id = SegmentID(lineage: entry.lineage ?? manifestLineage, first: entry.first, last: entry.last)
        let place = ObjectPlace.segment(disk: disk, lineage: id.lineage, first: id.first, last: id.last)
        guard entry.payloadOffset <= UInt64(FormatLimits.segmentPlaintextBytesMax), entry.payloadBytes <= UInt64(FormatLimits.segmentPayloadBytesMax) else {
            throw .damaged(object: place.key, reason: "its manifest claims \(entry.payloadOffset) bytes of index and \(entry.payloadBytes) of payload")
        }
        let frames = ObjectHeader.frameCount(plaintextBytes: Int(entry.payloadOffset + entry.payloadBytes), frameBytes: FormatLimits.frameBytes)
        let indexFrames = Int(entry.payloadOffset) / FormatLimits.frameBytes
        let wanted = UInt64(ObjectHeader.byteCount + 4 * frames + Int(entry.payloadOffset) + 32 * indexFrames)
        let start = try fromStore(place.key) { () throws(StoreError) in try vault.store.get(place.key, range: 0..<min(wanted, entry.bytes)) }
        return try parse(start, place: place, id: id, vault: vault, disk: disk)
    }

    /// The indexes of several segments, in their order, fetched some at a time.
    package static func readAll(_ vault: Vault, disk: VaultID, _ entries: [SegmentEntry], manifestLineage: VaultID) throws(VaultError) -> [SegmentIndex] {
        try mapInParallel(entries, threads: 8) { entry throws(VaultError) in
            try read(vault, disk: disk, entry: entry, manifestLineage: manifestLineage)
        }
    }

    /// `start` holds the object at least as far as its index reaches.
    static func parse(_ start: [UInt8], place: ObjectPlace, id: SegmentID, vault: Vault, disk: VaultID) throws(VaultError) -> SegmentIndex {
        let object = try vault.withKeys { keys throws(VaultError) in
            try start.withBytes { bytes throws(VaultError) in try SealedObject(bytes, place: place, keys: keys) }
        }
        let first = try open(object, frames: 0..<1, start)
        guard let header = first.withUnsafeBytes({ SegmentHeader($0) }), header.payloadOffset + header.payloadBytes == object.header.plaintextBytes,
            header.first == id.first, header.last == id.last, header.lineage == id.lineage
        else { throw .damaged(object: place.key, reason: "its segment header does not fit its place") }
        let frames = header.payloadOffset / object.header.frameBytes
        let index = frames == 1 ? first : try open(object, frames: 0..<frames, start)
        return SegmentIndex(id: id, records: try records(index, header, object: place.key), object: object)
    }

    private static func open(_ object: SealedObject, frames: Range<Int>, _ start: [UInt8]) throws(VaultError) -> [UInt8] {
        guard frames.upperBound <= object.header.frameCount, object.table.offsets[frames.upperBound] <= start.count else {
            throw .damaged(object: object.place.key, reason: "it ends inside its index")
        }
        var plaintext = [UInt8](repeating: 0, count: frames.reduce(0) { $0 + object.header.plaintextBytes(ofFrame: $1) })
        try plaintext.withMutableBytes { output throws(VaultError) in
            try start.withBytes { bytes throws(VaultError) in
                let stored = UnsafeRawBufferPointer(rebasing: bytes[object.table.offsets[frames.lowerBound]..<object.table.offsets[frames.upperBound]])
                try object.open(frames, stored: stored, into: output)
            }
        }
        return plaintext
    }

    static func records(_ index: [UInt8], _ header: SegmentHeader, object: String) throws(VaultError) -> [SegmentRecord] {
        var records: [SegmentRecord] = []
        records.reserveCapacity(header.recordCount)
        let end = UInt64(header.payloadOffset + header.payloadBytes)
        for number in 0..<header.recordCount {
            let record = index.withUnsafeBytes { SegmentRecord($0, at: SegmentHeader.byteCount + SegmentRecord.byteCount * number) }
            guard let record, record.sequence > (records.last?.sequence ?? 0), fits(record, from: UInt64(header.payloadOffset), to: end) else {
                throw .damaged(object: object, reason: "record \(number) of its index is not valid")
            }
            records.append(record)
        }
        guard records.first?.sequence == header.first, records.last?.sequence == header.last else {
            throw .damaged(object: object, reason: "its index does not start and end at its own sequences")
        }
        return records
    }

    private static func fits(_ record: SegmentRecord, from start: UInt64, to end: UInt64) -> Bool {
        guard record.payloadBytes > 0 else { return record.position == 0 }
        return record.position >= start && record.position % UInt64(FormatLimits.blockBytes) == 0 && record.position <= end
            && end - record.position >= UInt64(record.payloadBytes)
    }
}

/// Names a segment of a disk.
package struct SegmentID: Hashable, Sendable {
    package let lineage: VaultID
    package let first: UInt64
    package let last: UInt64

    package init(lineage: VaultID, first: UInt64, last: UInt64) {
        self.lineage = lineage
        self.first = first
        self.last = last
    }
}
