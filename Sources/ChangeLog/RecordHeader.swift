// One slot of the record table: 64 bytes that describe one record. Mirrors docs/formats/change-log.md, "Record".
// Slots lie apart from payload, so nothing a guest writes is ever read as a header.

import BlockIO

package enum RecordKind: UInt8, Sendable {
    /// Data for whole blocks.
    case write = 1
    /// The range reads as zeros; its storage stays.
    case zero = 2
    /// The range reads as zeros; its storage may be given back.
    case discard = 3
    /// A recovery point; the payload is its tag.
    case point = 4
    /// A slot whose write never happened; changes nothing.
    case void = 5
}

package struct RecordHeader: Equatable, Sendable {
    package var kind: RecordKind
    package var sequence: UInt64
    /// Where on the disk; 0 for points and voids.
    package var diskOffset: UInt64
    /// Bytes of the disk (write, zero, discard) or of the tag (point).
    package var length: UInt64
    /// The first payload page; for records without payload the page the next payload got.
    package var payloadPage: UInt32
    package var payloadChecksum: UInt32
    /// All of this log up to this sequence was durable when the record was made: a flush boundary.
    package var flushedSequence: UInt64
    package var wallNanoseconds: UInt64
    /// A point for which the machines had brought their data to a rest.
    package var isAppConsistent = false

    package var payloadBytes: Int { kind == .write || kind == .point ? Int(length) : 0 }
    package var changesDisk: Bool { kind == .write || kind == .zero || kind == .discard }

    /// What the checksum starts from: a header fits one slot of one use of one segment.
    static func checksumSeed(nonce: UInt64, index: UInt64) -> UInt32 {
        withUnsafeTemporaryAllocation(byteCount: 16, alignment: 8) { place in
            place.putLE(nonce, at: 0)
            place.putLE(index, at: 8)
            return crc32c(UnsafeRawBufferPointer(place))
        }
    }

    func encode(slot: Int, seed: UInt32, into bytes: UnsafeMutableRawBufferPointer) {
        bytes.putLE(UInt32(truncatingIfNeeded: slot), at: 0)
        bytes.putLE(UInt32(kind.rawValue) | (isAppConsistent ? 1 << 8 : 0), at: 4)
        bytes.putLE(sequence, at: 8)
        bytes.putLE(diskOffset, at: 16)
        bytes.putLE(length, at: 24)
        bytes.putLE(payloadPage, at: 32)
        bytes.putLE(payloadChecksum, at: 36)
        bytes.putLE(flushedSequence, at: 40)
        bytes.putLE(wallNanoseconds, at: 48)
        bytes.putLE(UInt64(0), at: 56)
        bytes.putLE(crc32c(UnsafeRawBufferPointer(bytes), seed: seed), at: 0)
    }

    /// Nil unless checksum, nonce, place and every field fit.
    static func decode(_ bytes: UnsafeRawBufferPointer, slot: Int, seed: UInt32, geometry: SegmentGeometry) -> RecordHeader? {
        let checksum = withUnsafeTemporaryAllocation(byteCount: SegmentGeometry.headerBytes, alignment: 8) { copy in
            copy.copyMemory(from: bytes)
            copy.putLE(UInt32(truncatingIfNeeded: slot), at: 0)
            return crc32c(UnsafeRawBufferPointer(copy), seed: seed)
        }
        guard bytes.getLE(UInt32.self, at: 0) == checksum, let kind = RecordKind(rawValue: bytes[4]), bytes[5] <= (kind == .point ? 1 : 0),
            bytes[6] == 0, bytes[7] == 0
        else { return nil }
        let header = RecordHeader(
            kind: kind, sequence: bytes.getLE(UInt64.self, at: 8), diskOffset: bytes.getLE(UInt64.self, at: 16),
            length: bytes.getLE(UInt64.self, at: 24), payloadPage: bytes.getLE(UInt32.self, at: 32),
            payloadChecksum: bytes.getLE(UInt32.self, at: 36), flushedSequence: bytes.getLE(UInt64.self, at: 40),
            wallNanoseconds: bytes.getLE(UInt64.self, at: 48), isAppConsistent: bytes[5] == 1)
        return header.fits(geometry) ? header : nil
    }

    private func fits(_ geometry: SegmentGeometry) -> Bool {
        guard !diskOffset.addingReportingOverflow(length).overflow, Int(payloadPage) <= geometry.pageCount else { return false }
        switch kind {
        case .write:
            return length > 0 && length <= UInt64(recordPayloadBytesMax) && diskOffset % UInt64(blockBytes) == 0 && payloadFits(geometry)
        case .zero, .discard: return length > 0 && diskOffset % UInt64(blockBytes) == 0
        case .point: return length <= UInt64(pointTagBytesMax) && payloadFits(geometry)
        case .void: return length == 0
        }
    }

    private func payloadFits(_ geometry: SegmentGeometry) -> Bool {
        Int(payloadPage) >= geometry.firstPayloadPage
            && Int(payloadPage) + SegmentGeometry.pages(of: Int(length)) <= geometry.pageCount
    }
}
