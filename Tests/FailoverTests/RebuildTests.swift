// A site that lost its catalogue: rebuilt from the vault and the logs it goes on as if nothing had been; what does not fit is named and left alone.

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

@Suite struct RebuildTests {
    private func lose(_ side: TwoSites.Side) throws {
        for end in ["", "-wal", "-shm"] { try DurableFile.remove(side.site.cataloguePath + end) }
    }

    private func rebuild(_ sites: TwoSites, _ side: TwoSites.Side, in folder: String? = nil, _ change: (inout SiteRebuild.Request) -> Void = { _ in }) throws -> SiteRebuild.Outcome {
        var request = SiteRebuild.Request(vaultURL: sites.store.location)
        change(&request)
        return try SiteRebuild(catalogue: try Catalogue(site: side.site), vault: try sites.vault(side.store), host: side.host.id, request)
            .run(try LogSearch([folder ?? sites.folder], except: side.site.path))
    }

    private func kill(_ side: TwoSites.Side) {
        side.disk?.abandon()
        side.disk = nil
    }

    private func chunks(_ sites: TwoSites) throws -> [String] { try sites.store.list(prefix: "chunks/", startAfter: nil).objects.map(\.key) }

    /// Promise F13: A disk of a site that lost its catalogue is registered again only where its log, its image and the vault fit
    /// together, and then nothing that the vault has of it is sent again.
    @Test func replicationGoesOnWithDeltasAlone() throws {
        let sites = try TwoSites(seed: 41)
        let catalogue = try Catalogue(site: sites.home.site)
        _ = try catalogue.addPolicy(named: "slow", PolicyChange(intervalSeconds: 77, retention: .everything, bandwidth: try BandwidthCalendar("2MiB"), appSeconds: 600))
        try catalogue.assignPolicy(named: "slow", disks: [TwoSites.name])
        var settings = MachineSettings(name: TwoSites.name)
        settings.cpus = 3
        try catalogue.set(settings)
        try catalogue.publishSettings(to: try sites.vault())
        try sites.write(sites.home)
        #expect(try sites.upload(sites.home).isEmpty)
        let before = try sites.home.entry
        let replicated = try catalogue.replication(ofDisk: TwoSites.name)
        // What only the log has.
        try sites.write(sites.home)
        let (atLoss, known) = (sites.model, try chunks(sites))
        kill(sites.home)
        try lose(sites.home)
        let outcome = try rebuild(sites, sites.home)
        #expect(outcome.missing == [] && outcome.warnings == [])
        #expect(outcome.restored.map(\.logFolder) == [before.logFolder] && outcome.restored.map(\.isNew) == [true])
        let found = try sites.home.entry
        #expect(found.policy == before.policy && found.imagePath == before.imagePath && found.logBudgetBytes == before.logBudgetBytes)
        #expect(found.id == before.id && found.machine == before.machine && found.role == .source && found.held == nil && found.vaultURL == before.vaultURL)
        let rebuilt = try Catalogue(site: sites.home.site)
        let state = try rebuilt.replication(ofDisk: TwoSites.name)
        #expect(state.phase == .delta && state.provenSequence == replicated.provenSequence && state.lineage == replicated.lineage)
        #expect(try rebuilt.settings(ofMachine: TwoSites.name).cpus == 3)
        #expect(try rebuilt.policy(named: "slow-failback").intervalSeconds == 77)
        // Said again it changes nothing.
        #expect(try rebuild(sites, sites.home).restored.map(\.isNew) == [false])
        try sites.home.open()
        try sites.write(sites.home)
        let sent = sites.store.counts.bytesSent
        #expect(try sites.upload(sites.home).map(\.message) == [])
        #expect(sites.store.counts.bytesSent - sent < sites.model.count / 2, "what an initial replication sends")
        #expect(try chunks(sites) == known)
        #expect(try sites.newest() == sites.model && atLoss != sites.model)
        #expect(try VaultCheck(vault: try sites.vault(), readData: true, threads: 2).run().findings.isEmpty)
    }

