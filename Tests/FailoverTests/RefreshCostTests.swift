// What a refresh costs: scattered small writes are fetched in the order they were written, each frame once.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import Foundation
import ObjectStore
import RecoveryPoints
import Testing
import Vault
import VaultFixtures

@Suite struct RefreshCostTests {
    /// One per cent of a disk of 1 GiB as random blocks of 4 KiB: sent and written are at most 2 % of it, with the changes still in segments over the map
    /// and with a map that names them.
    @Test(arguments: [false, true]) func scatteredBlocksCostLittleMoreThanTheyAre(checkpoint: Bool) throws {
        let store = CountingStore(MemoryStore())
        let vault = try Vault.create(store: store, protection: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        let (disk, lineage, sizeBytes) = (VaultID.random(), VaultID.random(), UInt64(1 << 30))
        let blocks = sizeBytes / 4096
        _ = try vault.register(disk: disk, name: "disk", sizeBytes: sizeBytes)
        let writer = HistoryWriter(vault: vault, disk: disk)
        let root = try InitialMap(vault: vault, sizeBytes: sizeBytes, epoch: 1).finish()
        var state = try writer.start(lineage: lineage, sequence: 1, sizeBytes: sizeBytes, root: root, point: RecoveryPoint(sequence: 1, timeMicros: 1, kind: .crash, tag: nil))
        var numbers = SeededNumbers(seed: 3)
        var changed: [UInt64: [UInt8]] = [:]
        let segments = SegmentWriter(vault: vault, disk: disk, lineage: lineage, payloadBytesMax: 4 << 20)
        var entries: [SegmentEntry] = []
        var sequence: UInt64 = 1
        while changed.count < Int(blocks / 100) {
            let block = UInt64.random(in: 0..<blocks, using: &numbers)
            guard changed[block] == nil else { continue }
            sequence += 1
            let data = numbers.bytes(4096)
            changed[block] = data
            if !segments.fits(payloadBytes: data.count) { entries.append(try segments.finish()) }
            try data.withUnsafeBytes {
                try segments.append(SegmentRecord(kind: .write, sequence: sequence, diskOffset: block * 4096, length: 4096, wallNanoseconds: 1, flushedThrough: 0), payload: $0)
            }
        }
        entries.append(try segments.finish())
        state = try writer.extend(state, through: sequence, segments: entries, points: [], checkpoint: checkpoint, epoch: 1)
        let folder = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let output = try OutputImage.begin(folder + "/image", format: .raw, sizeBytes: sizeBytes, uniqueID: [UInt8](repeating: 1, count: 16), timeStamp: 0)
        try output.finish(replacing: false)
        let image = try openImage(folder + "/image", access: .readWrite, format: .raw)
        let mark = RefreshMark(vault: vault.id, disk: disk, base: .init(lineage: lineage, sequence: 1), hasUnsent: false)
        let before = store.counts
        let refresh = ImageRefresh(
            image, mark, folder: LogFolder(folder), history: DiskHistory(vault: vault, state: state), sources: PointSources(vault: vault), unsent: .none,
            ImageRefresh.Surroundings(fetchedBytes: { UInt64(store.counts.bytesReceived) }, isOver: { false }, progress: { _ in }))
        try refresh.bring(to: .init(lineage: lineage, sequence: sequence))
        for (block, data) in changed {
            var found = [UInt8](repeating: 0, count: 4096)
            try found.withUnsafeMutableBytes { try image.read(into: $0, at: block * 4096) }
            #expect(found == data)
        }
        let (fetched, written) = (refresh.mark.fetchedBytes, refresh.mark.writtenBytes)
        print(String(
            format: "refresh of 1 GiB, 1 %% changed as random 4 KiB blocks, %@: fetched %.3f %% in %d requests, wrote %.3f %%", checkpoint ? "in the map" : "over the map",
            100 * Double(fetched) / Double(sizeBytes), store.counts.gets - before.gets, 100 * Double(written) / Double(sizeBytes)))
        #expect(written == UInt64(changed.count) * 4096)
        #expect(fetched <= sizeBytes / 50)
    }
}
