// Points that retention lets go, and those that stay: what stays reads as it did, from any history.

import Testing
import Vault
import VaultFixtures

/// Times of a model disk are its sequences, in seconds.
let quickThinning = Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 60), .init(periodSeconds: 30, spanSeconds: 240), .init(periodSeconds: 120, spanSeconds: 900)])

func quickLimits() -> HistoryWriter.Limits {
    var limits = HistoryWriter.Limits()
    limits.manifestsPerFull = 5
    limits.deltasPerRollup = 2
    return limits
}

/// Every point the vault lists, and every sequence of the window, holds what the disk held.
func expectAllReadable(_ vault: Vault, _ disk: ModelDisk, _ comment: String = "") throws {
    let history = try #require(try DiskHistory.newest(vault, try vault.disk(disk.name)))
    let points = try history.points()
    #expect(points.last == disk.points.last, "\(comment)")
    for point in points {
        #expect(try readState(vault, disk: disk.id, at: point.sequence) == disk.content(at: point.sequence), "\(comment): #\(point.sequence)")
    }
}

@Suite struct RetentionTests {
    private func disk(_ vault: Vault, seed: UInt64, steps: Int) throws -> ModelDisk {
        let disk = try ModelDisk(vault, sizeBytes: 1 << 20, seed: seed, limits: quickLimits())
        try disk.replicateInitially()
        for _ in 0..<steps { try disk.step(records: 4) }
        return disk
    }

    /// Promise K1: Retention lets points go by one head that names all that stay, and each of these reads bit-exact before
    /// and after it.
    @Test(arguments: 1...4) func whatStaysReadsAsBefore(seed: UInt64) throws {
        let test = try TestVault()
        let disk = try disk(test.vault, seed: seed, steps: 10)
        for round in 0..<8 {
            for _ in 0..<6 { try disk.step(records: 4) }
            _ = try disk.thin(quickThinning)
            try expectAllReadable(test.reopened(), disk, "seed \(seed), round \(round)")
        }
        let history = try #require(try DiskHistory.newest(test.vault, try test.vault.disk("disk")))
        let kept = try history.keptPoints()
        #expect(try kept.count >= 4 && kept.count < 30 && history.points().count < disk.points.count)
        // Between the points that stay nothing can be read, and that is said.
        let gone = try #require(disk.points.first { point in point.sequence < history.state.oldestSequence && !kept.contains { $0.sequence == point.sequence } })
        #expect { try history.plan(at: gone.sequence) } throws: { if case .notFound? = $0 as? VaultError { true } else { false } }
        // A full check, which also reads what only older manifests name.
        #expect(try VaultCheck(vault: test.reopened(), readData: true).run().findings == [])
        // Nothing was sent again: what stays is maps over segments and chunks that were there.
        #expect(try !disk.thin(quickThinning))
    }

