// One disk, two vaults: what holds up one must not hold up the other, and each gets everything.

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

private final class TwoTargets: @unchecked Sendable {
    // Sendable: the disk is used by the test's thread, and as its owner says; all else is constant.
    let disk: ReplicatedDisk
    let second: WatchedStore
    let secondID: String
    /// Opening the second vault waits while this is set.
    let isHanging = Mutex(false)

    init() throws {
        disk = try ReplicatedDisk(content: (0..<(6 << 20)).map { UInt8(truncatingIfNeeded: $0 >> 12) | 1 })
        second = WatchedStore(try DirectoryStore(root: disk.folder + "/second", create: true))
        secondID = try Vault.create(store: second, protection: disk.key, memory: HeadMemory(folder: nil)).vault.id.description
        try disk.write([UInt8](repeating: 5, count: 4096), at: 0)
        try disk.cut()
    }

    var catalogue: Catalogue { get throws { try Catalogue(site: disk.site) } }
    var folder: LogFolder { LogFolder(disk.folder + "/log") }

    /// As `target add` does it.
    func addSecond() throws {
        let vault = try openSecond()
        _ = try vault.register(disk: VaultID(disk.id.description)!, name: ReplicatedDisk.name, sizeBytes: UInt64(disk.sizeBytes))
        try folder.release(target: secondID)
        try disk.disk.log.setTargets(folder.readState().targets + [secondID])
        try catalogue.addTarget(
            NewTarget(url: second.location, vaultID: secondID, keyFile: nil, passphraseFile: nil, policy: Policy.defaultName), toDisks: [ReplicatedDisk.name])
    }

    func openSecond() throws -> Vault { try Vault.open(store: second, key: disk.key, memory: HeadMemory(folder: nil)) }

    func service(stop: StopFlag = StopFlag()) throws -> UploadService {
        let replicator = try Replicator(
            catalogue: catalogue, host: "test", stop: stop,
            openVault: { [self] asked in
                guard asked.vaultID == secondID else { return try disk.openVault() }
                while isHanging.withLock({ $0 }), !stop.isStopping { usleep(10_000) }
                return try openSecond()
            },
            owner: { [self] _ in TestOwner { self.disk.disk } }, progress: { _, _, _ in })
        return UploadService(replicator: replicator, log: ReplicatedDisk.quiet)
    }

    func proven(_ vault: String?) throws -> UInt64 { try catalogue.replication(ofDisk: ReplicatedDisk.name, at: vault).provenSequence ?? 0 }

    func wait(_ what: Comment, seconds: Double = 20, until ready: () throws -> Bool) throws {
        let deadline = Date(timeIntervalSinceNow: seconds)
        while try !ready() {
            try #require(Date() < deadline, what)
            usleep(20_000)
        }
    }

    /// Whether each of the vaults shows every point since it has the disk, bit-exact.
    func expectAllPoints(through last: UInt64) throws {
        for vault in [try disk.openVault(), try openSecond()] {
            let history = try #require(try DiskHistory.newest(vault, try vault.disk(ReplicatedDisk.name)))
            #expect(history.newestSequence >= last)
            for point in try history.points() {
                guard let expected = disk.points[point.sequence] else { continue }
                #expect(try vaultContent(history, at: point.sequence) == expected, "#\(point.sequence)")
            }
            #expect(try history.points().contains { $0.sequence == last })
        }
    }
}

