// A log's folder whose segments somebody else wrote. Input: one byte of flags, then extents of (place in both segment files together
// in units of 16 bytes: 2 bytes, length: 1 byte, data). Readers and recovery meet it as they would after any crash.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import VirtualDisk

struct LogInput {
    private static let rightsChecksums: UInt8 = 1
    private static let isOtherBoot: UInt8 = 2
    private static let extentsMax = 96

    static func run(_ input: [UInt8]) throws {
        var fields = InputBytes(input)
        let flags = fields.byte()
        let place = try LogPlace()
        defer { place.remove() }
        try writeSegments(&fields, place, rightsChecksums: flags & rightsChecksums != 0)
        readAsOthersDo(place)
        guard let first = contents(place, boot: flags & isOtherBoot != 0 ? "another boot" : LogPlace.boot) else { return }
        let second = contents(place, boot: flags & isOtherBoot != 0 ? "another boot" : LogPlace.boot)
        require(second != nil, "a log that was opened once is refused the second time")
        require(first == second, "a log reads differently after it was opened once")
    }

    private static func readAsOthersDo(_ place: LogPlace) {
        guard let reader = try? LogReader(place.folder) else { return }
        _ = try? reader.points()
        try? reader.headers(after: 0) { _ in }
        var last: UInt64 = 0
        _ = try? reader.records(after: 0, through: 1 << 40) { record, payload in
            require(record.sequence > last && payload.count == record.payloadBytes, "records out of order or without their payload")
            last = record.sequence
        }
    }

    /// What a guest reads of each block, an error where it gets one; nil when the log is refused.
    private static func contents(_ place: LogPlace, boot: String) -> [Result<[UInt8], SystemError>]? {
        do {
            let disk = try place.open(boot: boot)
            defer { disk.abandon() }
            return stride(from: 0, to: disk.sizeBytes, by: blockBytes).map { offset in
                var bytes = [UInt8](repeating: 0xA5, count: blockBytes)
                return Result { () throws(SystemError) in
                    var failure: SystemError?
                    bytes.withUnsafeMutableBytes { buffer in
                        do throws(SystemError) { try disk.read(into: buffer, at: UInt64(offset)) } catch { failure = error }
                    }
                    if let failure { throw failure }
                    return bytes
                }
            }
        } catch {
            require(!"\(error)".isEmpty, "a refusal says why")
            return nil
        }
    }

    // MARK: - the segments

    private static func writeSegments(_ fields: inout InputBytes, _ place: LogPlace, rightsChecksums: Bool) throws {
        var bytes = [UInt8](repeating: 0, count: 2 * LogPlace.segmentBytes)
        for _ in 0..<extentsMax where !fields.isEmpty {
            let start = Int(fields.number(bytes: 2)) * 16 % bytes.count
            let data = fields.bytes(Int(fields.byte())).prefix(bytes.count - start)
            bytes.replaceSubrange(start..<start + data.count, with: data)
        }
        for number in 0..<2 {
            var segment = Array(bytes[number * LogPlace.segmentBytes..<(number + 1) * LogPlace.segmentBytes])
            if rightsChecksums { segment.withUnsafeMutableBytes { SegmentFields($0).makeRight() } }
            try Descriptor.open(place.segment(number + 1), O_RDWR | O_CREAT).write(segment, at: 0)
        }
    }

    static func seeds() throws -> [[UInt8]] {
        let place = try LogPlace()
        defer { place.remove() }
        let disk = try place.open(boot: LogPlace.boot)
        for number in 0..<6 {
            try [UInt8](repeating: UInt8(number + 1), count: 4096 * (1 + number % 2)).withUnsafeBytes {
                try disk.write($0, at: UInt64(number * 8192), sequenceSlot: nil)
            }
        }
        try disk.zero(at: 0, length: 4096, mayFree: true, sequenceSlot: nil)
        try disk.flush()
        _ = try VirtualDisk.cutPoint([disk], tag: "seed")
        disk.abandon()
        var input: [UInt8] = []
        for name in try Directory.list(place.folder.path).filter({ $0.hasPrefix("segment-") }).sorted().prefix(2) {
            let bytes = try Descriptor.open(place.folder.path + "/" + name, O_RDONLY).read(count: LogPlace.segmentBytes, at: 0)
            guard bytes.contains(where: { $0 != 0 }) else { continue }
            for start in stride(from: 0, to: 3 * 4096, by: 64) where bytes[start..<start + 64].contains(where: { $0 != 0 }) {
                input += [UInt8(truncatingIfNeeded: start / 16), UInt8((start / 16) >> 8), 64] + bytes[start..<start + 64]
            }
        }
        return [0, rightsChecksums, isOtherBoot | rightsChecksums].map { [$0] + input }
    }
}

/// Identity, nonces and sums of a segment as its writer would have put them (docs/formats/change-log.md).
private struct SegmentFields {
    private static let slotCount = 64
    private let bytes: UnsafeMutableRawBufferPointer

    init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }

    private func part(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(rebasing: bytes[range]) }

    private func sum(_ range: Range<Int>, seed: UInt32 = 0) -> UInt32 { crc32c(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[range]), seed: seed) }

    /// Leaves alone what is all zeros: a spare file, an empty slot.
    func makeRight() {
        guard part(0..<512).contains(where: { $0 != 0 }) else { return }
        makeHeaderRight()
        let nonceAndIndex = withUnsafeTemporaryAllocation(byteCount: 16, alignment: 8) { place in
            place.copyMemory(from: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[56..<64]))
            place.putLE(UnsafeRawBufferPointer(bytes).getLE(UInt64.self, at: 48), at: 8)
            return crc32c(UnsafeRawBufferPointer(place))
        }
        for slot in 0..<Self.slotCount { makeRecordRight(slot, seed: nonceAndIndex) }
    }

    private func makeHeaderRight() {
        bytes.putLE(UInt64(0x4745_5352_4148_5346), at: 0)
        bytes.putLE(UInt32(bytes[8] == 2 ? 2 : 1), at: 8)
        bytes.putLE(UInt32(LogPlace.segmentBytes), at: 12)
        bytes.putLE(LogPlace.diskID.high, at: 16)
        bytes.putLE(LogPlace.diskID.low, at: 24)
        bytes.putLE(sum(0..<508), at: 508)
        guard part(512..<1024).contains(where: { $0 != 0 }) else { return }
        bytes.putLE(UInt64(0x4C41_4553_4853_5246), at: 512)
        bytes.putLE(UnsafeRawBufferPointer(bytes).getLE(UInt64.self, at: 56), at: 520)
        bytes.putLE(UnsafeRawBufferPointer(bytes).getLE(UInt64.self, at: 48), at: 528)
        bytes.putLE(sum(512..<1020), at: 1020)
    }

    private func makeRecordRight(_ slot: Int, seed: UInt32) {
        let start = 4096 + 64 * slot
        guard part(start..<start + 64).contains(where: { $0 != 0 }) else { return }
        let fields = UnsafeRawBufferPointer(bytes)
        let payload = Int(fields.getLE(UInt32.self, at: start + 32)).multipliedReportingOverflow(by: 4096)
        let length = fields.getLE(UInt64.self, at: start + 24)
        if !payload.overflow, payload.partialValue <= bytes.count, length <= UInt64(bytes.count - payload.partialValue) {
            bytes.putLE(sum(payload.partialValue..<payload.partialValue + Int(length)), at: start + 36)
        }
        bytes.putLE(UInt32(slot), at: start)
        bytes.putLE(sum(start..<start + 64, seed: seed), at: start)
    }
}
