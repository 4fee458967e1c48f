// Points that are open while retention and collection go on.

import ObjectStore
import RecoveryPoints
import Testing
import Vault
import VaultFixtures

@Suite struct CleanedMeanwhileTests {
    private let thinning = Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 60), .init(periodSeconds: 60, spanSeconds: 100_000)])

    private func collect(_ vault: Vault, _ disk: ModelDisk) throws -> UInt64 {
        var deleted: UInt64 = 0
        for _ in 0..<3 {
            deleted += try Collector(vault: vault).run().deletedObjects
            try disk.acknowledge()
        }
        return deleted
    }

    /// Promise K4: A point that is read while retention and collection go on reads bit-exact to the end, or the read fails
    /// saying that retention let the point go.
    @Test func anOpenPointReadsOnOrSaysWhy() throws {
        let test = try TestVault()
        var limits = HistoryWriter.Limits()
        (limits.manifestsPerFull, limits.deltasPerRollup) = (4, 2)
        let disk = try ModelDisk(test.vault, sizeBytes: 2 << 20, seed: 21, limits: limits)
        var cleaned = Cleaning.Limits()
        cleaned.blocksPerStepMin = 24
        disk.cleaning = Cleaning(vault: test.vault, disk: disk.id, limits: cleaned)
        try disk.replicateInitially()
        for _ in 0..<12 { try disk.step(records: 6) }
        let vault = try test.reopened()
        let history = try #require(try DiskHistory.newest(vault, try vault.disk("disk")))
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let readers = try disk.points.map { try PointReader(sources, disk: disk.id, plan: try history.plan(at: $0.sequence)) }
        var copied = 0
        for _ in 0..<30 {
            try disk.step(records: 6)
            _ = try disk.thin(thinning)
            copied += try disk.clean().objects
        }
        #expect(copied > 10)
        #expect(try collect(test.vault, disk) > 20)
        let kept = Set(try #require(try DiskHistory.newest(vault, try vault.disk("disk"))).points().map(\.sequence))
        var refused = 0
        for reader in readers {
            var content = [UInt8](repeating: 0xEE, count: 2 << 20)
            do {
                try content.withUnsafeMutableBytes { try reader.read(into: $0, at: 0) }
                // What was not needed any more may still be cached, or not be gone.
                #expect(content == disk.content(at: reader.sequence), "#\(reader.sequence)")
            } catch let error as VaultError {
                guard case .notFound(let text) = error else { throw error }
                #expect(!kept.contains(reader.sequence) && text.contains("retention let the point"), "#\(reader.sequence): \(text)")
                refused += 1
            }
        }
        #expect(kept.contains(readers[0].sequence) && refused > 0)
    }

    /// What is really lost is still told as that.
    @Test func aLostObjectIsNoRetention() throws {
        let test = try TestVault()
        let disk = try ModelDisk(test.vault, sizeBytes: 2 << 20, seed: 22)
        try disk.replicateInitially()
        try disk.step(records: 6)
        let vault = try test.reopened()
        let history = try #require(try DiskHistory.newest(vault, try vault.disk("disk")))
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let reader = try PointReader(sources, disk: disk.id, plan: try history.plan(at: disk.sequence))
        try test.store.delete(try test.keys().filter { $0.hasPrefix("chunks/") })
        var content = [UInt8](repeating: 0, count: 2 << 20)
        #expect { try content.withUnsafeMutableBytes { try reader.read(into: $0, at: 0) } } throws: {
            if case .missing(let object)? = $0 as? VaultError { object.hasPrefix("chunks/") } else { false }
        }
    }
}
