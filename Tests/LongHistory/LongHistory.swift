// `long-history URL KEYFILE SEGMENTS`: a vault that an uploader has filled for long, in minutes: a sparse disk `long` of 1 TiB, so many segments
// of 64 records, four to a manifest as the uploader publishes at most. It ends just before the next map is due: the most that opening a point
// reads. For the scenario many-segments; not installed.

import BlockIO
import Foundation
import ObjectStore
import Synchronization
import Vault

@main
struct LongHistory {
    private static let sizeBytes: UInt64 = 1 << 40
    private static let recordsPerSegment = 64
    private static let segmentsPerManifest = 4
    /// Records go to so many parts of 1 GiB, spread over the disk.
    private static let busyParts: UInt64 = 16

    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 4, let segments = Int(arguments[3]) else {
            FileHandle.standardError.write(Data("usage: long-history URL KEYFILE SEGMENTS\n".utf8))
            exit(2)
        }
        let files = KeyFiles(keyFile: arguments[2], passphraseFile: nil)
        try Self(vault: Vault.open(store: openStore(url: arguments[1]), key: files.read(), memory: HeadMemory(folder: nil), keyFiles: files)).write(segments)
    }

    private let vault: Vault
    private let disk = VaultID.random()
    private let lineage = VaultID.random()

    private func write(_ wanted: Int) throws {
        _ = try vault.register(disk: disk, name: "long", sizeBytes: Self.sizeBytes)
        let writer = HistoryWriter(vault: vault, disk: disk)
        let map = InitialMap(vault: vault, sizeBytes: Self.sizeBytes, epoch: 1)
        let first = RecoveryPoint(sequence: 1, timeMicros: 1, kind: .crash, tag: nil)
        var state = try writer.start(lineage: lineage, sequence: 1, sizeBytes: Self.sizeBytes, root: map.finish(), point: first)
        let heads = vault.heads(group: disk)
        let epoch = try heads.claim(host: "long-history").document.writer.epoch
        var written = 0
        var trailing = 0
        while written < wanted || trailing < FormatLimits.manifestsPerFullMax - 2 {
            let from = state.current!.sequence
            let (entries, last) = try segments(after: from)
            let before = state.current!.full.sequence
            let point = RecoveryPoint(sequence: last + 1, timeMicros: UInt64(written + 2), kind: .crash, tag: nil)
            state = try writer.extend(state, through: last + 1, segments: entries, points: [point], epoch: 1)
            written += entries.count
            trailing = state.current!.full.sequence == before ? trailing + 1 : 0
        }
        try heads.update(epoch: epoch) { $0.set(state) }
        print("\(written) segments, \(trailing) manifests since the last map, newest #\(state.current!.sequence)")
    }

    /// Of one manifest, put at the same time.
    private func segments(after sequence: UInt64) throws -> (entries: [SegmentEntry], last: UInt64) {
        let firsts = (0..<Self.segmentsPerManifest).map { sequence + 1 + UInt64($0 * Self.recordsPerSegment) }
        let results = Mutex<[UInt64: Result<SegmentEntry, any Error>]>([:])
        forEachInParallel(firsts, threads: Self.segmentsPerManifest) { [self] first in
            let result = Result { try segment(from: first) }
            results.withLock { $0[first] = result }
        }
        let all = results.withLock { $0 }
        return (try firsts.map { try all[$0]!.get() }, firsts.last! + UInt64(Self.recordsPerSegment) - 1)
    }

    private func segment(from first: UInt64) throws -> SegmentEntry {
        let writer = SegmentWriter(vault: vault, disk: disk, lineage: lineage)
        for sequence in first..<first + UInt64(Self.recordsPerSegment) {
            let place = sequence &* 0x9E37_79B9_7F4A_7C15
            let offset = place % Self.busyParts * (Self.sizeBytes / Self.busyParts) + (place >> 32) % (1 << 18) * UInt64(FormatLimits.blockBytes)
            let record = SegmentRecord(
                kind: .write, sequence: sequence, diskOffset: offset, length: UInt64(FormatLimits.blockBytes), wallNanoseconds: 0, flushedThrough: sequence - 1)
            try [UInt64](repeating: sequence, count: FormatLimits.blockBytes / 8).withUnsafeBytes { try writer.append(record, payload: $0) }
        }
        return try writer.finish()
    }
}