    @Test func aRunThatIsKilledAnywhereIsRunAgain() throws {
        let sites = try TwoSites(seed: 42)
        kill(sites.home)
        for request in 1... {
            try lose(sites.home)
            sites.home.store.interrupt(at: request, .dies)
            let isKilled = (try? rebuild(sites, sites.home)) == nil
            sites.home.store.interrupt(at: .max, .dies)
            #expect(try rebuild(sites, sites.home).restored.map(\.disk) == [TwoSites.name])
            #expect(try sites.home.entry.policy.name == Policy.defaultName)
            guard isKilled else { break }
        }
    }

    @Test func whatDoesNotFitIsNamed() throws {
        let sites = try TwoSites(seed: 43)
        let entry = try sites.home.entry
        try sites.home.close()
        let old = sites.folder + "/old"
        try FileManager.default.createDirectory(atPath: old, withIntermediateDirectories: true)
        try FileManager.default.copyItem(atPath: entry.logFolder, toPath: old + "/copy.log")
        try sites.home.open()
        try sites.write(sites.home)
        try sites.upload(sites.home)
        try sites.home.close()
        try lose(sites.home)
        func reason(_ folder: String? = nil, _ change: (inout SiteRebuild.Request) -> Void = { _ in }) throws -> String {
            let outcome = try rebuild(sites, sites.home, in: folder, change)
            #expect(outcome.restored.isEmpty && outcome.missing.map(\.subject) == [TwoSites.name])
            return outcome.missing.first?.reason ?? ""
        }
        #expect(try reason().contains("several logs"))
        #expect(try reason(old).contains("older copy"))
        try FileManager.default.removeItem(atPath: old)
        #expect(try reason(sites.away.site.path).contains("no log of it"))
        // Somebody has it: another site.
        let lock = try OwnerLock.acquire(LogFolder(entry.logFolder))
        #expect(try reason().contains("in use"))
        _ = consume lock
        // Another image, of the size or not; then one that was touched after the clean stop.
        #expect(try reason { $0.images = [TwoSites.name: (sites.folder + "/nothing", .raw)] }.contains("nothing"))
        try Data(count: 4096).write(to: URL(filePath: sites.folder + "/small"))
        #expect(try reason { $0.images = [TwoSites.name: (sites.folder + "/small", .raw)] }.contains("4096 bytes"))
        #expect(chmod(entry.imagePath, 0o640) == 0)
        #expect(try reason().contains("was changed since"))
        // While it grows it has one of two sizes, and what the clean stop says counts as ever.
        let log = LogFolder(entry.logFolder)
        let state = try log.readState()
        try log.noteGrowth(2 * state.diskBytes, cleanStop: state.cleanStop, holding: OwnerLock.acquire(log))
        #expect(try reason { $0.images = [TwoSites.name: (sites.folder + "/small", .raw)] }.contains("4096 bytes"))
        #expect(try reason().contains("was changed since"))
        try log.noteGrowth(nil, cleanStop: state.cleanStop, holding: OwnerLock.acquire(log))
        #expect(try Catalogue(site: sites.home.site).disks().isEmpty)
        let given = try rebuild(sites, sites.home) { $0.images = [TwoSites.name: (entry.imagePath, .raw)] }
        #expect(given.restored.count == 1 && given.warnings.contains { $0.contains("farshore accept") })
        #expect(throws: DiskError.self) { try sites.home.open() }
    }

    @Test func aLogFromBeforeANewHistoryIsRefused() throws {
        let sites = try TwoSites(seed: 47)
        let (entry, old) = (try sites.home.entry, sites.folder + "/aside.log")
        kill(sites.home)
        try FileManager.default.copyItem(atPath: entry.logFolder, toPath: old)
        // A power loss: the log goes on in a new lineage, and the vault follows.
        let folder = LogFolder(entry.logFolder)
        sites.home.disk = try VirtualDisk.open(
            name: entry.name, image: try openImage(entry.imagePath, access: .readWrite, format: .raw), folder: folder, lock: try OwnerLock.acquire(folder),
            sequencer: try Sequencer(path: sites.home.site.sequencePath), options: ChangeLog.Options(bootID: "another boot"))
        try sites.write(sites.home)
        #expect(try sites.upload(sites.home).isEmpty)
        kill(sites.home)
        try lose(sites.home)
        try FileManager.default.removeItem(atPath: entry.logFolder)
        let outcome = try rebuild(sites, sites.home, in: old)
        #expect(outcome.restored.isEmpty && outcome.missing.first?.reason.contains("not the vault's") == true)
    }

