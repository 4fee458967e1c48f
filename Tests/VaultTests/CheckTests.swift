// What `vault check` is for: every damaged, missing or exchanged object of a vault is named, with the points and bytes
// it takes. One bit is flipped in every object of a small vault, one after the other.

import Foundation
import ObjectStore
import Synchronization
import Testing
import Vault
import VaultFixtures

@Suite struct CheckTests {
    /// Fulls, roll-ups, deltas, segments in maps and over them, two disks.
    private func smallVault(encrypted: Bool) throws -> (TestVault, ModelDisk) {
        let test = try TestVault(encrypted: encrypted)
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 6
        limits.deltasPerRollup = 3
        let disk = try ModelDisk(test.vault, name: "one", sizeBytes: 6 << 20, seed: 77, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<10 { try disk.step(records: 4) }
        let second = try ModelDisk(test.vault, name: "two", sizeBytes: 2 << 20, seed: 78)
        try second.replicateInitially()
        return (test, disk)
    }

    private func check(_ test: TestVault, readData: Bool) throws -> CheckReport {
        try VaultCheck(vault: test.reopened(), readData: readData, threads: 2).run()
    }

    @Test(arguments: [true, false]) func aWholeVaultIsClean(encrypted: Bool) throws {
        let (test, disk) = try smallVault(encrypted: encrypted)
        for readData in [false, true] {
            let report = try check(test, readData: readData)
            #expect(report.findings == [])
            #expect(report.disks == 2 && report.points == UInt64(disk.points.count + 1))
        }
        // Every object there is was looked at.
        #expect(try check(test, readData: true).objects == UInt64(test.keys().count))
    }

    @Test func theCheckTellsHowFarItIs() throws {
        let (test, _) = try smallVault(encrypted: true)
        let told = Mutex<[String: (most: Int, total: Int, times: Int)]>([:])
        _ = try VaultCheck(vault: test.reopened(), readData: false) { disk, done, total in
            told.withLock { told in
                let before = told[disk] ?? (0, total, 0)
                told[disk] = (max(before.most, done), total, before.times + 1)
            }
        }.run()
        let disks = told.withLock { $0 }
        #expect(disks.keys.sorted() == ["one", "two"])
        for (_, disk) in disks { #expect(disk.total > 1 && disk.most == disk.total && disk.times == disk.total) }
    }

    /// Promise F4: A damaged, missing, swapped or truncated vault object is refused by name.
    @Test(arguments: [true, false]) func oneFlippedBitInAnyObjectIsNamed(encrypted: Bool) throws {
        let (test, _) = try smallVault(encrypted: encrypted)
        var numbers = SeededNumbers(seed: 9)
        for key in try test.keys() where !key.hasPrefix("farshore.json") && !key.hasPrefix("keys/") {
            let bits = try Data(contentsOf: URL(filePath: test.file(key))).count * 8
            let bit = Int.random(in: 0..<bits, using: &numbers)
            try test.flipBit(key, at: bit)
            let report = try check(test, readData: true)
            #expect(report.findings.map(\.object).contains(key), "bit \(bit) of \(key): \(report.findings.map(\.object))")
            if key.hasPrefix("chunks/") || key.contains("/segments/") {
                let finding = try #require(report.findings.first { $0.object == key })
                #expect(finding.disk != nil && !finding.ranges.isEmpty && finding.firstSequence != nil, "\(key)")
            }
            try test.flipBit(key, at: bit)
        }
        #expect(try check(test, readData: true).isClean)
    }

    @Test func aMissingObjectIsNamedAlsoWithoutReadingData() throws {
        let (test, _) = try smallVault(encrypted: true)
        for key in try test.keys() where key.hasPrefix("chunks/") || key.hasPrefix("maps/") || key.contains("/segments/") {
            let file = test.file(key)
            let kept = try Data(contentsOf: URL(filePath: file))
            try FileManager.default.removeItem(atPath: file)
            #expect(try check(test, readData: false).findings.map(\.object).contains(key), "\(key)")
            try kept.write(to: URL(filePath: file))
        }
    }

    @Test(arguments: [true, false]) func exchangedObjectsAreNamed(encrypted: Bool) throws {
        let (test, _) = try smallVault(encrypted: encrypted)
        let keys = try test.keys()
        for part in ["chunks/", "maps/", "/segments/", "/manifests/", "heads/"] {
            let pair = keys.filter { $0.contains(part) }.prefix(2)
            let (first, second) = (test.file(pair[pair.startIndex]), test.file(pair[pair.startIndex + 1]))
            func exchange() throws {
                try FileManager.default.moveItem(atPath: first, toPath: first + "-x")
                try FileManager.default.moveItem(atPath: second, toPath: first)
                try FileManager.default.moveItem(atPath: first + "-x", toPath: second)
            }
            try exchange()
            let found = try Set(check(test, readData: true).findings.map(\.object))
            #expect(found.contains(pair.first!) || found.contains(pair.last!), "\(part): \(found)")
            try exchange()
        }
    }

    @Test func theBytesAndPointsOfADamagedSegmentAreExact() throws {
        let test = try TestVault()
        let disk = try ModelDisk(test.vault, sizeBytes: 4 << 20, seed: 12)
        try disk.replicateInitially()
        for _ in 0..<3 { try disk.step(records: 3) }
        let segments = try test.keys().filter { $0.contains("/segments/") }
        let middle = segments[1]
        try test.flipBit(middle, at: Data(contentsOf: URL(filePath: test.file(middle))).count * 8 - 1)
        let finding = try #require(try check(test, readData: true).findings.first)
        #expect(finding.object == middle)
        // No full manifest came after it: every later point is laid over it.
        #expect(finding.points == Array(disk.points.suffix(2)))
    }

    /// All that is named to read a state, the maps' pages left out.
    private func needed(_ history: DiskHistory, at sequence: UInt64) throws -> Set<String> {
        let plan = try history.plan(at: sequence)
        func key(_ id: SegmentID) -> String { ObjectPlace.segment(disk: history.state.disk, lineage: id.lineage, first: id.first, last: id.last).key }
        var keys = Set(plan.segments.map { key(SegmentID(lineage: $0.lineage ?? .random(), first: $0.first, last: $0.last)) })
        let maps = MapReader(vault: history.vault)
        var block: UInt64 = 0
        while block < (plan.sizeBytes + 4095) / 4096 {
            let extent = try maps.extent(plan.root, at: block, before: (plan.sizeBytes + 4095) / 4096)
            switch extent.source {
            case .chunk(let chunk)?: keys.insert(ObjectPlace.chunk(chunk).key)
            case .segment(let id)?: keys.insert(key(id))
            case nil: break
            }
            block = extent.startBlock + extent.blockCount
        }
        return keys
    }

    /// A missing chunk or segment takes exactly the points whose states are made with it; a missing manifest those that do not open without it,
    /// of which it may be the only one to know.
    @Test(arguments: [77, 78, 79] as [UInt64]) func affectedPointsAreCountedExactly(seed: UInt64) throws {
        let test = try TestVault()
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 6
        limits.deltasPerRollup = 3
        let disk = try ModelDisk(test.vault, sizeBytes: 3 << 20, seed: seed, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<15 { try disk.step(records: 4) }
        func history() throws -> DiskHistory {
            let vault = try test.reopened()
            return try #require(try DiskHistory.newest(vault, try vault.disk(disk.name)))
        }
        let whole = try history()
        let points = try whole.points()
        let needs = try points.map { try needed(whole, at: $0.sequence) }
        var hidden = 0
        for key in try test.keys() where key.hasPrefix("chunks/") || key.contains("/segments/") || key.contains("/manifests/") {
            let file = test.file(key)
            let kept = try Data(contentsOf: URL(filePath: file))
            try FileManager.default.removeItem(atPath: file)
            let finding = try check(test, readData: false).findings.first { $0.object == key }
            let found = finding?.points ?? []
            if key.contains("/manifests/") {
                let lost = points.filter { point in (try? history().plan(at: point.sequence)) == nil }
                #expect(found.allSatisfy { lost.contains($0) }, "\(key): \(found.map(\.sequence)), but \(lost.map(\.sequence)) do not open")
                #expect(lost.allSatisfy { $0.sequence >= finding?.firstSequence ?? .max && $0.sequence <= finding?.lastSequence ?? 0 }, "\(key): \(lost.map(\.sequence))")
                #expect(lost.isEmpty ? finding == nil : finding?.hidesPoints == true, "\(key): \(lost.map(\.sequence))")
                if found.count < lost.count { hidden += 1 }
            } else {
                #expect(found == zip(points, needs).filter { $0.1.contains(key) }.map(\.0) && finding?.hidesPoints != true, "\(key): \(found.map(\.sequence))")
            }
            try kept.write(to: URL(filePath: file))
        }
        #expect(hidden > 0)
    }

    @Test func aForgottenDiskLeavesNothingAndOthersStay() throws {
        let (test, disk) = try smallVault(encrypted: true)
        let forgotten = try test.vault.forget("one")
        #expect(!forgotten.isContentDeleted)
        #expect(try test.keys().allSatisfy { !$0.contains(disk.id.description) })
        #expect(try check(test, readData: true).isClean)
        #expect(try test.vault.forget("two").isContentDeleted)
        #expect(try test.keys().allSatisfy { $0.hasPrefix("catalog/") || $0.hasPrefix("keys/") || $0 == "farshore.json" })
        // The name is free again, under a new id.
        let again = try ModelDisk(test.vault, name: "one", sizeBytes: 1 << 20, seed: 1)
        try again.replicateInitially()
        #expect(try check(test, readData: true).isClean)
    }

    /// A disk that is registered while the last one is being forgotten keeps what it has sent.
    @Test func forgettingLeavesContentSentMeanwhile() throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        try ModelDisk(test.vault, name: "one", sizeBytes: 2 << 20, seed: 1).replicateInitially()
        let late = [UInt8](repeating: 5, count: 4096)
        let chunk = late.withUnsafeBytes { test.vault.chunkRef(of: $0, epoch: 2) }
        let vault = test.vault
        meddled.meddle {
            $0.beforeList = { prefix in
                guard prefix == "chunks/" else { return }
                _ = try? vault.register(disk: .random(), name: "two", sizeBytes: 1 << 20)
                _ = try? late.withUnsafeBytes { try vault.putChunk($0, as: chunk) }
            }
        }
        _ = try vault.forget("one")
        #expect(try vault.readChunk(chunk) == late)
        #expect(try test.keys().filter { $0.hasPrefix("chunks/") }.count == 1)
    }
}
