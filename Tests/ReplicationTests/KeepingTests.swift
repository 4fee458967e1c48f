// Retention and collection beside a real uploader: points thin out as the policy says, what they need stays, and a
// collection costs an uploader nothing it has sent.

import BlockIO
import Foundation
import ObjectStore
import Replication
import Site
import Synchronization
import Testing
import Vault
import VirtualDisk

@Suite struct KeepingTests {
    /// The retention identity: a connection of its own, past the store that is watched.
    private func collector(_ disk: ReplicatedDisk) throws -> Vault {
        try Vault.open(store: try DirectoryStore(root: disk.folder + "/vault", create: false), key: disk.key, memory: HeadMemory(folder: nil))
    }

    private func expectListedPoints(_ disk: ReplicatedDisk) throws {
        let history = try #require(try disk.history())
        for point in try history.points() {
            guard let content = disk.points[point.sequence] else { continue }
            #expect(try vaultContent(history, at: point.sequence) == content, "#\(point.sequence)")
        }
    }

    /// Promise K5: An uploader deletes nothing; a vault grows until a collection runs.
    @Test func anUploaderThinsOutAndDeletesNothing() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        let catalogue = try Catalogue(site: disk.site)
        _ = try catalogue.changePolicy(named: "default", PolicyChange(intervalSeconds: 1, retention: try RetentionRules("all:1s,2s:6s")))
        let stop = StopFlag()
        let service = UploadService(replicator: try disk.replicator(stop: stop, catalogAgeSecondsMax: 0), log: ReplicatedDisk.quiet)
        let running = try OwnThread(name: "test") { do { try service.run() } catch { Issue.record(error) } }
        let problems = Mutex<[String]>([])
        let deleted = Mutex<UInt64>(0)
        let collecting = try OwnThread(name: "test") {
            while !stop.isStopping {
                do {
                    let report = try Collector(vault: try collector(disk), keysPerList: 50).run()
                    deleted.withLock { $0 += report.deletedObjects }
                } catch VaultError.conflict {
                } catch { problems.withLock { $0.append("\(error)") } }
                usleep(200_000)
            }
        }
        var random = SeededRandom(3)
        let began = Clock.monotonicNanoseconds()
        while Clock.monotonicNanoseconds() - began < (deleted.withLock { $0 } > 20 ? 6_000_000_000 : 30_000_000_000) {
            try disk.scribble(6, using: &random)
            usleep(150_000)
        }
        stop.stop()
        running.join()
        collecting.join()
        #expect(problems.withLock { $0 } == [])
        #expect(try disk.upload() == nil)
        #expect(disk.store.requests.deletes == 0)
        #expect(deleted.withLock { $0 } > 0)
        let listed = try #require(try disk.history()).points().count
        #expect(listed < disk.points.count / 2 && listed >= 3, "\(listed) of \(disk.points.count)")
        try expectListedPoints(disk)
        #expect(try VaultCheck(vault: collector(disk), readData: true).run().findings == [])
        #expect(try catalogue.events(limit: 50).allSatisfy { !$0.text.contains("not thinned out") })
    }

    /// An initial replication that a collection finds unfinished goes on, and sends nothing again.
    @Test func aCollectionCostsAnInitialReplicationNothing() throws {
        let disk = try ReplicatedDisk(content: sampleContent(1) + sampleContent(2) + sampleContent(3))
        var runs = 0
        while runs < 20 {
            let start = disk.store.requests.chunkPuts.count
            disk.store.failPuts { [store = disk.store] key, at in
                key.hasPrefix("chunks/") && at == .after && store.chunkPutCount > start + 1 ? unreachable : nil
            }
            runs += 1
            if try disk.upload() == nil { break }
            let report = try Collector(vault: try collector(disk)).run()
            #expect(report.deletedObjects == 0 && report.waiting.count == 1)
        }
        #expect(runs > 1)
        let puts = disk.store.requests.chunkPuts
        #expect(Set(puts).count == puts.count && puts.count >= 12)
        // Published, and the collection that waited ends without taking any of it.
        disk.store.failPuts(nil)
        #expect(try disk.upload() == nil)
        for _ in 0..<2 { #expect(try Collector(vault: try collector(disk)).run().waiting.isEmpty) }
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
        #expect(try VaultCheck(vault: collector(disk), readData: true).run().orphans?.objects == 0)
    }

    /// What stays of a shared point stays on all disks that share it, also after one of them joined late.
    @Test func disksThatSharePointsKeepTheSame() throws {
        let group = try ReplicatedGroup(["a", "b"])
        _ = try group.catalogue.changePolicy(named: "default", PolicyChange(retention: try RetentionRules("all:1s,1s:60s")))
        for value in 0..<4 {
            try group.write("a", UInt8(value))
            try group.cut(["a"])
            try group.upload()
        }
        try group.catalogue.addGroup(named: "g", machines: ["a", "b"])
        for value in 0..<24 {
            try group.write(value % 2 == 0 ? "a" : "b", UInt8(value), at: 4_096 * value)
            try group.cut()
            if value % 3 == 2 { #expect(try group.upload().isEmpty) }
            usleep(200_000)
        }
        #expect(try group.upload().isEmpty)
        let (a, b) = (try group.listed("a"), try group.listed("b"))
        #expect(try group.history("a")!.keptPoints().count >= 3 && group.history("b")!.keptPoints().count >= 3)
        let shared = a.filter { $0.value.count == 2 }
        #expect(shared.count >= 4 && shared.count < 24 && Set(shared.keys) == Set(b.filter { $0.value.count == 2 }.keys))
        // Below the window too.
        #expect(try shared.keys.contains { try $0 < group.history("a")!.state.oldestSequence })
        #expect(try group.mismatches().isEmpty)
    }

    @Test func aRoundIsDueWhenPointsMayBeOld() {
        let hour: UInt64 = 3_600_000_000
        var schedule = RetentionSchedule()
        let day = 86_400_000_000_000 as UInt64
        var head: UInt64 = 0
        func isDue(_ now: UInt64, wall: UInt64, clock: UInt64?, isIdle: Bool = false) -> Bool {
            head += isIdle ? 0 : 1
            return schedule.isDue(head: head, now: now, wallMicros: wall, clockMicros: clock, wholeMicros: 2 * hour)
        }
        #expect(isDue(day, wall: 100 * hour, clock: nil))
        // Nothing was published: an idle disk costs no request.
        #expect(!isDue(9 * day, wall: 900 * hour, clock: nil, isIdle: true))
        // Not at once again, and not before a quarter more than the whole part has passed.
        #expect(!isDue(day + 1, wall: 103 * hour, clock: nil))
        #expect(!isDue(2 * day, wall: 102 * hour, clock: 100 * hour))
        #expect(isDue(2 * day, wall: 103 * hour, clock: 100 * hour))
        // A clock that was set back by years holds nothing up.
        #expect(isDue(3 * day, wall: 10 * hour, clock: 100_000 * hour))
    }
}
