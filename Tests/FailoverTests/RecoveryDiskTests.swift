// Disks made from recovery points: ready at once, written, merged, filled, and replicated on as a branch of the history they came from.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import Foundation
import ObjectStore
import RecoveryPoints
import Replication
import Site
import Testing
import Vault
import VaultFixtures
import VirtualDisk

@Suite struct RecoveryDiskTests {
    private func replicated(_ test: TestVault, seed: UInt64, sizeBytes: Int = (4 << 20) + 512, steps: Int = 10) throws -> ModelDisk {
        var limits = HistoryWriter.Limits()
        (limits.manifestsPerFull, limits.deltasPerRollup) = (5, 3)
        let disk = try ModelDisk(test.vault, sizeBytes: sizeBytes, seed: seed, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<steps { try disk.step(records: 8) }
        return disk
    }

    /// Random writes and zeros, also into the model.
    private func scribble(_ disk: VirtualDisk, _ model: inout [UInt8], _ count: Int, _ numbers: inout SeededNumbers) throws {
        for _ in 0..<count {
            let length = Int.random(in: 1...40_000, using: &numbers)
            let start = Int.random(in: 0..<model.count - length, using: &numbers)
            if Int.random(in: 0..<4, using: &numbers) == 0 {
                try disk.zero(at: UInt64(start), length: UInt64(length), mayFree: true, sequenceSlot: nil)
                model.replaceSubrange(start..<start + length, with: repeatElement(0, count: length))
            } else {
                let bytes = numbers.bytes(length)
                try disk.put(bytes, at: start)
                model.replaceSubrange(start..<start + length, with: bytes)
            }
        }
    }

    @Test(arguments: [false, true]) func aRecoveryDiskIsTheDiskAtThePoint(isFilled: Bool) throws {
        let test = try TestVault()
        let source = try replicated(test, seed: 1)
        let point = source.points[4].sequence
        let site = try RecoveredSite(test)
        let made = try #require(try site.create(["disk"], at: point).first)
        #expect(made.id == source.id.description && made.role == .recovery && made.state == .protected)
        var model = source.content(at: point)
        var numbers = SeededNumbers(seed: 2)
        for round in 0..<4 {
            let disk = try site.open("disk", fills: isFilled)
            #expect(try disk.bytes(0, model.count) == model, "round \(round)")
            try scribble(disk, &model, 40, &numbers)
            if round % 2 == 0 { try disk.mergeAll() }
            #expect(try disk.bytes(0, model.count) == model, "round \(round)")
            if round == 1 { try site.kill("disk") } else { try site.close("disk") }
        }
        let disk = try site.open("disk", fills: isFilled)
        site.opened["disk"]?.hydration?.join()
        try disk.mergeAll()
        #expect(try disk.bytes(0, model.count) == model)
        try site.close("disk")
        let folder = LogFolder(made.logFolder)
        #expect(folder.isBeingFilled == !isFilled)
        if isFilled { #expect(try [UInt8](Data(contentsOf: URL(filePath: made.imagePath))) == model, "the image is the disk, without Farshore") }
    }

    /// No history could go on from it, so a failover refuses it; a test, which is thrown away, runs it.
    @Test func aPointBelowTheWindowIsRunAsATest() throws {
        let test = try TestVault()
        let source = try replicated(test, seed: 3, steps: 2)
        for _ in 0..<12 {
            try source.step(records: 4)
            _ = try source.thin(Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 5), .init(periodSeconds: 3, spanSeconds: 900)]))
        }
        let vault = try test.reopened()
        let history = try #require(try DiskHistory.newest(vault, try vault.disk("disk")))
        let kept = try #require(try history.keptPoints().first).sequence
        #expect(kept < history.state.oldestSequence)
        let site = try RecoveredSite(test)
        var plan = site.plan
        plan.role = .test
        try site.create(["disk"], at: kept, plan)
        var model = source.content(at: kept)
        let disk = try site.open("disk")
        #expect(try disk.bytes(0, model.count) == model)
        var numbers = SeededNumbers(seed: 4)
        try scribble(disk, &model, 20, &numbers)
        try disk.mergeAll()
        #expect(try disk.bytes(0, model.count) == model)
        try site.close("disk")
    }

    @Test func theUploaderLeavesItAloneAndThenBranches() throws {
        let test = try TestVault()
        let source = try replicated(test, seed: 3)
        let point = source.points[5].sequence
        let site = try RecoveredSite(test)
        try site.create(["disk"], at: point)
        var model = source.content(at: point)
        var numbers = SeededNumbers(seed: 4)
        let disk = try site.open("disk", fills: true)
        try scribble(disk, &model, 30, &numbers)
        let before = try test.keys()
        #expect(try site.upload().isEmpty)
        #expect(try test.keys() == before, "nothing of a recovery disk goes to the vault")
        try site.catalogue.setRole(.source, ofDisks: ["disk"])
        let first = try VirtualDisk.cutPoint([disk], tag: "mine")
        let firstContent = model
        #expect(try site.upload().map { $0.failure.message } == [])
        try scribble(disk, &model, 10, &numbers)
        let second = try VirtualDisk.cutPoint([disk], tag: "")
        #expect(try site.upload().map { $0.failure.message } == [])
        // Chunks are what an initial replication would have sent.
        #expect(try test.keys().filter { $0.hasPrefix("chunks/") } == before.filter { $0.hasPrefix("chunks/") })
        #expect(try test.content("disk", at: first) == firstContent)
        #expect(try test.content("disk", at: second) == model)
        for old in source.points { #expect(try test.content("disk", at: old.sequence) == source.content(at: old.sequence), "#\(old.sequence) of the old history") }
        #expect(first > source.sequence)
        let vault = try test.reopened()
        let points = try #require(try DiskHistory.newest(vault, try vault.disk("disk"))).points()
        let branched = try #require(points.first { $0.tag == RecoveryDisks.tag })
        #expect(branched.sequence > source.sequence && branched.sequence < first)
        #expect(try test.content("disk", at: branched.sequence) == source.content(at: point))
        #expect(try VaultCheck(vault: vault, readData: true, threads: 2).run().findings.isEmpty)
    }

    @Test func aPointOfAHistoryThatWasLeftIsGoneOnFrom() throws {
        let test = try TestVault()
        let source = try replicated(test, seed: 5)
        // The first failover goes to an early point, so that the later ones lie in the history it left.
        let first = try RecoveredSite(test)
        try first.create(["disk"], at: source.points[3].sequence)
        var model = source.content(at: source.points[3].sequence)
        var numbers = SeededNumbers(seed: 6)
        try scribble(try first.open("disk"), &model, 20, &numbers)
        try first.catalogue.setRole(.source, ofDisks: ["disk"])
        let inFirst = try VirtualDisk.cutPoint([try #require(first.opened["disk"]).disk], tag: "")
        let firstModel = model
        #expect(try first.upload(host: "first").map { $0.failure.message } == [])
        for (number, place) in [source.points[7].sequence, source.sequence, inFirst].enumerated() {
            let site = try RecoveredSite(test)
            try site.create(["disk"], at: place)
            model = place == inFirst ? firstModel : source.content(at: place)
            let disk = try site.open("disk")
            #expect(try disk.bytes(0, model.count) == model)
            try scribble(disk, &model, 15, &numbers)
            try site.catalogue.setRole(.source, ofDisks: ["disk"])
            let cut = try VirtualDisk.cutPoint([disk], tag: "")
            #expect(try site.upload(host: "host \(number)").map { $0.failure.message } == [], "from #\(place)")
            #expect(try test.content("disk", at: cut) == model, "from #\(place)")
            #expect(try test.content("disk", at: inFirst) == firstModel)
            for old in source.points { #expect(try test.content("disk", at: old.sequence) == source.content(at: old.sequence), "#\(old.sequence) after a branch at #\(place)") }
            // Who was left does not go on.
            let failures = try first.upload(host: "first")
            #expect(failures.count == 1 && failures.first?.failure.outcome == .forGood, "\(failures)")
        }
        #expect(try VaultCheck(vault: try test.reopened(), readData: true, threads: 2).run().findings.isEmpty)
    }

    @Test func makingIsRepeatedAfterAKillAndRefusesWhatIsNotItsOwn() throws {
        let test = try TestVault()
        let source = try replicated(test, seed: 7, steps: 3)
        let site = try RecoveredSite(test)
        let made = try #require(try site.create(["disk"], at: source.sequence).first)
        let noted = FailoverRecord.Disk(name: made.name, id: made.id, lineage: "", sequence: source.sequence)
        #expect(try site.create(["disk"], at: source.sequence) == [made], "what is there is what was asked for")
        #expect(throws: SiteError.self, "at another point it is another disk") { try site.create(["disk"], at: source.points[0].sequence) }
        // As a kill leaves it before the registration.
        try site.catalogue.remove(disk: "disk")
        #expect(throws: SiteError.self, "what may have been served is not made anew") { try site.create(["disk"], at: source.sequence) }
        try Data("farshore recovery disk 1\nimage \(made.imagePath)\n".utf8).write(to: URL(filePath: made.logFolder + "/making"))
        for file in ["log.state", "presence", "base"] {
            try? FileManager.default.removeItem(atPath: made.logFolder + "/" + file)
            let again = try #require(try site.create(["disk"], at: source.sequence).first)
            #expect(again.imagePath == made.imagePath)
            let disk = try site.open("disk")
            #expect(try disk.bytes(0, source.content.count) == source.content)
            #expect(!FileManager.default.fileExists(atPath: made.logFolder + "/making"), "served: not to be made anew")
            try site.close("disk")
            try site.disks().remove([noted], in: site.plan.folder)
            #expect(!FileManager.default.fileExists(atPath: made.imagePath) && !FileManager.default.fileExists(atPath: made.logFolder))
            #expect(try site.catalogue.disks().isEmpty)
            try site.disks().remove([noted], in: site.plan.folder)
            try FileManager.default.createDirectory(atPath: made.logFolder, withIntermediateDirectories: true)
            try Data("farshore recovery disk 1\nimage \(made.imagePath)\n".utf8).write(to: URL(filePath: made.logFolder + "/making"))
            try Data([1, 2, 3]).write(to: URL(filePath: made.imagePath))
        }
        // Taken back before it was registered.
        try site.disks().remove([noted], in: site.plan.folder)
        #expect(!FileManager.default.fileExists(atPath: made.imagePath) && !FileManager.default.fileExists(atPath: made.logFolder))
    }

    /// Two vaults may have a disk of one name each; whoever takes one failover back does not remove the other's.
    @Test func aDiskOfAnotherVaultThatHasTheNameStays() throws {
        let test = try TestVault()
        let source = try replicated(test, seed: 12, steps: 2)
        let site = try RecoveredSite(test)
        let made = try #require(try site.create(["disk"], at: source.sequence).first)
        let other = FailoverRecord.Disk(name: made.name, id: String(repeating: "b", count: 32), lineage: "", sequence: source.sequence)
        // With the note of its making too, as a kill after the registration leaves it.
        for note in [nil, "farshore recovery disk 1\nimage \(made.imagePath)\n"] {
            if let note { try Data(note.utf8).write(to: URL(filePath: made.logFolder + "/making")) }
            try site.disks().remove([other], in: site.plan.folder)
            #expect(try site.catalogue.disks() == [made])
            #expect(FileManager.default.fileExists(atPath: made.imagePath) && FileManager.default.fileExists(atPath: made.logFolder + "/log.state"))
        }
        #expect(try site.open("disk").bytes(0, source.content.count) == source.content)
    }

    @Test func nobodyReadsAnImageThatIsNotWhole() throws {
        let test = try TestVault()
        let source = try replicated(test, seed: 8, steps: 2)
        let site = try RecoveredSite(test)
        let made = try #require(try site.create(["disk"], at: source.sequence).first)
        #expect(throws: SiteError.self) { try made.openImageForReading() }
        let lock = try ImageLock.take(made.imagePath, for: .exclusive)
        #expect(throws: SiteError.self) { try made.openImage(locked: lock) }
    }

    @Test func disksOfAMachineAndAGroupKeepWhatTheVaultCallsThem() throws {
        let test = try TestVault()
        let names = ["shop", "data", "mail"]
        let disks = try names.enumerated().map { number, name in
            let disk = try ModelDisk(test.vault, name: name, sizeBytes: 1 << 20, seed: UInt64(number) + 20)
            try disk.replicateInitially()
            return disk
        }
        // The vault's own words: two disks of one machine, and another one, in one group.
        let group = VaultID.random()
        let states = try disks.map { try #require(try test.vault.heads(group: $0.id).newest()?.document.state(of: $0.id)) }
        for (disk, machine) in zip(disks, ["shop", "shop", "mail"]) { _ = try test.vault.place(disk.id, in: group, named: "all", machine: machine) }
        let epoch = try test.vault.heads(group: group).claim(host: "test").document.writer.epoch
        try test.vault.heads(group: group).update(epoch: epoch) { head in for state in states { head.set(state) } }
        let site = try RecoveredSite(test)
        try site.create(names, at: disks[0].sequence)
        let known = try site.catalogue.group(named: "all")
        #expect(known.id == group.description && known.machines.map(\.name) == ["mail", "shop"])
        #expect(known.machines.map { $0.disks.map(\.name) } == [["mail"], ["data", "shop"]])
        // One number for the first point of all of them.
        let cuts = try names.map { try LogReader(LogFolder(site.catalogue.disk(named: $0).logFolder)).points().map(\.sequence) }
        #expect(Set(cuts.map { $0 }).count == 1 && cuts[0].count == 1)
        for (disk, name) in zip(disks, names) { #expect(try site.open(name).bytes(0, 1 << 20) == disk.content) }
    }

    @Test func aDiskThatGrewIsMadeWithTheSizeOfThePointAndGrowsAgain() throws {
        let test = try TestVault()
        let source = try replicated(test, seed: 9, sizeBytes: 2 << 20, steps: 3)
        let site = try RecoveredSite(test)
        let made = try #require(try site.create(["disk"], at: source.sequence).first)
        var model = source.content
        let disk = try site.open("disk")
        try disk.beginGrowth(to: 4 << 20, format: .raw)
        try site.close("disk")
        let folder = LogFolder(made.logFolder)
        do {
            let lock = try OwnerLock.acquire(folder)
            _ = try VirtualDisk.completeGrowth(of: ImageLock.take(made.imagePath, for: .exclusive), format: .raw, folder: folder, lock: lock)
        }
        model += [UInt8](repeating: 0, count: 2 << 20)
        let grown = try site.open("disk", fills: true)
        #expect(grown.sizeBytes == 4 << 20)
        #expect(try grown.bytes(0, 4 << 20) == model)
        var numbers = SeededNumbers(seed: 10)
        try scribble(grown, &model, 30, &numbers)
        try grown.mergeAll()
        site.opened["disk"]?.hydration?.join()
        #expect(try grown.bytes(0, 4 << 20) == model)
        try site.catalogue.setRole(.source, ofDisks: ["disk"])
        let cut = try VirtualDisk.cutPoint([grown], tag: "")
        #expect(try site.upload().map { $0.failure.message } == [])
        #expect(try test.content("disk", at: cut) == model)
        #expect(try test.content("disk", at: source.sequence) == source.content)
    }
}
