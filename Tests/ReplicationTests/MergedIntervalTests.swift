// A target that is away while a guest overwrites a small part of its disk many times more than the log's budget: what the vault has
// afterwards, and what it does not say it has.

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

@Suite struct MergedIntervalTests {
    private static let budget: UInt64 = 16 << 20

    private func replicatedDisk() throws -> ReplicatedDisk {
        let disk = try ReplicatedDisk(content: sampleContent(), logBudgetBytes: Self.budget, catchingUpSeconds: 1)
        #expect(try disk.upload() == nil)
        return disk
    }

    /// Writes so many bytes into a region of 1 MiB, with points and flushes in between.
    private func overwrite(_ disk: ReplicatedDisk, bytes: Int, using random: inout SeededRandom) throws {
        var left = bytes
        while left > 0 {
            let length = Int.random(in: 1...150_000, using: &random)
            let offset = (2 << 20) + Int.random(in: 0..<(1 << 20) - length, using: &random)
            if Int.random(in: 0..<12, using: &random) == 0 {
                try disk.zero(at: offset, length: length)
            } else {
                try disk.write((0..<length).map { UInt8(truncatingIfNeeded: $0 / 4096 &* 7 &+ left) }, at: offset)
            }
            left -= length
            if Int.random(in: 0..<60, using: &random) == 0 { try disk.cut() }
            if Int.random(in: 0..<20, using: &random) == 0 { try disk.disk.flush() }
            let status = disk.disk.status.log
            #expect(status.fileBytes <= status.budgetBytes)
        }
    }