@Suite struct SeveralTargetsTests {
    // Promise M1: A target that fails or hangs delays nothing that goes to another target of the disk.
    @Test func aTargetThatHangsHoldsUpNoOther() throws {
        let both = try TwoTargets()
        try both.addSecond()
        both.isHanging.withLock { $0 = true }
        let stop = StopFlag()
        let service = try both.service(stop: stop)
        let thread = try OwnThread(name: "test") { do { try service.run() } catch { Issue.record(error) } }
        defer {
            stop.stop()
            thread.join()
        }
        var last: UInt64 = 0
        for value in UInt8(1)...3 {
            try both.disk.write([UInt8](repeating: value, count: 70_000), at: Int(value) << 20)
            last = try both.disk.cut()
            try both.wait("the first target waits for the second") { try both.proven(nil) >= last }
        }
        #expect(try both.proven(both.secondID) == 0)
        // The log keeps for the first only, which has all.
        #expect(try both.folder.targetsBehind() == [both.secondID])
        #expect(both.folder.isReleased(target: both.secondID))
        both.isHanging.withLock { $0 = false }
        try both.wait("the second target does not catch up") { try both.proven(both.secondID) >= last }
        #expect(!both.folder.isReleased(target: both.secondID))
        // What the log's folder keeps of the catalogue is not written again for each target at each turn: a new file each time.
        let registration = both.folder.registrationFile
        func inode() throws -> Int? { try FileManager.default.attributesOfItem(atPath: registration)[.systemFileNumber] as? Int }
        func modified() throws -> Date? { try FileManager.default.attributesOfItem(atPath: registration)[.modificationDate] as? Date }
        let before = (try inode(), try modified())
        usleep(1_500_000)
        #expect(try inode() == before.0 && modified() == before.1 && before.1 != nil)
        try both.expectAllPoints(through: last)
    }

    /// A failback takes it away with the log, and a volume may be full when it is first written.
    @Test func aRegistrationThatIsGoneIsWrittenAgain() throws {
        let both = try TwoTargets()
        let disks = try both.catalogue.disks()
        let path = both.folder.registrationFile
        let registrations = DiskRegistrations()
        #expect(mkdir(path, 0o700) == 0)
        #expect(registrations.note(disks).map(\.disk) == [ReplicatedDisk.name] && registrations.note(disks).isEmpty, "told once")
        #expect(rmdir(path) == 0)
        for _ in 0..<2 {
            #expect(registrations.note(disks).isEmpty)
            #expect(try DiskRegistration.load(both.folder, of: both.disk.id) == DiskRegistration(disks[0]))
            try DurableFile.remove(path)
        }
    }

    @Test func theFirstStateOfOneIsSentWhileTheOtherGoesOn() throws {
        let both = try TwoTargets()
        #expect(try both.service().runOnce().isEmpty)
        try both.addSecond()
        let isHeld = Mutex(true)
        both.second.failPuts { key, moment in
            while key.hasPrefix("chunks/"), moment == .before, isHeld.withLock({ $0 }) { usleep(10_000) }
            return nil
        }
        let stop = StopFlag()
        let service = try both.service(stop: stop)
        let thread = try OwnThread(name: "test") { do { try service.run() } catch { Issue.record(error) } }
        defer {
            isHeld.withLock { $0 = false }
            stop.stop()
            thread.join()
        }
        try both.wait("no initial replication begins") { try both.folder.readFreeze() != nil }
        let frozen = try both.folder.readFreeze()
        try both.disk.write([UInt8](repeating: 9, count: 70_000), at: 3 << 20)
        let last = try both.disk.cut()
        try both.wait("the first target waits for the initial replication of the second") { try both.proven(nil) >= last }
        #expect(try both.folder.readFreeze() == frozen, "the first target let go of the image that the second needs")
        isHeld.withLock { $0 = false }
        try both.wait("the second target does not catch up") { try both.proven(both.secondID) >= last }
        try both.wait("the image is held still") { try both.folder.readFreeze() == nil }
        try both.expectAllPoints(through: last)
    }

