// Collects log records of one disk and lineage in the order of their sequence, then puts them as one segment object.
// Used by the uploader on one thread; memory is the payload twice.

import BlockIO
import Foundation

package final class SegmentWriter {
    private let vault: Vault
    private let disk: VaultID
    private let lineage: VaultID
    private let payloadBytesMax: Int
    private var records: [SegmentRecord] = []
    private var payload: [UInt8] = []

    package init(vault: Vault, disk: VaultID, lineage: VaultID, payloadBytesMax: Int = FormatLimits.segmentPayloadBytesDefault) {
        self.vault = vault
        self.disk = disk
        self.lineage = lineage
        self.payloadBytesMax = min(payloadBytesMax, FormatLimits.segmentPayloadBytesMax)
    }

    package var isEmpty: Bool { records.isEmpty }

    /// Whether a record with this payload still fits; a first record always does.
    package func fits(payloadBytes: Int) -> Bool {
        records.isEmpty || (records.count < FormatLimits.segmentRecordsMax && payload.count + Self.padded(payloadBytes) <= payloadBytesMax)
    }

    /// Adds a record; `bytes` are its payload (write: the data, point: the tag).
    package func append(_ record: SegmentRecord, payload bytes: UnsafeRawBufferPointer) throws(VaultError) {
        guard bytes.count == record.payloadBytes, record.hasValidRange, record.sequence > (records.last?.sequence ?? 0), record.sequence <= FormatLimits.integerMax,
            payload.count + Self.padded(bytes.count) <= FormatLimits.segmentPayloadBytesMax, records.count < FormatLimits.segmentRecordsMax
        else { throw .refused("the record \(record.sequence) (\(record.kind), \(record.length) bytes at \(record.diskOffset)) cannot go into a segment") }
        var placed = record
        // Relative to the payload until the size of the index is known.
        placed.position = UInt64(payload.count)
        placed.payloadChecksum = bytes.isEmpty ? 0 : crc32c(bytes)
        records.append(placed)
        if payload.isEmpty { payload.reserveCapacity(payloadBytesMax) }
        payload.append(contentsOf: bytes)
        payload.append(contentsOf: repeatElement(0, count: Self.padded(bytes.count) - bytes.count))
    }

    /// Puts the segment, verified, and starts a new one. Repeating it after a failure is safe: what an earlier try stored is adopted.
    package func finish() throws(VaultError) -> SegmentEntry {
        guard let first = records.first?.sequence, let last = records.last?.sequence else { throw .refused("an empty segment cannot be put") }
        let header = SegmentHeader(recordCount: records.count, payloadBytes: payload.count, first: first, last: last, lineage: lineage)
        let place = ObjectPlace.segment(disk: disk, lineage: lineage, first: first, last: last)
        let plaintext = plaintext(header)
        let sealed = try vault.seal(plaintext, place: place)
        let stored = try vault.putVerified(place, sealed) { [vault] stored throws(VaultError) in
            try vault.withKeys { keys throws(VaultError) in try SealedObject.open(stored, place: place, keys: keys) } == plaintext
        }
        // Of what is in the vault: an earlier try has another salt.
        let sealedHeader = try stored.withBytes { bytes throws(VaultError) in
            try ObjectHeader(bytes, key: place.key, expected: .segment, vaultCipher: vault.keys.cipher)
        }
        let changes = records.compactMap { DiskChange($0.placed(behind: header.payloadOffset)) }
        let index = SegmentChanges.carried(changes, first: first, payloadOffset: header.payloadOffset, of: stored[..<sealedHeader.tableEnd])
        let entry = SegmentEntry(
            lineage: nil, first: first, last: last, bytes: UInt64(stored.count), hash: Hash256(bytes: Digest.sha256(stored))!, records: UInt64(records.count),
            payloadOffset: UInt64(header.payloadOffset), payloadBytes: UInt64(payload.count), index: Data(index))
        records.removeAll(keepingCapacity: true)
        payload.removeAll(keepingCapacity: true)
        return entry
    }

    private func plaintext(_ header: SegmentHeader) -> [UInt8] {
        [UInt8].filled(header.payloadOffset + payload.count) { bytes in
            let index = UnsafeMutableRawBufferPointer(rebasing: bytes[..<header.payloadOffset])
            index.initializeMemory(as: UInt8.self, repeating: 0)
            header.encode(into: index)
            for (number, record) in records.enumerated() {
                record.placed(behind: header.payloadOffset).encode(into: index, at: SegmentHeader.byteCount + SegmentRecord.byteCount * number)
            }
            UnsafeMutableRawBufferPointer(rebasing: bytes[header.payloadOffset...]).copyBytes(from: payload)
        }
    }

    private static func padded(_ count: Int) -> Int { (count + FormatLimits.blockBytes - 1) / FormatLimits.blockBytes * FormatLimits.blockBytes }
}

extension SegmentRecord {
    /// With its position in the plaintext, once the size of the index before the payload is known.
    fileprivate func placed(behind payloadOffset: Int) -> SegmentRecord {
        var placed = self
        placed.position = payloadBytes > 0 ? position + UInt64(payloadOffset) : 0
        return placed
    }
}
