// Disks that share points: what the vault lists of them, at every step of an upload that may be killed, and as disks come
// and go.

import BlockIO
import ChangeLog
import Foundation
import ObjectStore
import RecoveryPoints
import Replication
import Site
import Synchronization
import Testing
import Vault
import VirtualDisk

@Suite struct GroupTests {
    private func grouped(_ names: [String]) throws -> ReplicatedGroup {
        let group = try ReplicatedGroup(names)
        try group.catalogue.addGroup(named: "g", machines: names)
        return group
    }

    @Test func aPointIsOneNumberOnEveryDisk() throws {
        let group = try grouped(["a", "b", "c"])
        #expect(try group.upload().isEmpty)
        try group.write("a", 11)
        try group.write("c", 12)
        let first = try group.cut()
        try group.write("b", 13)
        let second = try group.cut()
        try group.write("a", 14)
        #expect(try group.upload().isEmpty)
        for disk in group.names {
            let listed = try group.listed(disk)
            #expect(listed[first] == group.names && listed[second] == group.names)
        }
        #expect(try group.shared("b").newest()?.sequence == second)
        #expect(try group.shared("b").name == "g")
        #expect(try group.mismatches().isEmpty)
        // One chain of heads, one writer epoch.
        let catalog = try group.openVault().catalog().document
        #expect(Set(catalog.disks.map(\.group)).count == 1)
        #expect(catalog.groups?.map(\.name) == ["g"])
        #expect(Set(try group.names.map { try group.catalogue.replication(ofDisk: $0).writerEpoch }).count == 1)
        #expect(try VaultCheck(vault: group.openVault(), readData: true).run().isClean)
    }

