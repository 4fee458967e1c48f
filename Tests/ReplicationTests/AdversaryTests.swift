// What an adversary tries with vaults, disks and targets around an uploader: the replica must never lie.

import BlockIO
import ChangeLog
import Foundation
import ObjectStore
import Replication
import Site
import Synchronization
import Testing
import Vault
import VirtualDisk

@Suite struct AdversaryTests {
    /// In the catalogue of `old`, `new` takes the place and name of `old`, protected to `vault`.
    private func replace(_ old: ReplicatedDisk, by new: ReplicatedDisk, in vault: Vault) throws {
        let catalogue = try Catalogue(site: old.site)
        try catalogue.remove(disk: ReplicatedDisk.name)
        try catalogue.add(new.entry(vault: vault))
    }

    /// Replicates whatever disk the catalogue of `site` names, from one of `disks`, to the vault in `store`.
    private func replicator(_ site: SiteDirectory, _ disks: [ReplicatedDisk], _ store: WatchedStore, stop: StopFlag = StopFlag()) throws -> Replicator {
        try Replicator(
            catalogue: Catalogue(site: site), host: "test", stop: stop,
            openVault: { [key = disks[0].key] _ in try Vault.open(store: store, key: key, memory: HeadMemory(folder: nil)) },
            owner: { entry in
                let disk = try #require(disks.first { $0.id.description == entry.id })
                return TestOwner { disk.disk }
            }, progress: { _, _, _ in })
    }

    private func content(_ disk: ReplicatedDisk, in vault: Vault) throws -> [UInt8]? {
        let entry = try vault.disk(disk.id.description)
        return try DiskHistory.newest(vault, entry).map { try vaultContent($0, at: $0.newestSequence) }
    }