    @Test func aDiskThatAnotherHostHasAtOneTargetIsSentToNone() throws {
        let both = try TwoTargets()
        try both.addSecond()
        let service = try both.service()
        #expect(try service.runOnce().isEmpty)
        // Another uploader takes the disk over in the second vault, while this one runs.
        let heads = try both.openSecond().heads(group: VaultID(both.disk.id.description)!)
        try both.disk.write([UInt8](repeating: 7, count: 4096), at: 8192)
        try both.disk.cut()
        let running = try both.service()
        #expect(try running.runOnce().isEmpty)
        let failure = Mutex<[String]>([])
        both.second.failPuts { key, moment in
            // Between what is sent and the head that would name it.
            guard moment == .before, key.contains("/manifests/") else { return nil }
            do { _ = try heads.claim(host: "other") } catch { failure.withLock { $0.append("\(error)") } }
            return nil
        }
        try both.disk.write([UInt8](repeating: 8, count: 4096), at: 16_384)
        try both.disk.cut()
        let fenced = try running.runOnce()
        #expect(failure.withLock { $0 }.isEmpty)
        #expect(fenced.map(\.vault) == [both.second.location])
        #expect(fenced.first?.failure.outcome == .fenced)
        both.second.failPuts(nil)

        try both.disk.write([UInt8](repeating: 9, count: 4096), at: 32_768)
        let last = try both.disk.cut()
        let before = try both.proven(nil)
        // The vault of the first is not touched until the second is this host's again: in this order.
        try both.catalogue.setPaused(true, disk: ReplicatedDisk.name, vault: both.second.location)
        let refused = try both.service().runOnce()
        #expect(refused.map(\.vault) == [both.disk.store.location])
        #expect(refused.first?.failure.message.contains(both.second.location) == true)
        #expect(try both.proven(nil) == before)
        try both.catalogue.setPaused(false, disk: ReplicatedDisk.name)
        #expect(try both.service().runOnce().isEmpty)
        #expect(try both.proven(nil) >= last)
        try both.expectAllPoints(through: last)

        // Found so at both at the same time: each is asked again, none waits for the other.
        for disk in try both.catalogue.targets(ofDisk: ReplicatedDisk.name) { try both.catalogue.setTakenOver("by other", of: disk) }
        try both.disk.write([UInt8](repeating: 10, count: 4096), at: 32_768)
        let taken = try both.disk.cut()
        #expect(try both.service().runOnce().count <= 1)
        #expect(try both.service().runOnce().isEmpty)
        #expect(try both.catalogue.targets(ofDisk: ReplicatedDisk.name).allSatisfy { $0.takenOver == nil })
        try both.expectAllPoints(through: taken)

        // Said of one that no longer is while the other one really is: nothing is sent there in the meantime.
        for disk in try both.catalogue.targets(ofDisk: ReplicatedDisk.name) { try both.catalogue.setTakenOver("by other", of: disk) }
        try both.catalogue.setPaused(true, disk: ReplicatedDisk.name, vault: both.second.location)
        try both.disk.write([UInt8](repeating: 11, count: 4096), at: 32_768)
        try both.disk.cut()
        let sent = try both.proven(nil)
        #expect(try both.service().runOnce().map(\.vault) == [both.disk.store.location])
        #expect(try both.proven(nil) == sent)
    }

    /// Its lane may be in the middle of something, and retention looks at its vault until that has ended.
    @Test func thePointsOfATargetThatIsRemovedStay() throws {
        let both = try TwoTargets()
        try both.addSecond()
        let isHeld = Mutex(false)
        let isReached = Mutex(false)
        both.second.failPuts { key, moment in
            while key.contains("/segments/"), moment == .before, isHeld.withLock({ $0 }) {
                isReached.withLock { $0 = true }
                usleep(10_000)
            }
            return nil
        }
        let stop = StopFlag()
        let service = try both.service(stop: stop)
        let thread = try OwnThread(name: "test") { do { try service.run() } catch { Issue.record(error) } }
        defer {
            isHeld.withLock { $0 = false }
            stop.stop()
            thread.join()
        }
        func change(_ value: UInt8) throws -> UInt64 {
            try both.disk.write([UInt8](repeating: value, count: 4096), at: 8192)
            return try both.disk.cut()
        }
        func listed() throws -> [UInt64] {
            let vault = try both.openSecond()
            return try #require(try DiskHistory.newest(vault, try vault.disk(ReplicatedDisk.name))).points().map(\.sequence)
        }
        for value in UInt8(1)...3 {
            let last = try change(value)
            try both.wait("the second target lags") { try both.proven(both.secondID) >= last }
        }
        isHeld.withLock { $0 = true }
        _ = try change(4)
        try both.wait("nothing is sent") { isReached.withLock { $0 } }
        let before = try listed()
        #expect(before.count >= 3)
        try both.disk.disk.log.setTargets(try both.folder.readState().targets.filter { $0 != both.secondID })
        try both.catalogue.removeTarget(vault: both.secondID, ofDisks: [ReplicatedDisk.name])
        usleep(3_500_000)
        #expect(try listed() == before)
    }