    @Test func aLogOfEarlierReleasesLetsNoPointGo() throws {
        let sites = try TwoSites(seed: 44)
        let entry = try sites.home.entry
        kill(sites.home)
        try DurableFile.remove(LogFolder(entry.logFolder).registrationFile)
        try lose(sites.home)
        // home.image.log lies beside home.image.
        let outcome = try rebuild(sites, sites.home)
        #expect(outcome.restored.map(\.image) == [entry.imagePath] && outcome.warnings.contains { $0.contains("policy") })
        #expect(try sites.home.entry.policy.retention == .everything)
        try sites.home.open()
        try sites.write(sites.home)
        #expect(try sites.upload(sites.home).isEmpty)
        #expect(try sites.newest() == sites.model)
    }

    /// What the log would keep for a target that the new catalogue does not have nobody would ever send: it would fill up for good.
    @Test func theLogOfSeveralTargetsKeepsNothingForThoseThatAreNotBroughtBack() throws {
        let sites = try TwoSites(seed: 48)
        let entry = try sites.home.entry
        let folder = LogFolder(entry.logFolder)
        let second = VaultID.random().description
        let mark = try #require(try folder.readMark(target: entry.vaultID))
        try folder.storeMark(mark, target: second)
        try folder.release(target: second)
        try #require(sites.home.disk).log.setTargets([entry.vaultID, second])
        #expect(DiskRegistrations().note([entry]).isEmpty)
        kill(sites.home)
        try lose(sites.home)
        let outcome = try rebuild(sites, sites.home)
        #expect(outcome.missing == [] && outcome.warnings.contains { $0.contains(second) && $0.contains("farshore target add") }, "\(outcome.warnings)")
        #expect(try folder.readState().targets == [entry.vaultID] && !folder.isReleased(target: second))
        try sites.home.open()
        try sites.write(sites.home)
        #expect(try sites.upload(sites.home).map(\.message) == [])
        let log = try #require(sites.home.disk).log
        let deadline = Date(timeIntervalSinceNow: 20)
        while log.status.replicatedSequence ?? 0 < log.status.durableSequence, Date() < deadline { usleep(50_000) }
        #expect(log.status.replicatedSequence ?? 0 >= log.status.durableSequence)
    }

    /// The registration is of the first target: its rules would let go of points that the other one's keep.
    @Test func thePolicyOfAnotherVaultLetsNoPointGo() throws {
        let sites = try TwoSites(seed: 49)
        let catalogue = try Catalogue(site: sites.home.site)
        _ = try catalogue.addPolicy(named: "brief", PolicyChange(retention: try RetentionRules("all:1h")))
        try catalogue.assignPolicy(named: "brief", disks: [TwoSites.name])
        var first = try sites.home.entry
        first.vaultID = VaultID.random().description
        #expect(DiskRegistrations().note([first]).isEmpty)
        kill(sites.home)
        try lose(sites.home)
        let outcome = try rebuild(sites, sites.home)
        #expect(outcome.missing == [] && outcome.warnings.contains { $0.contains("policy") })
        #expect(try sites.home.entry.policy.retention == .everything)
    }