    @Test func aDiskProtectedAnewUnderItsNameIsAnotherDisk() throws {
        let first = try ReplicatedDisk(content: sampleContent(1))
        let second = try ReplicatedDisk(content: sampleContent(2))
        let vault = try first.openVault()
        _ = try vault.register(disk: try #require(VaultID(second.id.description)), name: "second", sizeBytes: UInt64(second.sizeBytes))
        let stop = StopFlag()
        let service = try UploadService(replicator: replicator(first.site, [first, second], first.store, stop: stop), log: ReplicatedDisk.quiet)
        let thread = try OwnThread(name: "service") { try? service.run() }
        defer {
            stop.stop()
            thread.join()
        }
        let deadline = Date.now.addingTimeInterval(20)
        while try first.proven.provenSequence == nil, Date.now < deadline { Thread.sleep(forTimeInterval: 0.05) }
        try replace(first, by: second, in: vault)
        while try first.proven.provenSequence == nil, Date.now < deadline { Thread.sleep(forTimeInterval: 0.05) }
        #expect(try content(second, in: vault) == second.model)
        #expect(try content(first, in: vault) == first.model)
    }

    @Test func aVaultMadeAgainAtTheSameURLIsAnotherVault() throws {
        let first = try ReplicatedDisk(content: sampleContent(1))
        let second = try ReplicatedDisk(content: sampleContent(1))
        let service = try UploadService(replicator: replicator(first.site, [first, second], first.store), log: ReplicatedDisk.quiet)
        #expect(try service.runOnce().isEmpty)
        try first.store.delete(try first.store.listAll(prefix: "").map(\.key))
        let again = try Vault.create(store: first.store, protection: first.key, memory: HeadMemory(folder: nil)).vault
        _ = try again.register(disk: try #require(VaultID(second.id.description)), name: "second", sizeBytes: UInt64(second.sizeBytes))
        try replace(first, by: second, in: again)
        #expect(try service.runOnce().isEmpty)
        #expect(try content(second, in: again) == second.model)
    }

    @Test(arguments: [false, true]) func chunksThatWereForgottenAreSentAgain(_ isServiceOld: Bool) throws {
        let first = try ReplicatedDisk(content: sampleContent(1))
        let second = try ReplicatedDisk(content: sampleContent(1))
        var service = try UploadService(replicator: replicator(first.site, [first, second], first.store), log: ReplicatedDisk.quiet)
        #expect(try service.runOnce().isEmpty)
        let vault = try first.openVault()
        #expect(try vault.forget(ReplicatedDisk.name).isContentDeleted)
        _ = try vault.register(disk: try #require(VaultID(second.id.description)), name: "second", sizeBytes: UInt64(second.sizeBytes))
        try replace(first, by: second, in: vault)
        if !isServiceOld {
            service = try UploadService(replicator: replicator(first.site, [first, second], first.store), log: ReplicatedDisk.quiet)
        }
        #expect(try service.runOnce().isEmpty)
        #expect(try content(second, in: vault) == second.model)
    }

    /// Another file under the image's name is read as calmly as the image; it is of the same size, and nobody changes it.
    @Test(arguments: [false, true]) func anImageThatIsReplacedIsNotReplicated(_ isFrozenBefore: Bool) throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        let (image, other) = (disk.folder + "/image", disk.folder + "/other")
        try Data([UInt8](repeating: 9, count: disk.sizeBytes)).write(to: URL(fileURLWithPath: other))
        let failure: AttemptFailure?
        if isFrozenBefore {
            failure = try disk.upload(owner: Replacing(owner: TestOwner { disk.disk }) { rename(other, image) })
        } else {
            #expect(rename(other, image) == 0)
            failure = try disk.upload()
        }
        #expect(failure?.message.contains("replaced") == true, "\(String(describing: failure))")
        #expect(try disk.history() == nil)
    }

    /// After the first freeze the image's name is given to another file.
    private struct Replacing: DiskOwner {
        let owner: TestOwner
        let replace: @Sendable () -> Int32

        func makeDurable() throws -> UInt64 { try owner.makeDurable() }
        func cut() throws { try owner.cut() }
        func unfreeze() throws { try owner.unfreeze() }
        func freeze() throws -> UInt64 {
            let sequence = try owner.freeze()
            _ = replace()
            return sequence
        }
    }

    @Test func aDiskForgottenByItsVaultIsAnAlarm() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        #expect(try disk.upload() == nil)
        _ = try disk.openVault().forget(ReplicatedDisk.name)
        let failure = try #require(try disk.upload())
        #expect(failure.outcome == .forGood)
        #expect(try disk.proven.health == .critical)
        #expect(try LogFolder(disk.folder + "/log").readFreeze() == nil)
    }

    /// The manifest of the initial state arrived, the head that names it did not.
    @Test func anInitialStateIsPublishedByALaterAttempt() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        disk.store.failPuts { key, moment in key.hasPrefix("heads/") && moment == .before ? unreachable : nil }
        #expect(try disk.upload()?.outcome == .mayPass)
        Thread.sleep(forTimeInterval: 0.01)
        disk.store.failPuts(nil)
        #expect(try disk.upload()?.message == nil)
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
    }

