// Which flush boundaries a vault has, what a time or a number stands for among them, and that each opens to its bytes.

import ObjectStore
import RecoveryPoints
import Testing
import Vault
import VaultFixtures

@Suite struct FlushBoundaryTests {
    /// Roll-ups, full manifests, segments of a few records; with `branch` a second history that leaves some of the first behind.
    private func replicated(_ test: TestVault, seed: UInt64, branch: Bool = true) throws -> ModelDisk {
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 6
        limits.deltasPerRollup = 3
        let disk = try ModelDisk(test.vault, sizeBytes: (3 << 20) + 512, seed: seed, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<9 { try disk.step(records: 11, segmentBytes: 300_000) }
        guard branch else { return disk }
        let heads = test.vault.heads(group: disk.id)
        let state = try #require(try heads.newest()?.document.state(of: disk.id))
        let lineage = VaultID.random()
        let at = disk.sequences[disk.sequences.count - 17]
        let next = try disk.writer.branch(state, to: lineage, at: at, epoch: 1)
        try heads.update(epoch: disk.epoch) { $0.set(next) }
        try disk.branched(at: at, lineage: lineage)
        for _ in 0..<5 { try disk.step(records: 7, segmentBytes: 300_000) }
        return disk
    }

    private func history(_ disk: ModelDisk) throws -> DiskHistory {
        try #require(try DiskHistory.newest(disk.vault, try disk.vault.disk("disk")))
    }

    /// What the records tell of, and where histories end.
    private func expected(_ disk: ModelDisk, _ history: DiskHistory) -> [UInt64] {
        disk.boundaries.union(history.state.lineages.map(\.sequence)).sorted()
    }

    private func everything() -> FlushQuery {
        var query = FlushQuery()
        query.limit = .max
        return query
    }

    @Test(arguments: 1...6) func everyBoundaryIsListedAndOpens(seed: Int) throws {
        let test = try TestVault(encrypted: seed % 2 == 0)
        let disk = try replicated(test, seed: UInt64(seed))
        let history = try history(disk)
        let found = try history.flushBoundaries(everything())
        #expect(found.boundaries.map(\.sequence).reversed() == expected(disk, history), "seed \(seed)")
        #expect(!found.hasMore)
        let sources = PointSources(vault: test.vault)
        defer { sources.close() }
        for boundary in found.boundaries {
            #expect(try history.opened(at: boundary.sequence) == boundary.sequence)
            let reader = try PointReader(sources, disk: disk.id, plan: try history.plan(at: boundary.sequence))
            var bytes = [UInt8](repeating: 0xEE, count: disk.content.count)
            try bytes.withMutableBytes { buffer throws(VaultError) in try reader.read(into: buffer, at: 0) }
            #expect(bytes == disk.content(at: boundary.sequence), "seed \(seed), #\(boundary.sequence)")
        }
    }

    @Test func aTimeIsTheNewestPointOrBoundaryOfThePresentHistory() throws {
        let test = try TestVault()
        let disk = try replicated(test, seed: 11)
        let history = try history(disk)
        let openable = Set(expected(disk, history)).union(disk.points.map(\.sequence)).filter { !disk.left.contains($0) }.sorted()
        for second in disk.points[0].sequence...disk.sequence {
            let micros = 1_000_000 * second
            // The last write of a boundary has the boundary's own number and time.
            #expect(try history.newest(atOrBefore: micros) == openable.last { $0 <= second }, "\(second) s")
        }
        #expect(throws: VaultError.self) { try history.newest(atOrBefore: 1_000_000 * disk.points[0].sequence - 1) }
    }

    @Test func aNumberThatIsNoBoundaryIsRefusedWithItsNeighbours() throws {
        let test = try TestVault()
        let disk = try replicated(test, seed: 12)
        let history = try history(disk)
        let openable = Set(expected(disk, history)).union(disk.points.map(\.sequence)).union(history.state.lineages.compactMap(\.branchSequence)).sorted()
        var refused = 0
        for sequence in disk.points[0].sequence...disk.sequence {
            guard !openable.contains(sequence) else {
                #expect(try history.opened(at: sequence) == sequence)
                continue
            }
            refused += 1
            let error = #expect(throws: VaultError.self) { try history.opened(at: sequence) }
            let text = error?.description ?? ""
            let below = try #require(openable.last { $0 < sequence })
            // The points of this fixture stand in manifests only, so no record behind the number tells of them.
            let above = try #require(expected(disk, history).first { $0 > sequence })
            // Inside what a branch left behind, or at its edge, the neighbour may be of either history.
            let edge = disk.left.lowerBound - 1...disk.left.upperBound
            if [sequence, below, above].contains(where: edge.contains) { continue }
            #expect(text.hasSuffix("#\(below) and #\(above)"), "#\(sequence): \(text)")
        }
        #expect(refused > 50)
        for outside in [disk.points[0].sequence - 1, disk.sequence + 1] {
            #expect(throws: VaultError.self) { try history.opened(at: outside) }
        }
    }

    @Test func pagesFollowEachOtherAndStepsThinThem() throws {
        let test = try TestVault()
        let disk = try replicated(test, seed: 13)
        let history = try history(disk)
        let all = expected(disk, history)
        var seen: [UInt64] = []
        var query = FlushQuery()
        query.limit = 7
        while true {
            let page = try history.flushBoundaries(query)
            #expect(page.boundaries.count <= 7)
            seen += page.boundaries.map(\.sequence)
            #expect(page.hasMore == (seen.count < all.count))
            guard page.hasMore, let oldest = page.boundaries.last else { break }
            query.throughSequence = oldest.sequence - 1
        }
        #expect(seen.reversed() == all)
        query = everything()
        query.stepNanoseconds = 20_000_000_000
        #expect(try history.flushBoundaries(query).boundaries.map { $0.sequence / 20 } == Set(all.map { $0 / 20 }).sorted(by: >))
        query = everything()
        let (from, to) = (all[10], all[30])
        query.fromNanoseconds = 1_000_000_000 * from
        query.throughNanoseconds = 1_000_000_000 * to
        #expect(try history.flushBoundaries(query).boundaries.map(\.sequence) == all[10...30].reversed())
        query = everything()
        query.fromSequence = from
        query.throughSequence = to
        #expect(try history.flushBoundaries(query).boundaries.map(\.sequence) == all[10...30].reversed())
    }

    /// The check of a number must not make a damaged vault less readable.
    @Test func aBoundaryBeforeALostSegmentStillOpens() throws {
        let test = try TestVault()
        let disk = try replicated(test, seed: 14, branch: false)
        let history = try history(disk)
        let segments = try test.keys().filter { $0.contains("/segments/") }
        let lost = segments[segments.count / 2]
        let first = try #require(UInt64(lost.split(separator: "/").last!.split(separator: "-")[0]))
        try test.store.delete([lost])
        let before = try #require(disk.sequences.last { $0 < first })
        #expect(try history.opened(at: before) == before)
        let error = #expect(throws: VaultError.self) { try history.flushBoundaries(everything()) }
        #expect(error?.description.contains(lost) == true)
    }

    @Test func equalStatesAreOneBoundaryAndAHostileFieldIsNone() {
        var scan = FlushScan()
        // Newest first: 9 was told by 12 and 8 by 10, with no record between them; 10 claims to vouch for itself and more.
        #expect(scan.take(sequence: 12, flushed: 9, wallNanoseconds: 120) == nil)
        #expect(scan.take(sequence: 11, flushed: 11, wallNanoseconds: 110) == nil)
        #expect(scan.take(sequence: 10, flushed: 8, wallNanoseconds: 100) == nil)
        #expect(scan.take(sequence: 7, flushed: 99, wallNanoseconds: 70) == FlushBoundary(sequence: 9, wallNanoseconds: 70))
        #expect(scan.take(sequence: 6, flushed: 3, wallNanoseconds: 60) == nil)
        #expect(scan.take(sequence: 3, flushed: 0, wallNanoseconds: 30) == FlushBoundary(sequence: 3, wallNanoseconds: 30))
        #expect(scan.take(sequence: 2, flushed: 0, wallNanoseconds: 20) == nil)
    }

    /// Lists what is intact, names what is not; what it lists opens.
    @Test(arguments: 1...8) func aLostManifestHidesOnlyWhatNeedsIt(seed: Int) throws {
        let test = try TestVault()
        let disk = try replicated(test, seed: 40 + UInt64(seed))
        let before = try history(disk)
        var numbers = SeededNumbers(seed: UInt64(seed))
        let manifests = try test.keys().filter { $0.contains("/manifests/") }
        let lost = try #require(manifests.randomElement(using: &numbers))
        let openable = try before.points().map(\.sequence).filter { sequence in sequence > 0 }
        try test.store.delete([lost])
        let intact = try history(disk).intactPoints()
        #expect(intact.damage.allSatisfy { "\($0)".contains(lost) } && intact.damage.count <= 2)
        let listed = Set(intact.points.map(\.sequence))
        for sequence in openable {
            var opens = true
            do { _ = try before.plan(at: sequence) } catch { opens = false }
            if listed.contains(sequence) {
                #expect(opens, "seed \(seed): #\(sequence) is listed and does not open without \(lost)")
            } else {
                #expect(!intact.damage.isEmpty)
            }
        }
        // Superseded deltas are needed by nobody.
        if intact.damage.isEmpty { #expect(listed == Set(openable)) } else { #expect(!listed.isEmpty) }
    }
}
