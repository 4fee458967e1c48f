// The block map against a plain array, with seeded random changes over several levels; only touched pages are written.

import ObjectStore
import Testing
import Vault
import VaultFixtures

@Suite struct MapTests {
    /// 40 GiB: three levels of pages. The model only holds blocks that are not zero.
    @Test(arguments: [UInt64(11), 12, 13]) func updatesAgreeWithAModel(seed: UInt64) throws {
        let test = try TestVault(encrypted: false)
        let size: UInt64 = 40 << 30
        let blocks = size / 4096
        var numbers = SeededNumbers(seed: seed)
        let (disk, lineage) = (VaultID.random(), VaultID.random())
        var model: [UInt64: (segment: UInt64, block: UInt32)] = [:]
        var root: MapRoot?
        var sequence: UInt64 = 0
        for step in 0..<8 {
            let writer = SegmentWriter(vault: test.vault, disk: disk, lineage: lineage)
            let first = sequence + 1
            var written: [(start: UInt64, count: UInt64, isWrite: Bool)] = []
            for _ in 0..<20 {
                sequence += 1
                let isWrite = Bool.random(using: &numbers)
                // Writes cluster in a few leaves, discards take anything up to the whole disk.
                let start = isWrite ? UInt64.random(in: 0..<4, using: &numbers) * (blocks / 4) + UInt64.random(in: 0..<40_000, using: &numbers) : UInt64.random(in: 0..<blocks, using: &numbers)
                let count = isWrite ? UInt64.random(in: 1...8, using: &numbers) : UInt64.random(in: 1...(step == 5 ? blocks - start : 50_000), using: &numbers)
                let clipped = min(count, blocks - start)
                let record = SegmentRecord(
                    kind: isWrite ? .write : .discard, sequence: sequence, diskOffset: start * 4096, length: clipped * 4096, wallNanoseconds: 0, flushedThrough: 0)
                try [UInt8](repeating: UInt8(step), count: isWrite ? Int(clipped) * 4096 : 0).withUnsafeBytes { try writer.append(record, payload: $0) }
                written.append((start, clipped, isWrite))
            }
            let entry = try writer.finish()
            let index = try SegmentIndex.read(test.vault, disk: disk, entry: entry, manifestLineage: lineage)
            for (change, record) in zip(written, index.records) {
                if change.isWrite {
                    for block in 0..<change.count { model[change.start + block] = (first, UInt32(record.position / 4096 + block)) }
                } else {
                    model = model.filter { !(change.start..<change.start + change.count).contains($0.key) }
                }
            }
            let changes = try SegmentChanges.readAll(test.vault, disk: disk, [entry], manifestLineage: lineage)
            root = try MapUpdate(vault: test.vault, epoch: 1).apply(changes, through: sequence, to: root, sizeBytes: size)
            #expect(try entries(test.vault, try #require(root), blocks) == model.mapValues { "\($0.segment)/\($0.block)" }, "seed \(seed), step \(step)")
        }
    }

    /// Every block that is not zero, by walking the extents.
    private func entries(_ vault: Vault, _ root: MapRoot, _ blocks: UInt64) throws -> [UInt64: String] {
        let reader = MapReader(vault: vault, pagesMax: 3)
        var found: [UInt64: String] = [:]
        var block: UInt64 = 0
        while block < blocks {
            let extent = try reader.extent(root, at: block, before: blocks)
            if case .segment(let segment)? = extent.source {
                for index in 0..<extent.blockCount { found[block + index] = "\(segment.first)/\(extent.sourceBlock + UInt32(index))" }
            }
            block += extent.blockCount
        }
        return found
    }

    @Test func oneChangedBlockWritesOnePageALevel() throws {
        var meddled: MeddledStore!
        let test = try TestVault(encrypted: false) { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        let size: UInt64 = 40 << 30
        let map = InitialMap(vault: test.vault, sizeBytes: size, epoch: 1)
        for chunk in stride(from: UInt64(0), to: 40 << 10, by: 700) {
            let content = withUnsafeBytes(of: chunk) { Array($0) } + [UInt8](repeating: 1, count: 4096)
            try map.append(chunk: chunk, content.withUnsafeBytes { test.vault.chunkRef(of: $0, epoch: 1) })
        }
        let root = try map.finish()
        #expect(root.level == 2)
        let (disk, lineage) = (VaultID.random(), VaultID.random())
        let writer = SegmentWriter(vault: test.vault, disk: disk, lineage: lineage)
        let record = SegmentRecord(kind: .write, sequence: 7, diskOffset: 33 << 30, length: 4096, wallNanoseconds: 0, flushedThrough: 0)
        try [UInt8](repeating: 5, count: 4096).withUnsafeBytes { try writer.append(record, payload: $0) }
        let changes = try SegmentChanges.readAll(test.vault, disk: disk, [try writer.finish()], manifestLineage: lineage)
        meddled.resetCounts()
        let next = try MapUpdate(vault: test.vault, epoch: 1).apply(changes, through: 7, to: root, sizeBytes: size)
        #expect(meddled.counts.puts.count == 3)
        // A chunk far away is still where it was.
        let reader = MapReader(vault: test.vault)
        for chunk in stride(from: UInt64(0), to: 40 << 10, by: 700) {
            #expect(try reader.extent(next, at: chunk * 256, before: chunk * 256 + 1) == reader.extent(root, at: chunk * 256, before: chunk * 256 + 1))
        }
        // Nothing up to a lower sequence is nothing at all.
        #expect(try MapUpdate(vault: test.vault, epoch: 1).apply(changes, through: 6, to: root, sizeBytes: size) == root)
    }

    @Test func aDiskMayGrow() throws {
        let test = try TestVault(encrypted: false)
        let map = InitialMap(vault: test.vault, sizeBytes: 64 << 20, epoch: 1)
        let ref = [UInt8](repeating: 1, count: 10).withUnsafeBytes { test.vault.chunkRef(of: $0, epoch: 1) }
        try map.append(chunk: 3, ref)
        let root = try map.finish()
        #expect(root.level == 0)
        let grown = try MapUpdate(vault: test.vault, epoch: 1).apply([], through: 0, to: root, sizeBytes: 20 << 30)
        #expect(grown.level == 2)
        let reader = MapReader(vault: test.vault)
        let blocks: UInt64 = (20 << 30) / 4096
        #expect(try reader.extent(grown, at: 3 * 256, before: blocks).source == .chunk(ref))
        #expect(try reader.extent(grown, at: 4 << 20, before: blocks).source == nil)
        #expect(try reader.extent(root, at: 4 << 20, before: blocks).source == nil)
    }
}