    @Test(arguments: ["chunks/", "maps/", "/manifests/", "/segments/", "heads/"], [false, true])
    func aTargetThatDidNotKeepWhatItAcknowledgedIsTriedAgain(_ part: String, _ isDropped: Bool) throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        if part == "/segments/" {
            #expect(try disk.upload() == nil)
            try disk.write([1, 2, 3], at: 4_000)
            try disk.cut()
        }
        let isMeant: @Sendable (String) -> Bool = { $0.contains(part) }
        if isDropped { disk.store.dropPuts(isMeant) } else { disk.store.changePuts(isMeant) }
        let failure = try #require(try disk.upload())
        #expect(failure.outcome == .mayPass, "\(failure)")
        #expect(try disk.proven.health == .critical)
        disk.store.dropPuts { _ in false }
        disk.store.changePuts { _ in false }
        #expect(try disk.upload()?.message == nil)
        #expect(try disk.proven.health == .normal)
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
    }

    @Test func aLogThatLostItsDurableEndIsNotReplicated() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        #expect(try disk.upload() == nil)
        try disk.write([1, 2, 3], at: 4_000)
        for name in try Directory.list(disk.folder + "/log") where name.hasPrefix("segment-") { unlink(disk.folder + "/log/" + name) }
        #expect(try disk.upload() != nil)
        #expect(try disk.proven.health != .normal)
    }

    @Test func resumeTriesAgainWhatWasStoppedForGood() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        let isKeyRight = Mutex(false)
        let stop = StopFlag()
        let replicator = try Replicator(
            catalogue: Catalogue(site: disk.site), host: "test", stop: stop,
            openVault: { [store = disk.store, key = disk.key] _ in
                let wrong = KeySource.keyFile([UInt8](repeating: 1, count: 32))
                return try Vault.open(store: store, key: isKeyRight.withLock { $0 } ? key : wrong, memory: HeadMemory(folder: nil))
            }, owner: { _ in TestOwner { disk.disk } }, progress: { _, _, _ in })
        let service = UploadService(replicator: replicator, log: ReplicatedDisk.quiet)
        let thread = try OwnThread(name: "service") { try? service.run() }
        defer {
            stop.stop()
            thread.join()
        }
        let deadline = Date.now.addingTimeInterval(20)
        while try disk.proven.health != .critical, Date.now < deadline { Thread.sleep(forTimeInterval: 0.05) }
        isKeyRight.withLock { $0 = true }
        try Catalogue(site: disk.site).requestAttempt(ofDisk: ReplicatedDisk.name)
        while try disk.proven.health != .normal, Date.now < deadline { Thread.sleep(forTimeInterval: 0.05) }
        #expect(try disk.history() != nil)
    }

    @Test func aVaultThatIsNotThereIsTriedAgain() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        let hidden = try disk.store.get("farshore.json", range: nil)
        try disk.store.delete(["farshore.json"])
        #expect(try disk.upload()?.outcome == .mayPass)
        #expect(try disk.proven.health == .critical)
        try disk.store.put("farshore.json", hidden, ifAbsent: true)
        #expect(try disk.upload()?.message == nil)
    }

    @Test func twoHostsWithCopiesOfADiskNeverMix() throws {
        let first = try ReplicatedDisk(content: sampleContent())
        var random = SeededRandom(3)
        try first.scribble(5, using: &random)
        #expect(try first.upload() == nil)
        let second = try ReplicatedDisk(copyOf: first)
        try second.scribble(5, using: &random)
        #expect(try second.upload()?.message == nil)
        try first.reopen()
        try first.scribble(60, using: &random)
        let failure = try #require(try first.upload())
        #expect(failure.outcome == .forGood)
        #expect(try first.proven.health == .critical)
        // The copy goes on, and its points are its own.
        try second.scribble(5, using: &random)
        #expect(try second.upload()?.message == nil)
        let history = try #require(try second.history())
        for (sequence, content) in second.points where sequence >= history.state.oldestSequence {
            #expect(try vaultContent(history, at: sequence) == content, "point #\(sequence)")
        }
    }

    /// A crash between a head and its mark is no other host's doing.
    @Test func aMarkThatACrashCameBeforeIsSet() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        var random = SeededRandom(4)
        try disk.scribble(5, using: &random)
        #expect(try disk.upload() == nil)
        let folder = LogFolder(disk.folder + "/log")
        let target = try disk.openVault().id.description
        let before = try #require(try folder.readMark(target: target))
        try disk.scribble(20, using: &random)
        #expect(try disk.upload() == nil)
        let after = try folder.readMark(target: target)
        try folder.storeMark(before, target: target)
        #expect(try disk.upload()?.message == nil)
        #expect(try folder.readMark(target: target) == after)
        unlink(folder.markFile(target: target))
        #expect(try disk.upload()?.message == nil)
        #expect(try folder.readMark(target: target) == after)
    }

    /// The log's owner hears of objects that are there before any head lists them, and does not take them for replicated.
    @Test func whatWasSentIsToldBeforeItIsPublished() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        var random = SeededRandom(9)
        #expect(try disk.upload() == nil)
        let folder = LogFolder(disk.folder + "/log")
        let target = try disk.openVault().id.description
        let before = try #require(try folder.readMark(target: target))
        try disk.scribble(20, using: &random)
        let last = try disk.disk.makeDurable()
        disk.store.failPuts { key, _ in key.hasPrefix("heads/") ? unreachable : nil }
        #expect(try disk.upload() != nil)
        #expect(try folder.readMark(target: target) == before)
        let sent = try String(contentsOfFile: folder.sendingFile(target: target), encoding: .utf8)
        #expect(sent.contains("sequence \(last)\n") && last > before.sequence)
    }
}
