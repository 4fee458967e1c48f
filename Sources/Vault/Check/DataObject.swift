// One chunk or segment under check.

import BlockIO
import ObjectStore

struct DataObject {
    let vault: Vault
    let disk: VaultID
    let source: MapSource
    /// What the manifest says of a segment; nil for chunks and for segments only a map names.
    let entry: SegmentEntry?

    /// The bytes read.
    func verify(reading: Bool) throws(VaultError) -> UInt64 {
        switch source {
        case .chunk(let chunk):
            guard reading else { return try ask(.chunk(chunk), sizeBytes: nil) }
            return UInt64(try vault.readChunk(chunk).count)
        case .segment(let segment):
            let place = ObjectPlace.segment(disk: disk, lineage: segment.lineage, first: segment.first, last: segment.last)
            guard reading else { return try ask(place, sizeBytes: entry?.bytes) }
            return try read(segment, place)
        }
    }

    private func ask(_ place: ObjectPlace, sizeBytes: UInt64?) throws(VaultError) -> UInt64 {
        guard let info = try fromStore(nil, { () throws(StoreError) in try vault.store.head(place.key) }) else { throw .missing(object: place.key) }
        if let sizeBytes, info.sizeBytes != sizeBytes {
            throw .damaged(object: place.key, reason: "it has \(info.sizeBytes) bytes, its manifest says \(sizeBytes)")
        }
        return 0
    }

    private func read(_ segment: SegmentID, _ place: ObjectPlace) throws(VaultError) -> UInt64 {
        let bytes = try vault.fetch(place)
        let plaintext = try vault.withKeys { keys throws(VaultError) in try SealedObject.open(bytes, place: place, keys: keys) }
        if let entry, Digest.sha256(bytes) != entry.hash.bytes { throw .damaged(object: place.key, reason: "it is not the object its manifest names: its hash differs") }
        let index = try SegmentIndex.parse(bytes, place: place, id: segment, vault: vault, disk: disk)
        for record in index.records where record.payloadBytes > 0 {
            let range = Int(record.position)..<Int(record.position) + record.payloadBytes
            guard plaintext.withUnsafeBytes({ crc32c(UnsafeRawBufferPointer(rebasing: $0[range])) }) == record.payloadChecksum else {
                throw .damaged(object: place.key, reason: "the payload of record \(record.sequence) does not have its checksum")
            }
        }
        return UInt64(bytes.count)
    }
}
