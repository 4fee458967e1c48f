// Two uploaders of one disk at the same time, killed at random: a site directory that was put back beside the one in use,
// and a disk that was copied with its log.

import BlockIO
import ChangeLog
import Foundation
import ObjectStore
import Replication
import Site
import Testing
import Vault
import VaultFixtures

@Suite struct RacingUploadersTests {
    /// One of the two: its site, and its way to the target, which may be cut.
    private final class Racer: @unchecked Sendable {
        // Sendable: used by one thread at a time.
        let name: String
        let disk: ReplicatedDisk
        let site: SiteDirectory
        let store: InterruptedStore
        var failure: AttemptFailure?

        init(_ name: String, _ disk: ReplicatedDisk, _ site: SiteDirectory, _ memory: MemoryStore, conditionalPut: Bool) {
            (self.name, self.disk, self.site) = (name, disk, site)
            store = InterruptedStore(FaultyTarget(memory, seed: 0, features: StoreFeatures(conditionalPut: conditionalPut, checksumTrusted: false)))
        }

        /// One attempt of a new process.
        func attempt() throws {
            failure = try UploadService(replicator: disk.replicator(site: site, host: name, through: store), log: ReplicatedDisk.quiet).runOnce().first?.failure
        }

        func mayBeKilled(_ random: inout SeededRandom) {
            let at = Int.random(in: 1...60, using: &random)
            store.interrupt(at: at > 40 ? .max : at, Bool.random(using: &random) ? .dies : .diesAfter)
        }

        func lives() { store.interrupt(at: .max, .dies) }
    }

    private func race(_ racers: [Racer], _ random: inout SeededRandom) throws {
        for racer in racers { racer.mayBeKilled(&random) }
        let threads = try racers.map { racer in
            try OwnThread(name: "racer") { do { try racer.attempt() } catch { Issue.record("\(racer.name): \(error)") } }
        }
        for thread in threads { thread.join() }
        for racer in racers { racer.lives() }
    }

    private func quick() -> VaultSettings {
        var settings = VaultSettings()
        settings.settleMilliseconds = 20
        return settings
    }

    /// What is wrong with the chain of heads from number `from` to its end, whose number is returned.
    private func checkHeads(_ disk: ReplicatedDisk, from: inout UInt64, epoch: inout UInt64) throws -> [String] {
        let vault = try disk.openVault()
        let heads = vault.heads(group: try vault.disk(ReplicatedDisk.name).group)
        guard let newest = try heads.newest()?.document else { return [] }
        var problems: [String] = []
        while from <= newest.number {
            let head = try heads.read(from).document
            if head.writer.epoch < epoch { problems.append("head \(from) is of writer epoch \(head.writer.epoch), after one of \(epoch)") }
            if head.disks.count > 1 || head.disks.first?.lineages.count ?? 1 > 1 { problems.append("head \(from) has several lineages") }
            (epoch, from) = (head.writer.epoch, from + 1)
        }
        return problems
    }

