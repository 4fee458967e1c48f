// What was replicated can be read back at every sequence, through the map and the segments over it.

import ObjectStore
import Testing
import Vault
import VaultFixtures

/// Reads a whole state the slow and obvious way: every extent of the map, then every record.
func readState(_ vault: Vault, disk: VaultID, at sequence: UInt64) throws -> [UInt8] {
    let head = try #require(try vault.heads(group: disk).newest())
    let history = DiskHistory(vault: vault, state: try #require(head.document.state(of: disk)))
    let plan = try history.plan(at: sequence)
    var content = [UInt8](repeating: 0, count: Int(plan.sizeBytes))
    let maps = MapReader(vault: vault, pagesMax: 4)
    let blocks = (plan.sizeBytes + 4095) / 4096
    var block: UInt64 = 0
    var plaintexts: [MapSource: [UInt8]] = [:]
    while block < blocks {
        let extent = try maps.extent(plan.root, at: block, before: blocks)
        if let source = extent.source {
            let plaintext: [UInt8] = try plaintexts[source] ?? {
                switch source {
                case .chunk(let chunk): try vault.readChunk(chunk)
                case .segment(let segment): try vault.read(.segment(disk: disk, lineage: segment.lineage, first: segment.first, last: segment.last))
                }
            }()
            plaintexts[source] = plaintext
            let from = Int(extent.sourceBlock) * 4096
            let target = Int(extent.startBlock) * 4096
            let count = min(Int(extent.blockCount) * 4096, content.count - target)
            content.replaceSubrange(target..<target + count, with: plaintext[from..<from + count])
        }
        block += extent.blockCount
    }
    for entry in plan.segments {
        let index = try SegmentIndex.read(vault, disk: disk, entry: entry, manifestLineage: entry.lineage!)
        let plaintext = try vault.read(.segment(disk: disk, lineage: entry.lineage!, first: entry.first, last: entry.last))
        for record in index.records where record.changesDisk && record.sequence <= sequence {
            let range = Int(record.diskOffset)..<Int(record.diskOffset + record.length)
            let data = record.kind == .write ? Array(plaintext[Int(record.position)..<Int(record.position) + range.count]) : [UInt8](repeating: 0, count: range.count)
            content.replaceSubrange(range, with: data)
        }
    }
    return content
}

@Suite struct HistoryTests {
    @Test(arguments: [true, false]) func everySequenceReadsAsItWas(encrypted: Bool) throws {
        let test = try TestVault(encrypted: encrypted)
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 9
        limits.deltasPerRollup = 3
        // Not a multiple of 4096, and more than two leaves of the map.
        let disk = try ModelDisk(test.vault, sizeBytes: (130 << 20) + 512, seed: 4711, limits: limits)
        try disk.replicateInitially()
        for step in 0..<24 { try disk.step(records: 12, segmentBytes: 1 << 19, checkpoint: step == 20, tag: step == 5 ? "before" : nil) }
        let vault = try test.reopened()
        for sequence in disk.sequences where sequence % 23 == 0 || sequence == disk.sequence {
            let found = try readState(vault, disk: disk.id, at: sequence)
            #expect(found == disk.content(at: sequence), "seed 4711: sequence \(sequence) differs")
        }
        let history = try #require(try DiskHistory.newest(vault, try vault.disk("disk")))
        #expect(try history.points() == disk.points)
        #expect(try history.newestPoint { $0.tag == "before" }?.sequence == disk.points[6].sequence)
    }

    /// Promise P2: A point is listed in a vault only when everything it needs was verified there.
    @Test func aStepThatIsNotInAHeadDoesNotExist() throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        let disk = try ModelDisk(test.vault, sizeBytes: 2 << 20, seed: 4)
        try disk.replicateInitially()
        try disk.step(records: 3)
        func listed() throws -> Int { try #require(try DiskHistory.newest(test.reopened(), try test.vault.disk("disk"))).points().count }
        // Each kind of object in turn is acknowledged and lost: the point does not appear.
        for part in ["segments/", "manifests/", "maps/", "heads/"] {
            meddled.meddle { $0.drops = { $0.contains(part) } }
            #expect(throws: VaultError.self, "\(part)") { try disk.step(records: 3, checkpoint: true) }
            meddled.meddle { $0.drops = { _ in false } }
            #expect(try listed() == 2, "\(part)")
        }
        try disk.step(records: 3)
        #expect(try listed() == 3)
        #expect(try VaultCheck(vault: test.reopened(), readData: true).run().isClean)
    }

    @Test func aNewLineageBeginsWhereItBranched() throws {
        let test = try TestVault()
        let disk = try ModelDisk(test.vault, sizeBytes: 8 << 20, seed: 3)
        try disk.replicateInitially()
        for _ in 0..<3 { try disk.step(records: 10) }
        let heads = test.vault.heads(group: disk.id)
        let state = try #require(try heads.newest()?.document.state(of: disk.id))
        let branch = disk.sequences[20]
        let lineage = VaultID.random()
        let next = try disk.writer.branch(state, to: lineage, at: branch, epoch: 1)
        try heads.update(epoch: disk.epoch) { $0.set(next) }
        #expect(try readState(test.vault, disk: disk.id, at: branch) == disk.content(at: branch))
        let earlier = disk.sequences[5]
        #expect(try readState(test.vault, disk: disk.id, at: earlier) == disk.content(at: earlier))
        // What the old lineage wrote behind the branch stays readable; nothing reaches beyond it yet.
        #expect(try readState(test.vault, disk: disk.id, at: disk.sequence) == disk.content(at: disk.sequence))
        #expect(throws: VaultError.self) { try readState(test.vault, disk: disk.id, at: disk.sequence + 1) }
        let history = try #require(try DiskHistory.newest(test.vault, try test.vault.disk("disk")))
        #expect(history.newestSequence == branch)
        #expect(try history.points() == disk.points)
        #expect(try VaultCheck(vault: test.reopened(), readData: true).run().isClean)
        // The new lineage goes on, above all numbers the old one used.
        try disk.branched(at: branch, lineage: lineage)
        for _ in 0..<4 { try disk.step(records: 6, checkpoint: true) }
        for sequence in disk.sequences { #expect(try readState(test.vault, disk: disk.id, at: sequence) == disk.content(at: sequence), "\(sequence)") }
        #expect(try history.vault.heads(group: disk.id).newest()?.document.state(of: disk.id)?.lineages.count == 2)
        // A branch at the very end leaves nothing behind that is worth a place in the head.
        let ended = try #require(try heads.newest()?.document.state(of: disk.id))
        let third = try disk.writer.branch(ended, to: .random(), at: disk.sequence, epoch: 1)
        #expect(third.lineages.map(\.id) == [ended.lineages[0].id, third.lineages[1].id])
    }
}
