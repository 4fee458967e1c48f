// Page 0 of a segment file: sector 0 says whose segment it is, sector 1 (the seal) that it is complete and durable.
// Mirrors docs/formats/change-log.md, "Page 0". A file whose sector 0 is all zeros is spare.

import BlockIO

package struct SegmentHeader: Equatable, Sendable {
    /// What a merged segment stands for. Its place in the log is that of the last segment that it replaces.
    package struct Merge: Equatable, Sendable {
        /// The index of the first one that it replaces.
        package var firstIndex: UInt64
        /// Records are missing here that newer ones overwrite, up to this sequence: of the sequences after `afterSequence` the first state that
        /// can be had is the one at `through`.
        package var through: UInt64
        /// Slots that were reserved in the last one that it replaces: what the next segment's header names.
        package var slotCount: UInt32
    }

    static let magic: UInt64 = 0x4745_5352_4148_5346  // "FSHARSEG"
    static let version: UInt32 = 1
    static let mergedVersion: UInt32 = 2
    static let sectorBytes = 512
    static let indexLimit: UInt64 = 1 << 44
    private static let checksumOffset = 508

    package var diskID: LogID
    package var lineage: LogID
    /// Counts up by one for each segment of the log; starts at 1.
    package var index: UInt64
    /// Random for each use of the file: no header written for an earlier use fits.
    package var nonce: UInt64
    /// The last sequence reserved in the log before this segment; its own are higher.
    package var afterSequence: UInt64
    /// Slots that were reserved in the segment before this one.
    package var previousSlotCount: UInt32
    package var segmentBytes: UInt32
    package var wallNanoseconds: UInt64
    /// Nil but for a merged segment.
    package var merge: Merge?

    /// The segment stands for this index and all up to its own.
    var firstIndex: UInt64 { merge?.firstIndex ?? index }

    func encode(into sector: UnsafeMutableRawBufferPointer) {
        sector.initializeMemory(as: UInt8.self, repeating: 0)
        sector.putLE(Self.magic, at: 0)
        sector.putLE(merge == nil ? Self.version : Self.mergedVersion, at: 8)
        sector.putLE(segmentBytes, at: 12)
        sector.putLE(diskID.high, at: 16)
        sector.putLE(diskID.low, at: 24)
        sector.putLE(lineage.high, at: 32)
        sector.putLE(lineage.low, at: 40)
        sector.putLE(index, at: 48)
        sector.putLE(nonce, at: 56)
        sector.putLE(afterSequence, at: 64)
        sector.putLE(previousSlotCount, at: 72)
        sector.putLE(wallNanoseconds, at: 80)
        if let merge {
            sector.putLE(merge.firstIndex, at: 88)
            sector.putLE(merge.through, at: 96)
            sector.putLE(merge.slotCount, at: 104)
        }
        sector.putLE(crc32c(UnsafeRawBufferPointer(rebasing: sector[..<Self.checksumOffset])), at: Self.checksumOffset)
    }

    enum Decoded { case spare, header(SegmentHeader), unsupportedVersion(UInt32), invalid }

    static func decode(_ sector: UnsafeRawBufferPointer) -> Decoded {
        if sector[..<sectorBytes].allSatisfy({ $0 == 0 }) { return .spare }
        let checksum = crc32c(UnsafeRawBufferPointer(rebasing: sector[..<checksumOffset]))
        guard sector.getLE(UInt64.self, at: 0) == magic, sector.getLE(UInt32.self, at: checksumOffset) == checksum else { return .invalid }
        let version = sector.getLE(UInt32.self, at: 8)
        guard version == Self.version || version == Self.mergedVersion else { return .unsupportedVersion(version) }
        var header = SegmentHeader(
            diskID: LogID(high: sector.getLE(UInt64.self, at: 16), low: sector.getLE(UInt64.self, at: 24)),
            lineage: LogID(high: sector.getLE(UInt64.self, at: 32), low: sector.getLE(UInt64.self, at: 40)),
            index: sector.getLE(UInt64.self, at: 48), nonce: sector.getLE(UInt64.self, at: 56),
            afterSequence: sector.getLE(UInt64.self, at: 64), previousSlotCount: sector.getLE(UInt32.self, at: 72),
            segmentBytes: sector.getLE(UInt32.self, at: 12), wallNanoseconds: sector.getLE(UInt64.self, at: 80))
        if version == Self.mergedVersion {
            header.merge = Merge(
                firstIndex: sector.getLE(UInt64.self, at: 88), through: sector.getLE(UInt64.self, at: 96), slotCount: sector.getLE(UInt32.self, at: 104))
        }
        // The map keeps the index in 44 bits.
        guard header.index > 0, header.index < indexLimit, header.firstIndex > 0, header.firstIndex <= header.index else { return .invalid }
        return header.merge.map { $0.through > header.afterSequence } ?? true ? .header(header) : .invalid
    }
}

package struct SegmentSeal: Equatable, Sendable {
    static let magic: UInt64 = 0x4C41_4553_4853_5246  // "FRSHSEAL"
    static let offset = SegmentHeader.sectorBytes
    private static let checksumOffset = 508

    /// All slots below hold valid records, all above hold nothing.
    package var recordCount: UInt32
    package var lastSequence: UInt64
    /// Nil when the segment has none.
    var footer: SegmentFooter?

    func encode(for header: SegmentHeader, into sector: UnsafeMutableRawBufferPointer) {
        sector.initializeMemory(as: UInt8.self, repeating: 0)
        sector.putLE(Self.magic, at: 0)
        sector.putLE(header.nonce, at: 8)
        sector.putLE(header.index, at: 16)
        sector.putLE(lastSequence, at: 24)
        sector.putLE(recordCount, at: 32)
        sector.putLE(footer?.entryCount ?? 0, at: 36)
        sector.putLE(footer?.checksum ?? 0, at: 40)
        sector.putLE(crc32c(UnsafeRawBufferPointer(rebasing: sector[..<Self.checksumOffset])), at: Self.checksumOffset)
    }

    /// Nil when the segment is not sealed: another use's seal does not fit, by nonce and index.
    static func decode(_ sector: UnsafeRawBufferPointer, for header: SegmentHeader) -> SegmentSeal? {
        let checksum = crc32c(UnsafeRawBufferPointer(rebasing: sector[..<checksumOffset]))
        guard sector.getLE(UInt64.self, at: 0) == magic, sector.getLE(UInt32.self, at: checksumOffset) == checksum,
            sector.getLE(UInt64.self, at: 8) == header.nonce, sector.getLE(UInt64.self, at: 16) == header.index
        else { return nil }
        let recordCount = sector.getLE(UInt32.self, at: 32)
        let footer = SegmentFooter(entryCount: sector.getLE(UInt32.self, at: 36), checksum: sector.getLE(UInt32.self, at: 40))
        return SegmentSeal(
            recordCount: recordCount, lastSequence: sector.getLE(UInt64.self, at: 24),
            footer: footer.entryCount > 0 && footer.entryCount <= recordCount ? footer : nil)
    }
}
