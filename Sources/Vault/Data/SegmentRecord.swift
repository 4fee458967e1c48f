// Header and index of a segment object: docs/formats/vault.md section 5, field by field.

import BlockIO

package enum SegmentRecordKind: UInt8, Sendable {
    case write = 1
    case zero = 2
    case discard = 3
    case point = 4
}

package struct SegmentRecord: Equatable, Sendable {
    static let byteCount = 64

    package let kind: SegmentRecordKind
    package let sequence: UInt64
    package let diskOffset: UInt64
    /// Bytes of disk, or of a point's tag.
    package let length: UInt64
    /// From the start of the plaintext, once the record is in a finished segment; 0 without payload.
    package internal(set) var position: UInt64
    package let wallNanoseconds: UInt64
    package let flushedThrough: UInt64
    package internal(set) var payloadChecksum: UInt32
    package let isAppConsistent: Bool

    package init(
        kind: SegmentRecordKind, sequence: UInt64, diskOffset: UInt64, length: UInt64, wallNanoseconds: UInt64, flushedThrough: UInt64,
        isAppConsistent: Bool = false
    ) {
        self.kind = kind
        self.sequence = sequence
        self.diskOffset = diskOffset
        self.length = length
        self.wallNanoseconds = wallNanoseconds
        self.flushedThrough = flushedThrough
        self.isAppConsistent = isAppConsistent
        position = 0
        payloadChecksum = 0
    }

    package var payloadBytes: Int { kind == .write || kind == .point ? Int(length) : 0 }
    package var changesDisk: Bool { kind != .point }
    package var startBlock: UInt64 { diskOffset / UInt64(FormatLimits.blockBytes) }
    package var blockCount: UInt64 { (length + UInt64(FormatLimits.blockBytes) - 1) / UInt64(FormatLimits.blockBytes) }

    func encode(into bytes: UnsafeMutableRawBufferPointer, at offset: Int) {
        bytes.putLE(sequence, at: offset)
        bytes.putLE(diskOffset, at: offset + 8)
        bytes.putLE(length, at: offset + 16)
        bytes.putLE(position, at: offset + 24)
        bytes.putLE(wallNanoseconds, at: offset + 32)
        bytes.putLE(flushedThrough, at: offset + 40)
        bytes.putLE(payloadChecksum, at: offset + 48)
        bytes.putLE(kind.rawValue, at: offset + 52)
        bytes.putLE(UInt8(isAppConsistent ? 1 : 0), at: offset + 53)
    }

    /// Nil when a field is not what the format allows.
    init?(_ bytes: UnsafeRawBufferPointer, at offset: Int) {
        guard let kind = SegmentRecordKind(rawValue: bytes[offset + 52]), bytes[offset + 53] <= (kind == .point ? 1 : 0),
            bytes[offset + 54..<offset + 64].allSatisfy({ $0 == 0 })
        else { return nil }
        self.kind = kind
        sequence = bytes.getLE(UInt64.self, at: offset)
        diskOffset = bytes.getLE(UInt64.self, at: offset + 8)
        length = bytes.getLE(UInt64.self, at: offset + 16)
        position = bytes.getLE(UInt64.self, at: offset + 24)
        wallNanoseconds = bytes.getLE(UInt64.self, at: offset + 32)
        flushedThrough = bytes.getLE(UInt64.self, at: offset + 40)
        payloadChecksum = bytes.getLE(UInt32.self, at: offset + 48)
        isAppConsistent = bytes[offset + 53] == 1
        guard hasValidRange else { return nil }
    }

    /// Whether offset and length are what the format allows on any disk.
    var hasValidRange: Bool {
        guard kind != .point else { return diskOffset == 0 && length <= UInt64(FormatLimits.tagBytesMax) }
        return length > 0 && length <= FormatLimits.diskBytesMax && diskOffset <= FormatLimits.diskBytesMax - length
            && diskOffset % UInt64(FormatLimits.blockBytes) == 0 && length % 512 == 0
            && (kind != .write || length <= UInt64(FormatLimits.segmentPayloadBytesMax))
    }
}

struct SegmentHeader: Equatable, Sendable {
    static let byteCount = 64
    private static let magic = Array("FSEGMENT".utf8)

    let recordCount: Int
    let payloadBytes: Int
    let first: UInt64
    let last: UInt64
    let lineage: VaultID

    var payloadOffset: Int { Self.payloadOffset(recordCount: recordCount) }

    static func payloadOffset(recordCount: Int) -> Int {
        (byteCount + SegmentRecord.byteCount * recordCount + FormatLimits.frameBytes - 1) / FormatLimits.frameBytes * FormatLimits.frameBytes
    }

    func encode(into bytes: UnsafeMutableRawBufferPointer) {
        bytes.copyBytes(from: Self.magic)
        bytes.putLE(UInt32(recordCount), at: 8)
        bytes.putLE(UInt32(SegmentRecord.byteCount), at: 12)
        bytes.putLE(UInt64(payloadOffset), at: 16)
        bytes.putLE(UInt64(payloadBytes), at: 24)
        bytes.putLE(first, at: 32)
        bytes.putLE(last, at: 40)
        UnsafeMutableRawBufferPointer(rebasing: bytes[48..<64]).copyBytes(from: lineage.bytes)
    }

    init(recordCount: Int, payloadBytes: Int, first: UInt64, last: UInt64, lineage: VaultID) {
        self.recordCount = recordCount
        self.payloadBytes = payloadBytes
        self.first = first
        self.last = last
        self.lineage = lineage
    }

    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.byteCount, bytes[..<8].elementsEqual(Self.magic) else { return nil }
        let count = bytes.getLE(UInt32.self, at: 8)
        let payload = bytes.getLE(UInt64.self, at: 24)
        guard count >= 1, count <= FormatLimits.segmentRecordsMax, bytes.getLE(UInt32.self, at: 12) == SegmentRecord.byteCount,
            payload <= UInt64(FormatLimits.segmentPayloadBytesMax), payload % UInt64(FormatLimits.blockBytes) == 0,
            bytes.getLE(UInt64.self, at: 16) == UInt64(Self.payloadOffset(recordCount: Int(count))), let lineage = VaultID(bytes: Array(bytes[48..<64]))
        else { return nil }
        self.init(
            recordCount: Int(count), payloadBytes: Int(payload), first: bytes.getLE(UInt64.self, at: 32), last: bytes.getLE(UInt64.self, at: 40),
            lineage: lineage)
    }
}
