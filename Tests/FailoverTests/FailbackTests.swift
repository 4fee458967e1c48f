// A disk that was failed over comes home: what differs alone goes back, nothing is lost that nobody gave up, and a kill is gone on from.

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

@Suite struct FailbackTests {
    private func start(_ sites: TwoSites, drops: Bool = false, isFull: Bool = false, imageFolder: String? = nil) throws -> FailbackReport {
        try sites.failbacks(sites.home).start(
            .init(unit: TwoSites.name, imageFolder: imageFolder, isFull: isFull, dropsHomeWrites: drops), show: { _ in })
    }

    /// What a machine wrote at the other site on a disk that is not replicated.
    private func makeEmptyDisk(_ sites: TwoSites) throws -> String {
        var settings = MachineSettings(name: TwoSites.name)
        settings.disks = [.init(name: "swap", excludedSizeBytes: 1 << 20)]
        try sites.vault().updateCatalog { [settings] in $0.machines = [settings] }
        try Directory.create(sites.folder + "/recovery/empty")
        try Data([1]).write(to: URL(fileURLWithPath: sites.folder + "/recovery/empty/swap.raw"))
        return sites.folder + "/recovery/empty/swap.raw"
    }

    private func complete(_ sites: TwoSites) throws -> FailbackReport { try sites.failbacks(sites.home).complete(TwoSites.name) }

    /// Home again for good, and replicated from there.
    private func settle(_ sites: TwoSites) throws {
        _ = try sites.failovers(sites.home).commit(TwoSites.name, keepsPoints: true)
        _ = try sites.failbacks(sites.home).reprotect(TwoSites.name)
        // What its uploader said while guests wrote elsewhere is over.
        #expect(try Catalogue(site: sites.home.site).replication(ofDisk: TwoSites.name).error == nil)
        try sites.home.open()
        try sites.write(sites.home)
        #expect(try sites.upload(sites.home).isEmpty)
        #expect(try sites.newest() == sites.model)
    }