    /// The others' points of the time that it lost are theirs; points that all of them have go on once it has caught up.
    @Test func aDiskOfAGroupIsResynchronised() throws {
        let group = try grouped(["a", "b"])
        #expect(try group.upload().isEmpty)
        try group.write("a", 11)
        let before = try group.cut()
        #expect(try group.upload().isEmpty)
        let entry = try group.catalogue.disk(named: "a")
        try markResynchronisation(entry, LogFolder(entry.logFolder), group.catalogue, reason: "test", isNow: false)
        _ = try group.catalogue.changePolicy(named: Policy.defaultName, PolicyChange(resyncWindow: try WeeklyWindow("never")))
        try group.write("a", 12)
        try group.write("b", 13)
        let during = try group.cut()
        try group.write("a", 14)
        #expect(try group.upload().map(\.disk) == ["a"])
        #expect(try group.listed("b")[during] == nil)
        try group.catalogue.markResynchronisation(ofDisk: "a", reason: "test", isNow: true)
        #expect(try group.upload().isEmpty)
        #expect(try group.listed("b")[during] == ["b"])
        #expect(try group.listed("a")[during] == nil)
        try group.write("a", 15)
        let after = try group.cut()
        #expect(try group.upload().isEmpty)
        for disk in group.names { #expect(try group.listed(disk)[before] == group.names && group.listed(disk)[after] == group.names) }
        #expect(try group.shared("a").newest()?.sequence == after)
        #expect(try group.mismatches().isEmpty)
    }

    // Promise G2: A point of several disks is listed in a vault when every one of them has its part there, and not before.
    @Test func aKilledUploaderLeavesNoHalfPoint() throws {
        let group = try grouped(["a", "b", "c"])
        #expect(try group.upload().isEmpty)
        var expected: Set<UInt64> = []
        for round in 0..<4 {
            for disk in group.names { try group.write(disk, UInt8(20 + round), at: round * 4096) }
            expected.insert(try group.cut())
            // Killed after each of its PUTs in turn: none after it is answered.
            for allowed in 0..<40 {
                let sent = Mutex(0)
                group.store.failPuts { _, moment in
                    guard moment == .before else { return nil }
                    return sent.withLock { count in
                        count += 1
                        return count > allowed ? unreachable : nil
                    }
                }
                let isDone = try group.upload().isEmpty
                group.store.failPuts(nil)
                let listed = try group.names.map { Set(try group.listed($0).filter { $0.value == group.names }.keys) }
                let listedAtAll = try group.names.map { Set(try group.listed($0).keys).intersection(expected) }
                #expect(Set(listed).count == 1, "after \(allowed) PUTs the disks list different points")
                for (disk, points) in zip(group.names, listedAtAll) { #expect(points == listed[0].intersection(expected), "\(disk) lists a half point after \(allowed) PUTs") }
                if isDone { break }
            }
            #expect(try expected.isSubset(of: group.listed("a").keys))
        }
        #expect(try group.mismatches().isEmpty)
    }

    @Test func aDiskThatFailsHoldsBackThePointAndNotTheOthersData() throws {
        let group = try grouped(["a", "b"])
        #expect(try group.upload().isEmpty)
        let before = try group.cut()
        #expect(try group.upload().isEmpty)
        let b = try group.openVault().disk("b").id
        group.store.failPuts { key, _ in key.hasPrefix("disks/\(b)/") ? unreachable : nil }
        try group.write("a", 30)
        try group.write("b", 31)
        let half = try group.cut()
        #expect(try group.upload().map(\.disk) == ["b"])
        #expect(try group.listed("a")[half] == nil && group.listed("b")[half] == nil)
        #expect(try group.shared("a").newest()?.sequence == before)
        #expect(try #require(try group.history("a")).newestSequence == half)
        group.store.failPuts(nil)
        #expect(try group.upload().isEmpty)
        #expect(try group.listed("a")[half] == ["a", "b"])
        #expect(try group.mismatches().isEmpty)
    }

    @Test func aDiskThatJoinsLaterIsInThePointsFromThenOn() throws {
        let group = try grouped(["a", "b"])
        #expect(try group.upload().isEmpty)
        try group.catalogue.take(machines: ["b"], outOfGroup: "g")
        #expect(try group.upload().isEmpty)
        #expect(try group.openVault().catalog().document.groups?.first?.disks.count == 1)
        try group.write("a", 40)
        let alone = try group.cut(["a"])
        let own = try group.cut(["b"])
        #expect(try group.upload().isEmpty)
        #expect(try group.listed("a")[alone] == ["a"])
        try group.catalogue.put(machines: ["b"], inGroup: "g")
        try group.write("b", 41)
        let shared = try group.cut()
        #expect(try group.upload().isEmpty)
        // Nothing that was listed is gone.
        #expect(try group.listed("a")[alone] == ["a"])
        #expect(try group.listed("b")[own] == ["b"])
        #expect(try group.listed("b")[shared] == ["a", "b"])
        #expect(try group.shared("a").newest()?.sequence == shared)
        #expect(try group.mismatches().isEmpty)
        #expect(try VaultCheck(vault: group.openVault(), readData: true).run().isClean)
    }

    /// The move of a disk to another chain of heads, killed after each PUT, loses nothing that was listed and lets replication go on.
    @Test func aMoveMayBeKilledAnywhere() throws {
        for allowed in 0..<16 {
            let group = try ReplicatedGroup(["a", "b"])
            #expect(try group.upload().isEmpty)
            try group.write("a", 50)
            let own = try group.cut(["a"])
            #expect(try group.upload().isEmpty)
            try group.catalogue.addGroup(named: "g", machines: ["a", "b"])
            let sent = Mutex(0)
            group.store.failPuts { _, moment in
                guard moment == .after else { return nil }
                return sent.withLock { count in
                    count += 1
                    return count > allowed ? unreachable : nil
                }
            }
            let isDone = try group.upload().isEmpty
            group.store.failPuts(nil)
            #expect(try group.listed("a")[own] != nil, "after \(allowed) PUTs")
            try group.write("a", 51)
            try group.write("b", 52)
            let shared = try group.cut()
            #expect(try group.upload().isEmpty, "after \(allowed) PUTs")
            #expect(try group.listed("a")[own] == ["a"])
            #expect(try group.listed("b")[shared] == ["a", "b"])
            #expect(try group.mismatches().isEmpty)
            if isDone { break }
        }
    }

    /// The host died between the records of a point, or a power loss cut one of the logs below it: a point that one of the
    /// disks lacks is listed of none, and no name stands for it.
    @Test func aPointThatADiskLacksIsNone() throws {
        let group = try grouped(["a", "b"])
        #expect(try group.upload().isEmpty)
        let whole = try group.cut(tag: "app")
        try group.write("a", 60)
        let partial = try group.cut(["a"], tag: "app")
        try group.write("b", 61)
        #expect(try group.upload().isEmpty)
        for disk in group.names { #expect(try group.listed(disk)[partial] == nil && group.listed(disk)[whole] == ["a", "b"]) }
        let shared = try group.shared("a"), a = try group.openVault().disk("a")
        #expect(try shared.newest()?.sequence == whole)
        #expect(try shared.resolve(.tag("app"), on: a) == whole)
        // The state is there, for who names its number.
        #expect(try shared.resolve(.sequence(partial), on: a) == partial)
    }

    @Test func anAppConsistentPointIsOneInTheVault() throws {
        let group = try grouped(["a", "b"])
        #expect(try group.upload().isEmpty)
        try group.write("a", 1)
        let atRest = try group.cut(isAppConsistent: true)
        try group.write("b", 2)
        let later = try group.cut()
        #expect(try group.upload().isEmpty)
        for disk in group.names {
            let shared = try group.shared(disk), entry = try group.openVault().disk(disk)
            #expect(try shared.resolve(.latestMultiAppConsistent, on: entry) == atRest && shared.resolve(.latestAppConsistent, on: entry) == atRest)
            #expect(try shared.resolve(.latestMulti, on: entry) == later)
        }
    }

    // Promise G4: A time stands for one sequence on all disks that share points, which holds what was flushed on each of
    // them by then; a flush boundary of one of them opens on all.
    @Test func aTimeIsOneMomentOfAllDisks() throws {
        let group = try grouped(["a", "b", "c"])
        #expect(try group.upload().isEmpty)
        var random = SeededRandom(5)
        var writes: [(sequence: UInt64, disk: String, offset: Int, value: UInt8)] = []
        var flushes: [(sequence: UInt64, micros: UInt64)] = []
        let initial = group.models
        for step in 0..<60 {
            // The third is idle.
            let disk = Bool.random(using: &random) ? "a" : "b"
            let write = (disk: disk, offset: 4096 * Int.random(in: 0..<64, using: &random), value: UInt8(100 + step))
            try group.write(write.disk, write.value, at: write.offset)
            writes.append((try #require(group.disks[disk]).status.log.lastSequence, write.disk, write.offset, write.value))
            usleep(2)
            if step % 7 == 3 { try group.cut() }
            guard step % 3 == 0 else { continue }
            try group.disks[disk]!.flush()
            flushes.append((writes.last!.sequence, Clock.wallNanoseconds() / 1000))
            usleep(2)
        }
        try group.cut()
        #expect(try group.upload().isEmpty)
        let vault = try group.openVault()
        let shared = try group.shared("a")
        func content(_ disk: String, _ sequence: UInt64) -> [UInt8] {
            var content = initial[disk]!
            for write in writes where write.disk == disk && write.sequence <= sequence {
                content.replaceSubrange(write.offset..<write.offset + 4096, with: repeatElement(write.value, count: 4096))
            }
            return content
        }
        func check(_ name: PointName, _ note: String) throws -> UInt64 {
            let moments = try group.names.map { try #require(try shared.resolve(name, on: vault.disk($0))) }
            #expect(Set(moments).count == 1, "\(note): \(moments)")
            for disk in group.names {
                let history = try #require(shared.history(of: vault.disk(disk).id))
                #expect(try vaultContent(history, at: moments[0]) == content(disk, moments[0]), "\(note): \(disk) at \(moments[0])")
            }
            return moments[0]
        }
        for flush in flushes where flush.micros > flushes[0].micros {
            let moment = try check(.time(micros: flush.micros), "by time")
            let behind = writes.first { $0.sequence > flush.sequence }?.sequence ?? .max
            #expect(moment >= flush.sequence && moment < behind)
        }
        for disk in ["a", "b"] {
            let history = try #require(shared.history(of: vault.disk(disk).id))
            for boundary in try history.flushBoundaries(FlushQuery()).boundaries.suffix(12) { #expect(try check(.sequence(boundary.sequence), "by number") == boundary.sequence) }
        }
        let between = try #require(writes.last { write in !flushes.contains { $0.sequence == write.sequence } && write.sequence < flushes.last!.sequence })
        #expect(throws: VaultError.self) { _ = try shared.resolve(.sequence(between.sequence), on: vault.disk("c")) }
    }

    @Test func aForgottenOrReleasedDiskDoesNotHoldTheOthersUp() throws {
        let group = try grouped(["a", "b", "c"])
        #expect(try group.upload().isEmpty)
        let all = try group.cut()
        #expect(try group.upload().isEmpty)
        let entry = try group.catalogue.disk(named: "c")
        try group.catalogue.remove(disk: "c")
        try group.write("a", 70)
        let two = try group.cut(["a", "b"])
        #expect(try group.upload().isEmpty)
        #expect(try group.listed("a")[two] == ["a", "b"])
        // On its own now, with what it had.
        #expect(try group.openVault().disk("c").group.description == entry.id)
        #expect(try group.listed("c").keys.contains(all))
        let forgotten = try group.openVault().forget("b")
        #expect(forgotten.others.map(\.name) == ["a"])
        #expect(try group.listed("a")[all] == ["a"])
        #expect(try group.listed("a")[two] == ["a"])
        try group.catalogue.remove(disk: "b")
        try group.write("a", 71)
        let one = try group.cut(["a"])
        #expect(try group.upload().isEmpty)
        #expect(try group.listed("a")[one] == ["a"])
        let check = try VaultCheck(vault: group.openVault(), readData: true).run()
        #expect(check.isClean, "\(check.findings)")
    }

    @Test func aGroupDoesNotSpanHosts() throws {
        let group = try grouped(["a", "b"])
        #expect(try group.upload(host: "one").isEmpty)
        // Another host with a copy of one disk of the group, which it has in a group of its own.
        try group.catalogue.remove(group: "g")
        let b = try group.catalogue.disk(named: "b")
        try group.catalogue.remove(disk: "b")
        #expect(try group.upload(host: "two").first?.failure.message.contains("cannot span two") == true)
        #expect(try group.openVault().catalog().document.groups?.first?.disks.count == 2)
        // Nor is a name taken that a group of another host has.
        let taken = try group.openVault().catalog().document
        #expect(throws: VaultError.self) { try taken.refuseTaken("g", for: nil, own: [try group.catalogue.disk(named: "a").id]) }
        #expect(throws: Never.self) { try taken.refuseTaken("g", for: nil, own: [try group.catalogue.disk(named: "a").id, b.id]) }
    }

    @Test func theOvertakenUploaderOfAGroupStops() throws {
        let group = try grouped(["a", "b"])
        let first = try UploadService(replicator: group.replicator(), log: ReplicatedDisk.quiet)
        #expect(try first.runOnce().isEmpty)
        try group.write("a", 80)
        try group.cut()
        // Of one run each: the second uploader claims the whole group.
        #expect(try group.upload(host: "two").isEmpty)
        let vault = try group.openVault()
        let head = try #require(try vault.heads(group: vault.disk("a").group).newest()?.document)
        #expect(head.writer.host == "two")
        #expect(head.disks.count == 2)
        #expect(throws: VaultError.self) { try vault.heads(group: head.group).update(epoch: head.writer.epoch - 1) { $0.pins = [] } }
        #expect(try group.mismatches().isEmpty)
    }
}