    /// Every listed point and flush boundary is the disk at that moment; what is not listed is refused.
    private func expectWhatIsListed(_ disk: ReplicatedDisk, through end: UInt64) throws -> (listed: Int, lost: Int) {
        let history = try #require(try disk.history())
        let listed = Set(try history.points().map(\.sequence))
        var lost = 0
        for (sequence, content) in disk.points where sequence >= history.state.oldestSequence && sequence <= end {
            if listed.contains(sequence) {
                #expect(try vaultContent(history, at: sequence) == content, "point #\(sequence)")
            } else {
                lost += 1
                #expect(throws: VaultError.self, "point #\(sequence)") { try history.plan(at: sequence) }
            }
        }
        for boundary in try history.flushBoundaries(FlushQuery()).boundaries { #expect(try history.opened(at: boundary.sequence) == boundary.sequence) }
        return (listed.count, lost)
    }

    // Promise S6: A point or flush boundary inside of what was merged is listed nowhere and refused, and every one that is listed reads
    // bit-exact.
    @Test(.timeLimit(.minutes(1))) func anOutageCostsGranularityAndNoResynchronisation() throws {
        var random = SeededRandom(1)
        let disk = try replicatedDisk()
        try overwrite(disk, bytes: 1 << 20, using: &random)
        #expect(try disk.upload() == nil)
        let before = try #require(try disk.proven.provenSequence)
        // Some of it gets there, and no head: under names that the merged records would have as well.
        let start = disk.store.requests.puts.count
        try overwrite(disk, bytes: 3 << 20, using: &random)
        disk.store.failPuts { [store = disk.store] _, moment in moment == .before && store.requests.puts.count >= start + 2 ? unreachable : nil }
        #expect(try disk.upload() != nil)
        disk.store.failPuts { _, _ in unreachable }
        try overwrite(disk, bytes: 4 * Int(Self.budget), using: &random)
        #expect(try disk.upload() != nil)
        let status = disk.disk.status.log
        #expect(status.refusedAppends == 0 && !status.merged.isEmpty && status.mergedPoints > 0, "\(status)")
        disk.store.failPuts(nil)
        try disk.cut()
        #expect(try disk.upload()?.message == nil)
        let catalogue = try Catalogue(site: disk.site)
        #expect(try catalogue.resynchronisation(ofDisk: ReplicatedDisk.name) == nil && catalogue.jobs().allSatisfy { $0.kind != .resynchronisation })
        #expect(try catalogue.events(limit: 50).contains { $0.text.contains("the end of what the log had merged") })
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
        let (listed, lost) = try expectWhatIsListed(disk, through: history.newestSequence)
        #expect(listed > 1 && lost > 0, "\(listed) listed, \(lost) lost")
        #expect(try disk.proven.provenSequence ?? 0 > before)
        // Manifests that cover others say the same.
        for _ in 0..<20 {
            try disk.scribble(3, using: &random)
            #expect(try disk.upload() == nil)
        }
        // So does the full one with which a new history begins.
        try disk.reopen(inAnotherBoot: true)
        try disk.cut()
        #expect(try disk.upload() == nil)
        let later = try #require(try disk.history())
        #expect(later.state.lineages.count == 1 && later.checkpointSequence > history.newestSequence)
        #expect(try expectWhatIsListed(disk, through: later.newestSequence).lost == lost)
        #expect(try VaultCheck(vault: disk.openVault(), readData: true).run().isClean)
        #expect(try disk.proven.provenSequence == disk.points.keys.max())
    }

    /// An attempt before the merge may have put other objects under the names that the merged records get, and no head.
    @Test func objectsFromBeforeAreNotInTheWay() throws {
        var random = SeededRandom(7)
        let disk = try replicatedDisk()
        disk.store.failPuts { _, _ in unreachable }
        try overwrite(disk, bytes: 3 * Int(Self.budget), using: &random)
        try disk.cut()
        // Which names these are, an attempt tells that gets nothing through.
        let named = Mutex<Set<String>>([])
        disk.store.failPuts { key, _ in
            if key.contains("/segments/") { named.withLock { _ = $0.insert(key) } }
            return unreachable
        }
        #expect(try disk.upload() != nil)
        disk.store.failPuts(nil)
        let history = try #require(try disk.history())
        for key in named.withLock({ $0 }) {
            let bounds = try #require(key.split(separator: "/").last).split(separator: "-").compactMap { UInt64($0) }
            let writer = SegmentWriter(vault: history.vault, disk: history.state.disk, lineage: try #require(history.state.current).id)
            for sequence in Set(bounds).sorted() {
                let record = SegmentRecord(
                    kind: .zero, sequence: sequence, diskOffset: 0, length: 4096, wallNanoseconds: 1, flushedThrough: 0, isAppConsistent: false)
                try writer.append(record, payload: UnsafeRawBufferPointer(start: nil, count: 0))
            }
            _ = try writer.finish()
        }
        #expect(!named.withLock { $0.isEmpty })
        #expect(try disk.upload()?.message == nil)
        let newest = try #require(try disk.history())
        #expect(try vaultContent(newest, at: newest.newestSequence) == disk.model)
        _ = try expectWhatIsListed(disk, through: newest.newestSequence)
        #expect(try VaultCheck(vault: disk.openVault(), readData: true).run().isClean)
    }

    /// The head arrived, its mark could not be stored, and then the log merged what that head ends with, for a second target lacks it too.
    @Test func aMergeOverAHeadWithoutItsMarkIsNoOtherHostsDoing() throws {
        var random = SeededRandom(5)
        let disk = try replicatedDisk()
        let folder = LogFolder(disk.folder + "/log")
        let target = try disk.openVault().id.description
        let mark = folder.markFile(target: target)
        let before = try #require(try folder.readMark(target: target))
        try folder.storeMark(before, target: "second")
        try disk.disk.log.setTargets([target, "second"])
        try overwrite(disk, bytes: 3 << 20, using: &random)
        try disk.cut()
        disk.store.failPuts { key, _ in
            if key.hasPrefix("heads/"), rename(mark, mark + "-aside") == 0 { mkdir(mark, 0o700) }
            return nil
        }
        #expect(try disk.upload()?.message.contains("rename") == true)
        let newest = try #require(try disk.history()).newestSequence
        #expect(newest > before.sequence && rmdir(mark) == 0 && rename(mark + "-aside", mark) == 0)
        disk.store.failPuts { _, _ in unreachable }
        try overwrite(disk, bytes: 3 * Int(Self.budget), using: &random)
        #expect(disk.disk.status.log.merged.contains { $0.after < newest && newest < $0.through }, "\(disk.disk.status.log)")
        disk.store.failPuts(nil)
        #expect(try disk.upload()?.message == nil)
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
        _ = try expectWhatIsListed(disk, through: history.newestSequence)
    }

    /// One disk of a group merges, the other has every record.
    @Test func aPointThatOneDiskLostIsOneOfNone() throws {
        let group = try ReplicatedGroup(["a", "b"], logBudgetBytes: Self.budget, catchingUpSeconds: 1)
        try group.catalogue.addGroup(named: "g", machines: group.names)
        #expect(try group.upload().isEmpty)
        for round in 0..<12_000 {
            try group.write("a", UInt8(truncatingIfNeeded: round), at: round % 100 * 4096)
            if round % 500 == 0 {
                try group.write("b", UInt8(truncatingIfNeeded: round / 500), at: round / 500 * 4096)
                try group.cut()
            }
        }
        let newest = try group.cut()
        #expect(try #require(group.disks["a"]).status.log.mergedPoints > 0 && #require(group.disks["b"]).status.log.merged.isEmpty)
        #expect(try group.upload().isEmpty)
        let (a, b) = (try group.listed("a"), try group.listed("b"))
        let shared = a.filter { group.points[$0.key] != nil }
        #expect(shared == b.filter { group.points[$0.key] != nil } && shared[newest] == group.names && shared.count < group.points.count)
        #expect(try group.mismatches().isEmpty)
    }
}