    @Test(arguments: [OutputFormat.raw, .vhdDynamic]) func plannedThereAndBackLosesNothing(format: OutputFormat) throws {
        let sites = try TwoSites(seed: 1, format: format)
        try sites.write(sites.home)
        let atHome = sites.model
        try sites.home.close()
        try Catalogue(site: sites.home.site).assignPolicy(ofDisk: TwoSites.name, away: true)
        try sites.failOver(planned: true)
        #expect(sites.model == atHome)
        // The home is not what guests write on: its preparation is not taken back any more.
        #expect(throws: FailoverError.self) { try sites.failovers(sites.home).cancel(TwoSites.name, isLost: false) }
        #expect(try sites.home.entry.held != nil)
        // Away from home the failback policy holds, however often it is said.
        _ = try sites.failbacks(sites.away).reprotect(TwoSites.name)
        #expect(try sites.away.entry.policy.name == "default-failback")
        let points = try #require(try DiskHistory.newest(try sites.vault(), try sites.vault().disk(TwoSites.name))).points()
        try sites.write(sites.away)
        try sites.upload(sites.away)
        // While the replica runs on, nothing of the home is asked to be given up.
        let first = try start(sites)
        #expect(first.disks[0].parted.unsent == .none && first.disks[0].parted.obstacle == nil && first.disks[0].mark?.pass == nil)
        #expect(try sites.image(sites.home) == sites.model)
        try sites.write(sites.away)
        try sites.upload(sites.away)
        _ = try start(sites)
        #expect(try sites.image(sites.home) == sites.model)
        // Nobody takes the image for a disk meanwhile.
        #expect(throws: DiskError.log(.underFailback(folder: try sites.home.entry.logFolder))) { try sites.home.open() }
        try sites.write(sites.away)
        #expect(throws: FailoverError.self) { try complete(sites) }
        // Away from home it is stopped by the name that it was started by there.
        var settings = MachineSettings(name: TwoSites.name)
        settings.targetName = "db-there"
        settings.stop = "echo $FARSHORE_MACHINE $FARSHORE_TARGET_NAME > \(sites.folder)/stopped"
        try sites.vault().updateCatalog { $0.set(settings) }
        try sites.prepare(sites.away)
        #expect(try String(contentsOfFile: sites.folder + "/stopped", encoding: .utf8) == "db db-there\n")
        let report = try complete(sites)
        #expect(report.state == .failedOver)
        #expect(try sites.image(sites.home) == sites.model)
        let drill = try #require(try DrillReport(try sites.vault(), sinceMicros: 0, limit: 10).entries.last)
        #expect(drill.event == .failback && drill.verdict == .unchecked && drill.drill.disks.map(\.disk) == ["db"] && drill.drill.note == "from \(sites.away.host.name)", "\(drill)")
        // Its uploader takes nobody for the other side of a split brain.
        let early = try #require(try sites.upload(sites.home).first)
        #expect(early.message.contains("came back to this host") && early.remedy.contains("farshore failover commit db, then farshore reprotect db"), "\(early)")
        let sent = sites.store.counts.bytesSent
        try settle(sites)
        // No initial replication: less was sent than half of the disk.
        #expect(sites.store.counts.bytesSent - sent < sites.model.count / 2)
        #expect(try sites.home.entry.policy.name == "default")
        for point in points { _ = try sites.content(at: point.sequence) }
        #expect(try sites.heads(sites.home).standing(of: TwoSites.name).head.pins?.contains { $0.name.hasPrefix("failback") } != true)
        // What is left at the other site goes.
        let empty = try makeEmptyDisk(sites)
        let released = try sites.failbacks(sites.away).releaseReplica(TwoSites.name, removesImages: false, dropsWrites: false)
        #expect(released.map(\.isImageRemoved) == [true])
        #expect(!FileManager.default.fileExists(atPath: empty))
        #expect(try Catalogue(site: sites.away.site).disks().isEmpty)
        for side in [sites.home, sites.away] { #expect(try Catalogue(site: side.site).openFailovers(.preparation).isEmpty) }
    }

    /// The home wrote what the vault never got: a person says that it may go, and it goes as a whole.
    @Test func writesOfTheHomeAreGivenUpOnlyWhenSaid() throws {
        let sites = try TwoSites(seed: 2)
        let (before, left) = (sites.model, try sites.vault().heads(group: try sites.vault().disk(TwoSites.name).group).newest()!.document.disks[0].newestSequence)
        try sites.write(sites.home, changes: false)
        sites.home.disk?.abandon()
        sites.home.disk = nil
        try sites.failOver(planned: false)
        #expect(sites.model == before)
        try sites.write(sites.away)
        try sites.upload(sites.away)
        var shown: [PartedDisk] = []
        let failure = #expect(throws: FailoverError.self) {
            try sites.failbacks(sites.home).start(.init(unit: TwoSites.name), show: { shown = $0 })
        }
        #expect(failure?.message.contains("8 writes on this host that the vault never got") == true, "\(failure?.message ?? "")")
        #expect(shown.first?.unsent.records == 8 && shown.first?.common?.sequence == left && shown.first?.replicaRecords ?? 0 > 8)
        #expect(access(try sites.home.entry.logFolder + "/failback", F_OK) != 0)
        #expect(try sites.home.entry.held == nil)
        // New images elsewhere leave the old one, which is asked about as well.
        let elsewhere = #expect(throws: FailoverError.self) { try start(sites, imageFolder: sites.folder + "/other") }
        #expect(elsewhere?.message.contains("8 writes on this host that the vault never got") == true, "\(elsewhere?.message ?? "")")
        #expect(try !sites.home.entry.imagePath.contains("/other/"))
        _ = try start(sites, drops: true)
        #expect(try sites.image(sites.home) == sites.model)
        try sites.prepare(sites.away)
        _ = try complete(sites)
        try settle(sites)
    }