    @Test(arguments: [true, false]) func oneLogHasOneWriter(conditionalPut: Bool) throws {
        let seed = ProcessInfo.processInfo.environment["FARSHORE_SEED"].flatMap(UInt64.init) ?? 1
        var random = SeededRandom(seed)
        let memory = MemoryStore()
        let disk = try ReplicatedDisk(content: [UInt8](repeating: 3, count: 2 << 20), in: memory, settings: quick())
        #expect(try disk.upload() == nil)
        let old = disk.folder + "/old-site"
        try FileManager.default.copyItem(atPath: disk.site.path, toPath: old)
        let first = Racer("first", disk, disk.site, memory, conditionalPut: conditionalPut)
        let second = Racer("second", disk, SiteDirectory(path: disk.folder + "/other-site"), memory, conditionalPut: conditionalPut)
        try FileManager.default.copyItem(atPath: old, toPath: second.site.path)
        // So that they meet within one attempt.
        memory.setLatency(microseconds: 500)
        var (next, epoch, fenced) = (UInt64(1), UInt64(0), 0)
        for round in 0..<10 * campaignScale {
            let what = "seed \(seed), round \(round)"
            if round % 3 == 1 {
                // As it was once, and as a backup brings it back.
                try FileManager.default.removeItem(atPath: second.site.path)
                try FileManager.default.copyItem(atPath: old, toPath: second.site.path)
            }
            try disk.scribble(Int.random(in: 1...4, using: &random), using: &random)
            let point = try #require(disk.points.keys.max())
            try race([first, second], &random)
            fenced += [first, second].count { $0.failure?.outcome == .fenced }
            if round % 3 == 2 {
                let last = Bool.random(using: &random) ? first : second
                try last.attempt()
                #expect(last.failure == nil, "\(what): \(last.failure?.message ?? "")")
                #expect(try disk.history()?.newestSequence == point, "\(what)")
            }
            let problems = try checkHeads(disk, from: &next, epoch: &epoch)
            #expect(problems.isEmpty, "\(what): \(problems)")
            let history = try #require(try disk.history())
            for site in [first.site, second.site] {
                let proven = try Catalogue(site: site).replication(ofDisk: ReplicatedDisk.name).provenSequence ?? 0
                #expect(proven <= history.newestSequence, "\(what): \(proven) counted as replicated")
            }
            if let content = disk.points[history.newestSequence] { #expect(try vaultContent(history, at: history.newestSequence) == content, "\(what)") }
        }
        try first.attempt()
        #expect(first.failure == nil)
        let history = try #require(try disk.history())
        let listed = Set(try history.points().map(\.sequence))
        for (sequence, content) in disk.points {
            #expect(listed.contains(sequence), "#\(sequence) was lost")
            #expect(try vaultContent(history, at: sequence) == content, "#\(sequence)")
        }
        #expect(try VaultCheck(vault: disk.openVault(), readData: true).run().isClean)
        print("two uploaders of one log, \(conditionalPut ? "with" : "without") conditional PUT, seed \(seed): \(10 * campaignScale) rounds, \(next - 1) heads, \(epoch) claims, fenced \(fenced) times, \(listed.count) points")
    }

    @Test(arguments: [true, false]) func ofTwoCopiesOneGoesOn(conditionalPut: Bool) throws {
        let seed = ProcessInfo.processInfo.environment["FARSHORE_SEED"].flatMap(UInt64.init) ?? 2
        var random = SeededRandom(seed)
        var wins: [String: Int] = [:]
        for round in 0..<4 * campaignScale {
            let what = "seed \(seed), round \(round)"
            let memory = MemoryStore()
            let disk = try ReplicatedDisk(content: [UInt8](repeating: 3, count: 1 << 20), in: memory, settings: quick())
            #expect(try disk.upload() == nil)
            let copy = try ReplicatedDisk(copyOf: disk)
            memory.setLatency(microseconds: 500)
            let racers = [("first", disk), ("second", copy)].map { Racer($0, $1, $1.site, memory, conditionalPut: conditionalPut) }
            for _ in 0..<2 {
                for racer in racers { try racer.disk.scribble(Int.random(in: 1...4, using: &random), using: &random) }
                try race(racers, &random)
            }
            // Which of them has to give way may not be told before it tries once more.
            for racer in racers { try racer.attempt() }
            for racer in racers { try racer.attempt() }
            let winners = racers.filter { $0.failure == nil }
            #expect(winners.count == 1, "\(what): \(racers.map { $0.failure?.message ?? "replicated" })")
            guard let winner = winners.first else { continue }
            wins[winner.name, default: 0] += 1
            for loser in racers where loser !== winner { #expect(loser.failure?.outcome == .forGood, "\(what): \(loser.failure!.message)") }
            let history = try #require(try disk.history())
            #expect(history.state.lineages.count == 1)
            let listed = Set(try history.points().map(\.sequence))
            #expect(Set(winner.disk.points.keys).isSubset(of: listed), "\(what): a point of \(winner.name) was lost")
            for sequence in listed {
                guard let content = winner.disk.points[sequence] else { continue }
                #expect(try vaultContent(history, at: sequence) == content, "\(what): #\(sequence) is not that of \(winner.name)")
            }
            #expect(listed.count == winner.disk.points.count + 1, "\(what): points of both are listed")
        }
        print("two copies of a disk, \(conditionalPut ? "with" : "without") conditional PUT, seed \(seed): \(wins.sorted { $0.key < $1.key }.map { "\($0.key) went on \($0.value) times" }.joined(separator: ", "))")
    }
}