    @Test func whereGuestsWentOverBothSidesFindThat() throws {
        let sites = try TwoSites(seed: 45)
        try sites.home.close()
        try sites.prepare(sites.home)
        _ = try sites.failovers(sites.away).run(FailoverRequest(
            unit: TwoSites.name, point: .latest, isPlanned: true, vaultURL: sites.store.location, keyFile: nil, passphraseFile: nil,
            folder: sites.folder + "/recovery", sourceCommand: nil, startCommand: nil, commandSeconds: 5))
        // As the mount that serves it does.
        #expect(DiskRegistrations().note([try sites.away.entry]).isEmpty)
        let made = try sites.away.entry
        for side in [sites.home, sites.away] { try lose(side) }
        #expect(try rebuild(sites, sites.away, in: sites.folder + "/recovery").missing == [])
        #expect(try sites.away.entry.role == .recovery && sites.away.entry.imagePath == made.imagePath)
        #expect(try rebuild(sites, sites.home, in: sites.folder).missing.contains { $0.reason.contains("several logs") })
        #expect(try rebuild(sites, sites.home, in: sites.folder + "/home.image.log").missing == [])
        #expect(try sites.home.entry.role == .source && sites.home.entry.held != nil)
        // Taken back, the recovery disk goes, and the home may be served again.
        _ = try sites.failovers(sites.away).cancel(TwoSites.name, isLost: false)
        _ = try sites.failovers(sites.home).cancel(TwoSites.name, isLost: false)
        #expect(try sites.home.entry.held == nil)
        try sites.home.open()
        try sites.write(sites.home)
        #expect(try sites.upload(sites.home).map(\.message) == [])
        #expect(try sites.newest() == sites.model)
    }

    @Test func afterAReprotectionTheTargetIsTheSource() throws {
        let sites = try TwoSites(seed: 46)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.write(sites.away)
        #expect(try sites.upload(sites.away).isEmpty)
        kill(sites.away)
        for side in [sites.home, sites.away] { try lose(side) }
        #expect(try rebuild(sites, sites.away, in: sites.folder + "/recovery").missing == [])
        let entry = try sites.away.entry
        #expect(entry.role == .source && entry.held == nil && entry.policy.name == "default-failback")
        try sites.away.open()
        try sites.write(sites.away)
        #expect(try sites.upload(sites.away).map(\.message) == [])
        #expect(try sites.newest() == sites.model)
        // And home finds its old disk, shut down, for the failback.
        #expect(try rebuild(sites, sites.home, in: sites.folder + "/home.image.log").missing == [])
        _ = try sites.failbacks(sites.home).start(.init(unit: TwoSites.name), show: { _ in })
        #expect(try sites.image(sites.home) == sites.model)
    }

    @Test(arguments: LifeCycle.State.allCases) func theStandingFollowsTheLifeCycle(state: LifeCycle.State) {
        let (own, other) = (VaultID(high: 1, low: 1), VaultID(high: 2, low: 2))
        func standing(active: VaultID, target: VaultID?, former: VaultID?, _ role: ProtectedDisk.Role?) -> RebuildStanding {
            RebuildStanding(LifeCycle(state: state, active: active, home: own, target: target, former: former, timeMicros: 0), host: own, unit: "u", role: role)
        }
        func isHeld(_ standing: RebuildStanding) -> Bool { if case .source(.some) = standing { true } else { false } }
        switch state {
        case .replicating, .prepared:
            #expect(standing(active: own, target: nil, former: nil, .source) == .source(held: nil) || state == .prepared)
            #expect(isHeld(standing(active: own, target: nil, former: nil, .source)) == (state == .prepared))
            #expect(isHeld(standing(active: other, target: nil, former: nil, .source)))
        case .failingOver, .failedOver, .committed:
            let active = state == .failingOver ? other : own
            #expect(standing(active: active, target: own, former: other, .recovery) == .recovery(isOpen: state != .committed))
            #expect(isHeld(standing(active: active, target: own, former: other, .source)) == (state == .failingOver))
            #expect(isHeld(standing(active: other, target: other, former: own, .source)))
            if case .unclear = standing(active: active, target: own, former: other, nil) {} else { Issue.record("guessed") }
        }
        #expect(RebuildStanding(nil, host: own, unit: "u", role: nil) == .source(held: nil))
    }
}