    /// The home's disks are no recovery disks, whatever is asked for, and their image is not removed.
    @Test func aFailbackThatStoppedIsNotContinuedAsAFailover() throws {
        let sites = try TwoSites(seed: 9)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.write(sites.away)
        try sites.prepare(sites.away)
        #expect(throws: (any Error).self) { try sites.failbacks(sites.home, isOver: { true }).complete(TwoSites.name) }
        let failovers = try sites.failovers(sites.home)
        #expect(try failovers.heads.standing(of: TwoSites.name).state == .failingOver)
        let failure = #expect(throws: FailoverError.self) {
            try failovers.run(FailoverRequest(
                unit: TwoSites.name, point: nil, isPlanned: false, vaultURL: sites.store.location, keyFile: nil, passphraseFile: nil,
                folder: sites.folder + "/recovery", sourceCommand: nil, startCommand: nil, commandSeconds: 5))
        }
        #expect(failure?.remedy.contains("farshore failback complete") == true)
        #expect(try Catalogue(site: sites.home.site).openFailovers(.failover).isEmpty)
        _ = try complete(sites)
        #expect(try sites.image(sites.home) == sites.model)
        // By its id and place, not its name: an own disk of that name, and one that has that id elsewhere, keep their images.
        var made = try sites.away.entry
        let away = try Catalogue(site: sites.away.site)
        #expect(try away.wasMadeByFailover(made))
        made = ProtectedDisk(
            name: made.name, id: made.id, imagePath: sites.folder + "/own.image", format: "raw", sizeBytes: 1 << 20, logFolder: "", logBudgetBytes: 0, vaultURL: "", vaultID: "", keyFile: nil,
            passphraseFile: nil)
        #expect(try !away.wasMadeByFailover(made))
    }

    /// What only the home wrote is in its log alone: one that cannot be read any more has the whole image compared.
    @Test(arguments: [false, true]) func aFailbackGoesOnWhenTheLogIsLostMeanwhile(isDamaged: Bool) throws {
        let sites = try TwoSites(seed: 9)
        try sites.write(sites.home, changes: false)
        sites.home.disk?.abandon()
        sites.home.disk = nil
        try sites.failOver(planned: false)
        try sites.upload(sites.away)
        #expect(throws: RefreshError.self) {
            try sites.failbacks(sites.home, isOver: { true }).start(
                .init(unit: TwoSites.name, dropsHomeWrites: true), show: { _ in })
        }
        let folder = LogFolder(try sites.home.entry.logFolder)
        #expect(try RefreshMark.load(folder)?.hasUnsent == true)
        for name in try Directory.list(folder.path) where name.hasPrefix("segment-") {
            let file = URL(fileURLWithPath: folder.path + "/" + name)
            guard isDamaged else { try FileManager.default.removeItem(at: file); continue }
            var bytes = try Data(contentsOf: file)
            for position in stride(from: 8192, to: bytes.count, by: 64) { bytes[position] ^= 0xFF }
            try bytes.write(to: file)
        }
        let report = try start(sites)
        #expect(report.disks[0].parted.obstacle != nil)
        #expect(try sites.image(sites.home) == sites.model)
    }

    /// A host that crashed may have the only copy of its last writes, some of them in the log alone.
    @Test func aReleaseKeepsWhatOnlyThisHostHas() throws {
        let sites = try TwoSites(seed: 10)
        let sent = sites.model
        try sites.write(sites.home)
        let written = sites.model
        sites.home.disk?.abandon()
        sites.home.disk = nil
        try sites.failOver(planned: false)
        #expect(sites.model == sent)
        try sites.upload(sites.away)
        let entry = try sites.home.entry
        let failure = #expect(throws: FailoverError.self) { try sites.failbacks(sites.home).releaseReplica(TwoSites.name, removesImages: false, dropsWrites: false) }
        #expect(failure?.message.contains("8 writes on this host that the vault never got") == true, "\(failure?.message ?? "")")
        #expect(try sites.home.entry == entry)
        let released = try sites.failbacks(sites.home).releaseReplica(TwoSites.name, removesImages: false, dropsWrites: true)
        #expect(released.map(\.isImageRemoved) == [false])
        #expect(try Array(Data(contentsOf: URL(fileURLWithPath: entry.imagePath))) == written)
    }

    /// After a failover to an older point the home has more than the replica went on from: that is said, and a release names the file that stays.
    @Test func whereTheSidesPartedIsThePointThatWasTaken() throws {
        let sites = try TwoSites(seed: 14)
        let point = try #require(try DiskHistory.newest(try sites.vault(), try sites.vault().disk(TwoSites.name))).newestSequence
        try sites.write(sites.home)
        #expect(try sites.upload(sites.home).isEmpty)
        try sites.home.close()
        try sites.failOver(planned: false, at: .sequence(point))
        try sites.write(sites.away)
        try sites.upload(sites.away)
        let parted = try start(sites).disks[0].parted
        #expect(parted.partedSequence == point && parted.common?.sequence ?? 0 > point && parted.unsent == .none)
        let image = try sites.home.entry.imagePath
        let released = try sites.failbacks(sites.home).releaseReplica(TwoSites.name, removesImages: false, dropsWrites: false)
        #expect(released.map(\.image) == [image + ".half-refreshed"] && FileManager.default.fileExists(atPath: released[0].image))
    }

    /// A mount that is just starting answers no release, and has the log's lock before it looks whether it may serve the disk.
    @Test func aFailbackIsNotTakenBackUnderAStartingMount() throws {
        let sites = try TwoSites(seed: 21)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.write(sites.away)
        try sites.upload(sites.away)
        _ = try start(sites)
        try sites.prepare(sites.away)
        _ = try complete(sites)
        let mount = try OwnerLock.acquire(LogFolder(try sites.home.entry.logFolder))
        let failure = #expect(throws: FailoverError.self) { try sites.failovers(sites.home).cancel(TwoSites.name, isLost: false) }
        #expect(failure?.code == .inUse && failure?.message.contains("a mount that is just starting") == true, "\(String(describing: failure))")
        #expect(try sites.home.entry.held == nil && sites.heads(sites.home).standing(of: TwoSites.name).state == .failedOver)
        _ = consume mount
        #expect(try sites.failovers(sites.home).cancel(TwoSites.name, isLost: false).state == .replicating)
        #expect(try sites.home.entry.held != nil)
    }

    /// A log on a volume that is away for a moment has no recovery point to be filled from, but that says nothing of the image.
    @Test func aPointStaysPinnedWhileTheLogIsAway() throws {
        let sites = try TwoSites(seed: 22)
        try sites.home.close()
        _ = try sites.failovers(sites.away).run(FailoverRequest(
            unit: TwoSites.name, point: nil, isPlanned: false, vaultURL: sites.store.location, keyFile: nil, passphraseFile: nil,
            folder: sites.folder + "/recovery", sourceCommand: nil, startCommand: nil, commandSeconds: 5))
        _ = try sites.failovers(sites.away).commit(TwoSites.name, keepsPoints: true)
        func isPinned() throws -> Bool { try sites.heads(sites.away).standing(of: TwoSites.name).head.pins?.contains { $0.name.hasPrefix(Head.Pin.failoverPrefix) } == true }
        let log = try sites.away.entry.logFolder
        #expect(try isPinned())
        try FileManager.default.moveItem(atPath: log, toPath: log + ".away")
        #expect(try sites.failbacks(sites.away).reprotect(TwoSites.name).state == .replicating)
        #expect(try isPinned())
        try FileManager.default.moveItem(atPath: log + ".away", toPath: log)
        _ = try sites.failbacks(sites.away).reprotect(TwoSites.name)
        #expect(try !isPinned())
    }

    /// Its own disks are in the way of recovery disks until they are released.
    @Test func aHomeTakesOverAfterItsRelease() throws {
        let sites = try TwoSites(seed: 23)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.upload(sites.away)
        func run() throws -> LifeCycle.State {
            let actions = FailoverActions(make: { points, _ in points.map(\.disk.name) }, remove: { _, _ in }, serve: { _ in nil }, release: { _ in })
            return try Failovers(heads: try sites.heads(sites.home), catalogue: try Catalogue(site: sites.home.site), actions: actions).run(FailoverRequest(
                unit: TwoSites.name, point: nil, isPlanned: false, vaultURL: sites.store.location, keyFile: nil, passphraseFile: nil,
                folder: sites.folder + "/back", sourceCommand: nil, startCommand: nil, commandSeconds: 5)).state
        }
        let failure = #expect(throws: FailoverError.self) { try run() }
        #expect(failure?.remedy.hasPrefix("farshore failover release db takes") == true, "\(String(describing: failure))")
        let image = try sites.home.entry.imagePath
        _ = try sites.failbacks(sites.home).releaseReplica(TwoSites.name, removesImages: false, dropsWrites: false)
        #expect(try run() == .failedOver)
        #expect(FileManager.default.fileExists(atPath: image))
    }

    @Test func aReleaseWithoutALogIsAskedFor() throws {
        let sites = try TwoSites(seed: 11)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.upload(sites.away)
        try FileManager.default.removeItem(atPath: try sites.home.entry.logFolder)
        let failure = #expect(throws: FailoverError.self) { try sites.failbacks(sites.home).releaseReplica(TwoSites.name, removesImages: false, dropsWrites: false) }
        #expect(failure?.message.contains("cannot be told") == true, "\(failure?.message ?? "")")
        _ = try sites.failbacks(sites.home).releaseReplica(TwoSites.name, removesImages: false, dropsWrites: true)
        #expect(try Catalogue(site: sites.home.site).disks().isEmpty)
    }

    /// Without a log, with an image that was changed by somebody else, with none, elsewhere, and as a whole.
    @Test(arguments: ["no log", "changed", "no image", "elsewhere", "full"]) func anyImageWillDo(loss: String) throws {
        let sites = try TwoSites(seed: 3)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.write(sites.away)
        try sites.upload(sites.away)
        let entry = try sites.home.entry
        switch loss {
        case "no log": try FileManager.default.removeItem(atPath: entry.logFolder)
        case "changed": try openImage(entry.imagePath, access: .readWrite, format: .raw).zero(at: 0, length: 1 << 20)
        case "no image": try FileManager.default.removeItem(atPath: entry.imagePath)
        default: break
        }
        if loss == "no log" || loss == "changed" { #expect(throws: FailoverError.self) { try start(sites) } }
        _ = try start(sites, drops: loss != "elsewhere", isFull: loss == "full", imageFolder: loss == "elsewhere" ? sites.folder + "/other" : nil)
        #expect(try sites.image(sites.home) == sites.model, "\(loss)")
        #expect(try sites.home.entry.imagePath.contains("/other/") == (loss == "elsewhere"))
        try sites.prepare(sites.away)
        _ = try complete(sites)
        try settle(sites)
    }

    /// Guests went by one of the vaults: the home has the others taken away first.
    @Test func aHomeWithFurtherTargetsIsRefused() throws {
        let sites = try TwoSites(seed: 12)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.upload(sites.away)
        let catalogue = try Catalogue(site: sites.home.site)
        let further = NewTarget(url: "file:///further", vaultID: "further", keyFile: nil, passphraseFile: nil, policy: Policy.defaultName)
        try catalogue.addTarget(further, toDisks: [TwoSites.name])
        for attempt in [{ _ = try start(sites) }, { _ = try sites.failbacks(sites.home).releaseReplica(TwoSites.name, removesImages: false, dropsWrites: true) }] {
            let failure = #expect(throws: FailoverError.self) { try attempt() }
            #expect(failure?.message.contains("has 2 targets") == true, "\(failure?.message ?? "")")
        }
        try catalogue.removeTarget(vault: "further", ofDisks: [TwoSites.name])
        _ = try start(sites)
        #expect(try sites.image(sites.home) == sites.model)
    }

    @Test func whatCannotBeChangedIsNamed() throws {
        let sites = try TwoSites(seed: 4, format: .qcow2)
        try sites.home.close()
        try sites.failOver(planned: true)
        let image = try sites.home.entry.imagePath
        do {
            let lock = try ImageLock.take(image, for: .exclusive)
            #expect(throws: ImageError.inUse(path: image)) { try start(sites) }
            try lock.release()
        }
        let child = Process()
        (child.executableURL, child.arguments) = (URL(fileURLWithPath: "/usr/bin/qemu-img"), ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, image + ".child"])
        try child.run()
        child.waitUntilExit()
        let failure = #expect(throws: FailoverError.self) { try start(sites) }
        #expect(failure?.message.contains("is read through by \(image).child") == true)
        try FileManager.default.removeItem(atPath: image + ".child")
        _ = try start(sites)
        #expect(try sites.image(sites.home) == sites.model)
    }

    /// The vault goes away at any request of the last step: the same command goes on.
    @Test(arguments: [false, true]) func aCompletionThatIsKilledGoesOn(isAnswerLost: Bool) throws {
        for call in stride(from: 1, through: 90, by: isAnswerLost ? 13 : 11) {
            let sites = try TwoSites(seed: UInt64(call))
            try sites.home.close()
            try sites.failOver(planned: true)
            try sites.write(sites.away)
            try sites.prepare(sites.away)
            sites.home.store.interrupt(at: call, isAnswerLost ? .diesAfter : .dies)
            let first = Result { try complete(sites) }
            guard sites.home.store.calls >= call else {
                guard case .success = first else { Issue.record("\(first)"); return }
                return #expect(call > 12)
            }
            sites.home.store.interrupt(at: .max, .dies)
            _ = try complete(sites)
            #expect(try sites.image(sites.home) == sites.model, "call \(call)")
            try settle(sites)
        }
    }

    @Test func aFailbackThatIsTakenBackAfterItEndedHoldsTheHomeAgain() throws {
        let sites = try TwoSites(seed: 7)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.write(sites.away)
        try sites.prepare(sites.away)
        _ = try complete(sites)
        #expect(try sites.home.entry.held == nil)
        let back = try sites.failovers(sites.home).cancel(TwoSites.name, isLost: false)
        #expect(back.state == .replicating && back.lifeCycle?.active == sites.away.host.id)
        #expect(try sites.home.entry.held?.contains("farshore failback start") == true)
        // Nothing is left that could let the home serve them while guests write elsewhere.
        #expect(throws: FailoverError.self) { try sites.failovers(sites.home).cancel(TwoSites.name, isLost: false) }
        #expect(try sites.home.entry.held != nil)
        _ = try sites.failovers(sites.away).cancel(TwoSites.name, isLost: false)
        #expect(try sites.away.entry.held == nil)
        try sites.away.open()
        try sites.write(sites.away)
        #expect(try sites.upload(sites.away).isEmpty)
        // What both have is known, so nothing is compared as a whole.
        let again = try start(sites)
        #expect(again.disks[0].parted.obstacle == nil && again.disks[0].parted.common != nil)
        #expect(try sites.image(sites.home) == sites.model)
        try sites.prepare(sites.away)
        _ = try complete(sites)
        #expect(try sites.home.entry.held == nil)
        try settle(sites)
    }

    /// A round of retention may come before the first upload of the new side: the state that it goes on from stays in the window.
    @Test func retentionWaitsUntilTheNewSideHasBranchedOff() throws {
        let sites = try TwoSites(seed: 8)
        let vault = try sites.vault()
        let chain = vault.heads(group: try vault.disk(TwoSites.name).group)
        let old = try #require(try chain.newest()).document.disks[0].newestSequence
        try sites.write(sites.home)
        try sites.upload(sites.home)
        try sites.home.close()
        try sites.failOver(planned: false, at: .sequence(old))
        func oldestAfterRetention() throws -> UInt64 {
            let head = try #require(try chain.newest()).document
            let pruning = try Retention(vault: vault, thinning: Thinning(rules: []), epoch: head.collectionEpoch).pruning(of: head, try vault.catalog().document)
            return try chain.update(epoch: head.writer.epoch) { pruning?.apply(to: &$0) }.document.disks[0].oldestSequence
        }
        #expect(try oldestAfterRetention() <= old)
        try sites.write(sites.away)
        #expect(try sites.upload(sites.away).isEmpty)
        #expect(try sites.newest() == sites.model)
        #expect(try oldestAfterRetention() > old)
        #expect(try sites.newest() == sites.model)
    }

    /// New images elsewhere that were begun and given up: the disk is where it was, and any place can be chosen again.
    @Test(arguments: [true, false]) func newImagesThatAreGivenUpLeaveTheOldOnes(isWhole: Bool) throws {
        let sites = try TwoSites(seed: 13)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.write(sites.away)
        try sites.upload(sites.away)
        let (before, elsewhere) = (try sites.home.entry, sites.folder + "/elsewhere")
        let request = Failbacks.StartRequest(unit: TwoSites.name, imageFolder: elsewhere, dropsHomeWrites: true)
        if isWhole { _ = try sites.failbacks(sites.home).start(request, show: { _ in }) } else {
            #expect(throws: RefreshError.self) { try sites.failbacks(sites.home, isOver: { true }).start(request, show: { _ in }) }
        }
        #expect(try sites.home.entry.imagePath.hasPrefix(elsewhere))
        let other = #expect(throws: FailoverError.self) { try start(sites, imageFolder: sites.folder + "/third") }
        #expect(other?.remedy.contains("failback cancel") == true)
        #expect(try sites.failbacks(sites.home).cancel(TwoSites.name).begun.isEmpty)
        let after = try sites.home.entry
        #expect(after.imagePath == before.imagePath && after.logFolder == before.logFolder && after.held?.contains("guests write on another host") == true)
        #expect(try FileManager.default.contentsOfDirectory(atPath: elsewhere).isEmpty)
        _ = try start(sites, imageFolder: sites.folder + "/third")
        #expect(try sites.image(sites.home) == sites.model)
        // At home for good, there is nothing to go back to.
        try sites.prepare(sites.away)
        _ = try complete(sites)
        try settle(sites)
        #expect(try Catalogue(site: sites.home.site).placeLeft(ofDisk: TwoSites.name) == nil)
        #expect(try sites.home.entry.imagePath.hasPrefix(sites.folder + "/third"))
    }

    /// What the home said of a disk holds where it went, without the home, and is what the home says now at the next time.
    @Test func policiesTravelWithTheirDisks() throws {
        let sites = try TwoSites(seed: 15)
        let (home, away) = (try Catalogue(site: sites.home.site), try Catalogue(site: sites.away.site))
        _ = try home.addPolicy(named: "office", PolicyChange(intervalSeconds: 2, retention: try RetentionRules("all:3h,daily:7d"), rpoSeconds: 77, bandwidth: try BandwidthCalendar("mon-fri 08:00-18:00 20MiB"), anomaly: .warn))
        _ = try home.changePolicy(named: "office-failback", PolicyChange(download: try BandwidthCalendar("30MiB")))
        try home.assignPolicy(named: "office", disks: [TwoSites.name])
        try sites.write(sites.home)
        try sites.upload(sites.home)
        let published = try #require(try sites.vault().catalog().document.policies?.first)
        #expect(try published.policy.policy() == home.policy(named: "office") && published.failback?.policy() == home.policy(named: "office-failback"))
        try sites.home.close()
        try sites.failOver(planned: true)
        #expect(try sites.away.entry.policy == home.policy(named: "office-failback"))
        #expect(try away.policy(named: "office") == home.policy(named: "office"))
        // Away it is the failback policy, which nobody takes for that of the home.
        try sites.write(sites.away)
        try sites.upload(sites.away)
        #expect(try sites.vault().catalog().document.policies == [published])
        _ = try start(sites)
        try sites.prepare(sites.away)
        _ = try complete(sites)
        _ = try home.changePolicy(named: "office", PolicyChange(rpoSeconds: 78))
        try settle(sites)
        #expect(try sites.home.entry.policy.name == "office")
        _ = try sites.failbacks(sites.away).releaseReplica(TwoSites.name, removesImages: true, dropsWrites: false)
        try sites.home.close()
        try sites.failOver(planned: true)
        // That site's own of that name stays.
        let given = try sites.away.entry.policy
        #expect(given.name.hasPrefix("office-of-") && given.name.hasSuffix("-failback") && given.rpoSeconds == 78)
        #expect(try away.policy(named: "office").rpoSeconds == 77)
    }

    /// Of earlier releases, and of later ones with words that mean nothing here.
    @Test(arguments: [nil, "on-tuesdays"]) func aVaultThatSaysNothingOfAPolicyLeavesTheHostsOwn(retention: String?) throws {
        let sites = try TwoSites(seed: 16)
        let disk = try sites.vault().disk(TwoSites.name).id
        try sites.vault().updateCatalog { catalog in
            catalog.policies = nil
            guard let retention else { return }
            let words = PolicyWords(
                name: "newer", parent: nil, intervalSeconds: 1, pointSeconds: 1, retention: retention, rpoSeconds: nil, bandwidth: "unlimited", download: "unlimited", compression: "auto",
                resyncWindow: "always", whenFull: "refuse", appSeconds: nil, resyncPercent: 50, anomaly: "pin")
            catalog.set(Catalog.DiskPolicy(disk: disk, policy: words, failback: nil))
        }
        try sites.home.close()
        try sites.failOver(planned: false)
        #expect(try sites.away.entry.policy.name == "default-failback")
        let events = try Catalogue(site: sites.away.site).events(limit: 20).filter { $0.text.contains("newer is not understood here") }
        #expect(events.count == (retention == nil ? 0 : 1))
    }

    /// The pins of a failover keep what its disks are filled from, and go when they are.
    @Test func thePinsOfAFailoverGoWhenItsDisksAreFilled() throws {
        let sites = try TwoSites(seed: 14)
        try sites.home.close()
        _ = try sites.failovers(sites.away).run(FailoverRequest(
            unit: TwoSites.name, point: nil, isPlanned: false, vaultURL: sites.store.location, keyFile: nil, passphraseFile: nil, folder: sites.folder + "/recovery",
            sourceCommand: nil, startCommand: nil, commandSeconds: 5))
        _ = try sites.failovers(sites.away).commit(TwoSites.name, keepsPoints: true)
        let base = LogFolder(try sites.away.entry.logFolder).baseFile
        func pins() throws -> Int { try sites.heads(sites.away).standing(of: TwoSites.name).head.pins?.count ?? 0 }
        try Data().write(to: URL(fileURLWithPath: base))
        _ = try sites.failbacks(sites.away).reprotect(TwoSites.name)
        try sites.away.open()
        try sites.write(sites.away)
        #expect(try sites.upload(sites.away).isEmpty)
        #expect(try pins() == 1)
        try FileManager.default.removeItem(atPath: base)
        try sites.write(sites.away)
        #expect(try sites.upload(sites.away).isEmpty)
        #expect(try pins() == 0)
    }

    /// Of the commands that change where a unit stands one runs at a time on a host.
    @Test func noOtherCommandRunsBesideOneOfTheUnit() throws {
        let sites = try TwoSites(seed: 12)
        try sites.home.close()
        try sites.failOver(planned: true)
        let group = try sites.vault().disk(TwoSites.name).group.description
        for (side, commands) in [
            (sites.home, [
                { _ = try start(sites) }, { _ = try complete(sites) }, { _ = try sites.failbacks(sites.home).cancel(TwoSites.name) },
                { _ = try sites.failbacks(sites.home).releaseReplica(TwoSites.name, removesImages: false, dropsWrites: true) },
            ]), (sites.away, [{ _ = try sites.failbacks(sites.away).reprotect(TwoSites.name) }]),
        ] as [(TwoSites.Side, [() throws -> Void])] {
            let lock = try SiteLock.tryTake(side.site.failoverLockPath(group: group))
            #expect(lock != nil)
            for command in commands {
                let refusal = #expect(throws: FailoverError.self) { try command() }
                #expect(refusal?.code == .inUse, "\(String(describing: refusal))")
            }
            withExtendedLifetime(lock) {}
        }
        _ = try start(sites)
    }

    @Test func aFailbackThatIsCancelledGoesOnLater() throws {
        let sites = try TwoSites(seed: 6)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.write(sites.away)
        try sites.upload(sites.away)
        _ = try start(sites)
        let cancelled = try sites.failbacks(sites.home).cancel(TwoSites.name)
        #expect(cancelled.begun.map(\.name) == [TwoSites.name] && cancelled.untouched.isEmpty)
        #expect(try sites.heads(sites.home).standing(of: TwoSites.name).head.pins?.contains { $0.name.hasPrefix("failback") } != true)
        #expect(throws: DiskError.self) { try sites.home.open() }
        try sites.write(sites.away)
        try sites.upload(sites.away)
        _ = try start(sites)
        #expect(try sites.image(sites.home) == sites.model)
    }
}