    /// The other one is paused: nobody else would ever let go of the image, and the log could not make room.
    @Test func aTargetThatIsRemovedHoldsTheImageNoLonger() throws {
        let both = try TwoTargets()
        #expect(try both.service().runOnce().isEmpty)
        try both.addSecond()
        try both.catalogue.setPaused(true, disk: ReplicatedDisk.name, vault: both.disk.store.location)
        let isHeld = Mutex(true)
        both.second.failPuts { key, moment in
            while key.hasPrefix("chunks/"), moment == .before, isHeld.withLock({ $0 }) { usleep(10_000) }
            return nil
        }
        let stop = StopFlag()
        let service = try both.service(stop: stop)
        let thread = try OwnThread(name: "test") { do { try service.run() } catch { Issue.record(error) } }
        defer {
            isHeld.withLock { $0 = false }
            stop.stop()
            thread.join()
        }
        try both.wait("no initial replication begins") { try both.folder.readFreeze() != nil }
        try both.disk.disk.log.setTargets(try both.folder.readState().targets.filter { $0 != both.secondID })
        try both.catalogue.removeTarget(vault: both.secondID, ofDisks: [ReplicatedDisk.name])
        try both.folder.forget(target: both.secondID)
        isHeld.withLock { $0 = false }
        try both.wait("the image is held for a target that is none any more") { try both.folder.readFreeze() == nil }
    }

    @Test func theLogGoesFreeOfATargetThatIsRemoved() throws {
        let both = try TwoTargets()
        try both.addSecond()
        #expect(try both.service().runOnce().isEmpty)
        both.second.failPuts { _, moment in moment == .before ? unreachable : nil }
        try both.disk.write([UInt8](repeating: 7, count: 4096), at: 8192)
        let last = try both.disk.cut()
        #expect(try both.service().runOnce().map(\.vault) == [both.second.location])
        #expect(try both.folder.targetsBehind() == [both.secondID])
        let log = both.disk.disk.log
        #expect(try #require(log.status.replicatedSequence) < last)
        try log.setTargets(try both.folder.readState().targets.filter { $0 != both.secondID })
        try both.catalogue.removeTarget(vault: both.secondID, ofDisks: [ReplicatedDisk.name])
        try both.folder.forget(target: both.secondID)
        try both.wait("the log keeps what a removed target lacks") { (log.status.replicatedSequence ?? 0) >= last }

        // Back again, it is brought up to date from where it was left.
        both.second.failPuts(nil)
        let sent = both.second.chunkPutCount
        try both.folder.release(target: both.secondID)
        try log.setTargets(try both.folder.readState().targets + [both.secondID])
        try both.catalogue.addTarget(
            NewTarget(url: both.second.location, vaultID: both.secondID, keyFile: nil, passphraseFile: nil, policy: Policy.defaultName),
            toDisks: [ReplicatedDisk.name], resynchronised: [ReplicatedDisk.name])
        #expect(try both.service().runOnce().isEmpty)
        #expect(both.second.chunkPutCount - sent <= 1)
        let vault = try both.openSecond()
        let history = try #require(try DiskHistory.newest(vault, try vault.disk(ReplicatedDisk.name)))
        #expect(try vaultContent(history, at: history.newestSequence) == both.disk.model)
    }
}