    /// Promise K2: The newest point and pinned points stay, and no point goes before newer ones make it old, whatever
    /// clocks do.
    @Test func jumpsOfTheClockLetNothingGo() throws {
        let test = try TestVault()
        let disk = try disk(test.vault, seed: 9, steps: 3)
        let before = disk.points.map(\.sequence)
        // Ten years on, back to 1970, and on from there.
        for time in [315_360_000_000_000, 1_000_000, 2_000_000, 315_360_000_000_000, 3_000_000] as [UInt64] { try disk.step(records: 2, timeMicros: time) }
        let long = Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 3 * 86_400)])
        #expect(try !disk.thin(long))
        #expect(try DiskHistory.newest(test.vault, try test.vault.disk("disk"))?.points().map(\.sequence).starts(with: before) == true)
        // No new points, no age: a disk that stands still keeps what it has.
        #expect(try !disk.thin(long))
        // The newest stays even where the rule asks for less than there is.
        _ = try disk.thin(Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 1)]))
        try expectAllReadable(test.reopened(), disk)
    }

    @Test func pinnedStatesStayUntilTheyAreLetGo() throws {
        let test = try TestVault()
        let disk = try disk(test.vault, seed: 5, steps: 4)
        let entry = try test.vault.disk("disk")
        let pinned = disk.points[2].sequence
        // A state between two points as well: its time is that of the point before.
        let between = try #require(disk.sequences.first { $0 > disk.points[1].sequence && $0 < disk.points[2].sequence })
        _ = try test.vault.pin(entry, sequence: pinned, name: "release", reason: "old schema", spanMicros: nil)
        _ = try test.vault.pin(entry, sequence: between, name: "between", reason: "", spanMicros: 60_000_000, nowMicros: disk.points.last!.timeMicros)
        #expect { try test.vault.pin(entry, sequence: pinned, name: "release", reason: "", spanMicros: nil) } throws: { if case .alreadyExists? = $0 as? VaultError { true } else { false } }
        let short = Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 20)])
        for _ in 0..<3 { try disk.step(records: 4) }
        _ = try disk.thin(short)
        for sequence in [pinned, between] { #expect(try readState(test.reopened(), disk: disk.id, at: sequence) == disk.content(at: sequence)) }
        for _ in 0..<40 { try disk.step(records: 4) }
        _ = try disk.thin(short)
        let history = try #require(try DiskHistory.newest(test.reopened(), entry))
        #expect(try history.keptPoints().map(\.sequence) == [pinned])
        #expect(try readState(test.vault, disk: disk.id, at: pinned) == disk.content(at: pinned))
        _ = try test.vault.unpin(entry, name: "release")
        #expect { try test.vault.unpin(entry, name: "release") } throws: { if case .notFound? = $0 as? VaultError { true } else { false } }
        try disk.step(records: 4)
        _ = try disk.thin(short)
        #expect { try readState(test.vault, disk: disk.id, at: pinned) } throws: { if case .notFound? = $0 as? VaultError { true } else { false } }
        #expect { try test.vault.pin(entry, sequence: pinned, name: "late", reason: "", spanMicros: nil) } throws: { if case .notFound? = $0 as? VaultError { true } else { false } }
    }

    /// The counted time is a day ahead of the clock after this, and a span of a minute is a minute all the same.
    @Test func aPinLastsAsLongAsItSaysAfterAClockWasSet() throws {
        let test = try TestVault()
        let disk = try disk(test.vault, seed: 8, steps: 3)
        let now = try #require(disk.points.last?.timeMicros)
        try disk.step(records: 2, timeMicros: now + 315_360_000_000_000)
        try disk.step(records: 2, timeMicros: now)
        let pinned = try #require(disk.points.last?.sequence)
        let made = try test.vault.pin(try test.vault.disk("disk"), sequence: pinned, name: "p", reason: "", spanMicros: 60_000_000, nowMicros: now)
        #expect(made.first?.pin.untilMicros == now + RetentionTime.stepMicrosMax + 60_000_000)
        let short = Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 5)])
        for second in 1...50 as ClosedRange<UInt64> {
            try disk.step(records: 2, timeMicros: now + second * 1_000_000)
            if second % 10 == 0 { _ = try disk.thin(short) }
        }
        #expect(try readState(test.reopened(), disk: disk.id, at: pinned) == disk.content(at: pinned))
        for second in 51...70 as ClosedRange<UInt64> { try disk.step(records: 2, timeMicros: now + second * 1_000_000) }
        _ = try disk.thin(short)
        #expect { try readState(test.vault, disk: disk.id, at: pinned) } throws: { if case .notFound? = $0 as? VaultError { true } else { false } }
    }

    /// A pin that is set while retention works on the head before counts: nothing is published over it.
    @Test func aPinSetMeanwhileCounts() throws {
        let test = try TestVault()
        let disk = try disk(test.vault, seed: 6, steps: 40)
        let heads = test.vault.heads(group: disk.id)
        let head = try #require(try heads.newest()).document
        let pruning = try #require(try Retention(vault: test.vault, thinning: quickThinning, epoch: 1).pruning(of: head, try test.vault.catalog().document))
        let pinned = disk.points[1].sequence
        _ = try test.vault.pin(try test.vault.disk("disk"), sequence: pinned, name: "p", reason: "", spanMicros: nil)
        var applied = true
        try heads.update(epoch: disk.epoch) { applied = pruning.apply(to: &$0) }
        #expect(!applied)
        _ = try disk.thin(quickThinning)
        #expect(try readState(test.reopened(), disk: disk.id, at: pinned) == disk.content(at: pinned))
    }

    /// A history that branched off is left behind like any other.
    @Test func aHistoryThatWasLeftGoesWhenItIsOld() throws {
        let test = try TestVault()
        let disk = try disk(test.vault, seed: 7, steps: 8)
        let heads = test.vault.heads(group: disk.id)
        let (branch, lineage) = (disk.points[5].sequence, VaultID.random())
        let next = try disk.writer.branch(try #require(try heads.newest()?.document.state(of: disk.id)), to: lineage, at: branch, epoch: 1)
        try heads.update(epoch: disk.epoch) { $0.set(next) }
        try disk.branched(at: branch, lineage: lineage)
        for _ in 0..<20 {
            try disk.step(records: 4)
            _ = try disk.thin(quickThinning)
            let vault = try test.reopened()
            let history = try #require(try DiskHistory.newest(vault, try vault.disk("disk")))
            for point in try history.points() { #expect(try readState(vault, disk: disk.id, at: point.sequence) == disk.content(at: point.sequence)) }
        }
        let state = try #require(try heads.newest()?.document.state(of: disk.id))
        #expect(state.lineages.map(\.id) == [lineage] && state.ended?.count == 1)
        #expect(try VaultCheck(vault: test.reopened(), readData: true).run().findings == [])
    }
}
