// Cleaning beside a real uploader: on the retention's thread, named by the next full manifests, while a collection runs.

import BlockIO
import Foundation
import ObjectStore
import Replication
import Site
import Synchronization
import Testing
import Vault

@Suite struct CleaningBesideUploadsTests {
    private func expectListedPoints(_ disk: ReplicatedDisk) throws {
        let history = try #require(try disk.history())
        for point in try history.points() {
            guard let content = disk.points[point.sequence] else { continue }
            #expect(try vaultContent(history, at: point.sequence) == content, "#\(point.sequence)")
        }
    }

    private func collector(_ disk: ReplicatedDisk) throws -> Vault {
        try Vault.open(store: try DirectoryStore(root: disk.folder + "/vault", create: false), key: disk.key, memory: HeadMemory(folder: nil))
    }

    private func limits(_ manifestsPerFull: UInt64) -> HistoryWriter.Limits {
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = manifestsPerFull
        return limits
    }

    /// Whether the newest map names a chunk that is none of `initial`.
    private func namesCopies(_ disk: ReplicatedDisk, beside initial: Set<String>) throws -> Bool {
        guard let history = try disk.history() else { return false }
        let map = MapReader(vault: history.vault)
        let plan = try history.plan(at: history.newestSequence)
        let end = plan.sizeBytes / 4_096
        var block: UInt64 = 0
        while block < end {
            let extent = try map.extent(plan.root, at: block, before: end)
            if case .chunk(let ref)? = extent.source, !initial.contains(ObjectPlace.chunk(ref).key) { return true }
            block += extent.blockCount
        }
        return false
    }

    /// What small uploads left of themselves, until a map names the copies. A collection before that may cost them, and comes seldom here.
    @Test func whatIsLeftOfDeadObjectsIsCopied() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        _ = try Catalogue(site: disk.site).changePolicy(named: "default", PolicyChange(intervalSeconds: 1, retention: try RetentionRules("all:1s,1s:3s")))
        let stop = StopFlag()
        let service = UploadService(replicator: try disk.replicator(stop: stop, catalogAgeSecondsMax: 0, history: limits(4)), log: ReplicatedDisk.quiet)
        let running = try OwnThread(name: "test") { do { try service.run() } catch { Issue.record(error) } }
        let began = Clock.monotonicNanoseconds()
        while try disk.history() == nil, Clock.monotonicNanoseconds() - began < 20_000_000_000 { usleep(50_000) }
        let initial = Set(disk.store.requests.chunkPuts)
        var random = SeededRandom(5)
        var isNamed = false
        var round: UInt8 = 0
        while !isNamed, Clock.monotonicNanoseconds() - began < 180_000_000_000 {
            round &+= 1
            for _ in 0..<24 {
                let block = Int.random(in: 0..<1_600, using: &random)
                try disk.write([UInt8](repeating: round, count: 4_096), at: block * 4_096)
            }
            try disk.cut()
            usleep(400_000)
            guard round % 6 == 0 else { continue }
            isNamed = try namesCopies(disk, beside: initial)
            guard round % 48 == 0 else { continue }
            do { _ = try Collector(vault: try collector(disk)).run() } catch VaultError.conflict {}
        }
        stop.stop()
        running.join()
        print("a map names copies after \((Clock.monotonicNanoseconds() - began) / 1_000_000_000) s")
        #expect(isNamed)
        for _ in 0..<2 {
            _ = try Collector(vault: try collector(disk)).run()
            #expect(try disk.upload() == nil)
        }
        try expectListedPoints(disk)
        #expect(try VaultCheck(vault: disk.openVault(), readData: true).run().findings == [])
        #expect(disk.store.requests.deletes == 0)
    }

    /// A full manifest that no head names stands where the next attempt wants to put one with another map: it goes on with a later state.
    @Test func aFullManifestThatWasNeverNamedIsNotInTheWay() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        func upload() throws -> AttemptFailure? {
            try UploadService(replicator: disk.replicator(catalogAgeSecondsMax: 0, history: limits(1)), log: ReplicatedDisk.quiet).runOnce().first?.failure
        }
        #expect(try upload() == nil)
        try disk.write([UInt8](repeating: 7, count: 40_960), at: 4_096)
        try disk.cut()
        // The group is claimed, the manifest put, and then the target is away.
        @Sendable func manifests(_ store: WatchedStore) -> Int { store.requests.puts.count { $0.contains("/manifests/") } }
        let before = manifests(disk.store)
        disk.store.failPuts { [store = disk.store] key, moment in
            key.hasPrefix("heads/") && moment == .before && manifests(store) > before ? unreachable : nil
        }
        #expect(try upload() != nil && manifests(disk.store) == before + 1)
        disk.store.failPuts(nil)
        let unnamed = try #require(disk.store.requests.puts.last { $0.contains("/manifests/") }?.split(separator: "/").last.flatMap { UInt64($0) })
        // Its map was made under the first epoch.
        #expect(try Collector(vault: try collector(disk)).run().condemnedObjects > 0)
        #expect(try upload() == nil)
        let history = try #require(try disk.history())
        #expect(history.newestSequence > unnamed)
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
        try expectListedPoints(disk)
    }
}
