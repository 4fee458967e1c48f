// Failovers between three hosts over one vault: who may publish, what a race and a kill at any step leave.

import Failover
import Foundation
import ObjectStore
import RecoveryPoints
import Replication
import Site
import Synchronization
import Testing
import Vault
import VaultFixtures
import VirtualDisk

@Suite struct LifeCycleRunTests {
    // Promise T1: From the claim of a failover on, nothing that the source's uploader sends becomes a point, and the uploader says how many records the vault lacks.
    @Test func anUnplannedFailoverFencesTheSourceUntilItIsTakenBack() throws {
        let sites = try FailoverSites()
        let sent = try sites.newest()
        try sites.write(2)
        let report = try sites.run(sites.target)
        #expect(report.state == .failedOver && Set(report.disks.map(\.point.sequence)) == sent)
        #expect(report.warnings.contains { $0.contains("never tested") })
        let over = try sites.standing()
        #expect(over.lifeCycle?.active == sites.target.host.id && over.lifeCycle?.former == sites.source.host.id && over.lifeCycle?.home == sites.source.host.id)
        #expect(over.head.pins?.count == 2)
        // A new process of the source's uploader says how much the vault lacks, and sends nothing.
        let failures = try sites.upload()
        #expect(failures.count == 2)
        for failure in failures {
            #expect(failure.outcome == .forGood && failure.isAlarm, "\(failure)")
            #expect(failure.message.contains("was failed over to target from point #\(sent.min()!)") && failure.message.contains("2 records"), "\(failure)")
        }
        #expect(try sites.newest() == sent)
        let back = try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false)
        #expect(back.state == .replicating && back.lifeCycle?.active == sites.source.host.id && back.head.pins == nil)
        #expect(sites.target.disks.withLock { $0.isEmpty })
        #expect(try sites.upload().isEmpty)
        #expect(try sites.newest() != sent)
    }

    /// One that runs on while it is failed over meets the raised epoch; taken back, it goes on without a new process.
    @Test func aRunningUploaderIsFencedAndGoesOnWhenTheFailoverIsTakenBack() throws {
        let sites = try FailoverSites()
        let service = try sites.service
        #expect(try service.runOnce().isEmpty)
        try sites.run(sites.target)
        try sites.write(2)
        let failures = try service.runOnce()
        #expect(failures.count == 2 && failures.allSatisfy { $0.failure.message.contains("was failed over to target") }, "\(failures)")
        _ = try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false)
        #expect(try service.runOnce().isEmpty)
    }

    @Test func aPlannedFailoverLosesNothing() throws {
        let sites = try FailoverSites()
        try sites.write(2)
        #expect(throws: FailoverError.self) { try sites.run(sites.target, planned: true) }
        let told = sites.folder + "/told"
        let prepared = try sites.prepare(stop: "env | grep -E '^FARSHORE_(UNIT|MACHINE|TARGET_NAME)=' | sort > \(told)")
        #expect(try String(contentsOfFile: told, encoding: .utf8) == "FARSHORE_MACHINE=shop\nFARSHORE_TARGET_NAME=shop\nFARSHORE_UNIT=shop\n")
        let last = try #require(prepared.lifeCycle?.points?.first?.sequence)
        #expect(prepared.state == .prepared && prepared.lifeCycle?.points?.count == 2)
        #expect(try Catalogue(site: sites.source.site).disks().allSatisfy { $0.held != nil })
        let report = try sites.run(sites.target, planned: true)
        #expect(report.state == .failedOver && report.disks.allSatisfy { $0.point.sequence == last })
    }

    // Promise T2: A planned failover begins with every write the source acknowledged, or is refused.
    @Test func aPlannedFailoverIsRefusedWhereTheSourceWroteOn() throws {
        let sites = try FailoverSites()
        try sites.prepare()
        try sites.write(9)
        try sites.upload()
        let failure = #expect(throws: VaultError.self) { try sites.run(sites.target, planned: true) }
        #expect(failure?.description.contains("loses nothing") == true)
        // Prepared once more, it is all there.
        try sites.prepare()
        #expect(try sites.run(sites.target, planned: true).state == .failedOver)
    }

    @Test func aPreparationIsTakenBack() throws {
        let sites = try FailoverSites()
        try sites.prepare()
        #expect(try sites.failovers(sites.source).cancel(FailoverSites.unit, isLost: false).state == .replicating)
        #expect(try Catalogue(site: sites.source.site).disks().allSatisfy { $0.held == nil })
        try sites.write(3)
        #expect(try sites.upload().isEmpty)
    }

    /// Taken back by another command while it waits for the vault, it would be prepared while guests write.
    @Test func aPreparationIsNotTakenBackWhileItRuns() throws {
        let sites = try FailoverSites()
        try sites.prepare(sending: {
            let refusal = #expect(throws: FailoverError.self) { try sites.failovers(sites.source).cancel(FailoverSites.unit, isLost: false) }
            #expect(refusal?.code == .inUse)
        })
        #expect(try Catalogue(site: sites.source.site).disks().allSatisfy { $0.held != nil })
        // Whoever serves the disks after all.
        let failure = #expect(throws: FailoverError.self) {
            try sites.prepare(sending: { try Catalogue(site: sites.source.site).hold(disk: "data", reason: nil) })
        }
        #expect(failure?.message.contains("taken back meanwhile") == true)
    }

    /// Protected, and not uploaded once: the vault does not know of it.
    @Test func aDiskThatTheVaultLacksDoesNotStayBehind() throws {
        let sites = try FailoverSites()
        let catalogue = try Catalogue(site: sites.source.site)
        let known = try catalogue.disk(named: "data")
        try catalogue.add(ProtectedDisk(
            name: "new", id: String(repeating: "a", count: 32), imagePath: sites.folder + "/new", format: "raw", sizeBytes: 1 << 20, logFolder: sites.folder + "/new.log",
            logBudgetBytes: 64 << 20, vaultURL: known.vaultURL, vaultID: known.vaultID, keyFile: nil, passphraseFile: nil, machine: FailoverSites.unit))
        let failure = #expect(throws: FailoverError.self) { try sites.prepare() }
        #expect(failure?.message.hasPrefix("new shares recovery points") == true)
        #expect(try catalogue.disks().allSatisfy { $0.held == nil })
    }

    // Promise T4: Of two hosts that fail one unit over at once, one is refused and has no disk of it.
    @Test func ofTwoHostsOneWins() throws {
        // The other one runs to its end just before each request of the first that comes.
        for call in 1...40 {
            let sites = try FailoverSites(disks: ["data"])
            let other = Result { try sites.failovers(sites.third) }
            sites.target.store.interrupt(at: call, .runs { [unowned sites] in _ = try? other.get().run(FailoverRequest(
                unit: FailoverSites.unit, point: nil, isPlanned: false, vaultURL: "", keyFile: nil, passphraseFile: nil,
                folder: sites.third.site.path + "/recovery", sourceCommand: nil, startCommand: nil, commandSeconds: 1)) })
            let first = Result { try sites.run(sites.target) }
            let wasReached = sites.target.store.calls >= call
            let standing = try sites.standing()
            #expect(standing.state == .failedOver)
            let winners = [sites.target, sites.third].filter { $0.disks.withLock { !$0.isEmpty } }
            #expect(winners.count == 1 && winners.first?.host.id == standing.lifeCycle?.active, "call \(call)")
            if case .success = first { #expect(standing.lifeCycle?.active == sites.target.host.id) }
            guard wasReached else { return #expect(call > 8) }
        }
    }

    /// What the source publishes until the claim counts, whatever was looked at before.
    @Test func theSourcePublishesBetweenPrerequisitesAndClaim() throws {
        for call in stride(from: 1, through: 40, by: 3) {
            let sites = try FailoverSites(disks: ["data"])
            sites.target.store.interrupt(at: call, .runs { [unowned sites] in _ = try? { try sites.write(7); try sites.upload() }() })
            let report = try sites.run(sites.target)
            #expect(try sites.newest() == Set(report.disks.map(\.point.sequence)), "call \(call)")
            guard sites.target.store.calls >= call else { return }
        }
    }

    @Test func aCollectionMeanwhileTakesNothingAway() throws {
        let sites = try FailoverSites(disks: ["data"])
        sites.target.store.interrupt(at: 12, .runs { [unowned sites] in _ = try? Collector(vault: try sites.open(sites.store)).run() })
        let report = try sites.run(sites.target)
        _ = try Collector(vault: try sites.open(sites.store)).run()
        let standing = try sites.standing()
        for point in report.disks {
            let history = try #require(DiskHistory.newest(try sites.open(sites.store), point.disk))
            #expect(try history.plan(at: point.point.sequence).sequence == point.point.sequence)
        }
        #expect(standing.head.collectionEpoch >= 1)
    }

    /// Nobody uploads from a failover until it is reprotected, which may take weeks: what is garbage goes all the same.
    @Test func noCollectionWaitsForAGroupThatIsFailedOver() throws {
        let sites = try FailoverSites(disks: ["data"])
        let vault = try sites.open(sites.store)
        try sites.write(2)
        try sites.upload()
        func collect(_ what: String) throws {
            try Array(what.utf8).withUnsafeBytes { _ = try vault.putChunk($0, as: vault.chunkRef(of: $0, epoch: 1)) }
            let report = try Collector(vault: vault).run()
            #expect(report.waiting.isEmpty && report.deletedObjects > 0, "\(what): \(report)")
            let disk = try vault.disk("data")
            let history = try #require(try DiskHistory.newest(vault, disk))
            for point in try sites.standing().lifeCycle?.points ?? [] { _ = try PointReader(PointSources(vault: vault), disk: disk.id, plan: try history.plan(at: point.sequence)) }
        }
        try sites.run(sites.target)
        try collect("failed over")
        _ = try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false)
        try collect("taken back")
        // The source takes part again.
        #expect(try sites.upload().isEmpty)
        try sites.write(3)
        #expect(try sites.upload().isEmpty)
        #expect(try sites.standing().head.writer.isReleased == nil && sites.standing().head.collectionEpoch == vault.catalog().document.collectionEpoch)
        try sites.run(sites.target)
        try collect("failed over again")
        _ = try sites.failovers(sites.target).commit(FailoverSites.unit, keepsPoints: false)
        try collect("committed")
    }

    /// Below the window a point is a map: the disk could not be replicated again.
    @Test func aPointBelowTheWindowIsRefused() throws {
        let sites = try FailoverSites(disks: ["data"])
        let vault = try sites.open(sites.store)
        let old = try #require(try sites.newest().min())
        try sites.write(2)
        try sites.upload()
        let chain = vault.heads(group: try sites.standing().unit.group)
        try chain.edit { head throws(VaultError) in
            head.pins = [Head.Pin(name: "old", disk: head.disks[0].disk, sequence: old, timeMicros: 1, reason: "", untilMicros: nil)]
            try Retention(vault: vault, thinning: Thinning(rules: []), epoch: head.collectionEpoch).pruning(of: head, try vault.catalog().document)?.apply(to: &head)
        }
        #expect(try sites.standing().head.disks[0].oldestSequence > old)
        let failure = #expect(throws: VaultError.self) { try sites.run(sites.target, at: "#\(old)") }
        #expect(failure?.description.contains("could not be replicated again") == true, "\(String(describing: failure))")
        #expect(try sites.standing().state == .replicating)
        try sites.run(sites.target)
        #expect(throws: VaultError.self) { try sites.failovers(sites.target).changePoint(FailoverSites.unit, to: .sequence(old), startCommand: nil, seconds: 1) }
    }

    // Promise T3: A failover that is killed at any step is continued by the same command, or taken back; taken back, the source replicates on.
    /// The vault goes away at each request in turn, before or after it is carried out: the same command continues, or it is taken back.
    @Test(arguments: [false, true]) func aRunThatIsKilledAtAnyRequestContinuesOrIsTakenBack(isAnswerLost: Bool) throws {
        for call in 1...60 {
            let sites = try FailoverSites(disks: ["data"])
            let sent = try sites.newest()
            sites.target.store.interrupt(at: call, isAnswerLost ? .diesAfter : .dies)
            let first = Result { try sites.run(sites.target) }
            guard sites.target.store.calls >= call else {
                guard case .success = first else { Issue.record("\(first)"); return }
                return #expect(call > 8)
            }
            sites.target.store.interrupt(at: .max, .dies)
            // Each request is met by both, over the two arguments.
            if call.isMultiple(of: 2) == isAnswerLost {
                do { _ = try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false) } catch let error as FailoverError where error.code == .notFound {}
                #expect(try sites.standing().state == .replicating && sites.target.disks.withLock { $0.isEmpty }, "call \(call)")
                #expect(try sites.standing().head.pins == nil)
                try sites.write(4)
                #expect(try sites.upload().isEmpty, "call \(call)")
            } else {
                let report = try sites.run(sites.target)
                #expect(report.state == .failedOver && Set(report.disks.map(\.point.sequence)) == sent, "call \(call)")
                #expect(try sites.standing().lifeCycle?.active == sites.target.host.id)
            }
        }
    }

    enum Ending: CaseIterable { case prepare, cancelPrepared, changePoint, commit, cancel }

    /// The same for what comes before and after a run: the same command once more ends where it would have.
    @Test(arguments: Ending.allCases) func aCommandThatIsKilledAtAnyRequestIsContinued(ending: Ending) throws {
        for call in 1...60 {
            let sites = try FailoverSites(disks: ["data"])
            let first = try sites.newest().min()!
            try sites.write(2)
            try sites.upload()
            let host = ending == .prepare || ending == .cancelPrepared ? sites.source : sites.target
            if ending == .cancelPrepared { try sites.prepare() } else if host === sites.target { try sites.run(sites.target) }
            let command = {
                let failovers = try sites.failovers(host)
                switch ending {
                case .prepare: try sites.prepare()
                case .changePoint:
                    // Done already: its disks may have been written to.
                    do { _ = try failovers.changePoint(FailoverSites.unit, to: .sequence(first), startCommand: nil, seconds: 1) } catch let error as FailoverError where error.code == .notNow {}
                case .commit: _ = try failovers.commit(FailoverSites.unit, keepsPoints: false)
                case .cancel, .cancelPrepared:
                    // Done already: there is nothing left of it.
                    do { _ = try failovers.cancel(FailoverSites.unit, isLost: false) } catch let error as FailoverError where error.code == .notFound {}
                }
            }
            host.store.interrupt(at: call, call.isMultiple(of: 2) ? .dies : .diesAfter)
            let killed = Result { try command() }
            guard host.store.calls >= call else {
                guard case .success = killed else { Issue.record("\(killed)"); return }
                return #expect(call > 4)
            }
            host.store.interrupt(at: .max, .dies)
            try command()
            let standing = try sites.standing()
            switch ending {
            case .prepare: #expect(standing.state == .prepared && standing.lifeCycle?.points?.first?.sequence == standing.head.disks.first?.newestSequence, "call \(call)")
            case .changePoint: #expect(standing.state == .failedOver && host.disks.withLock { $0["data"] } == first, "call \(call)")
            case .commit: #expect(standing.state == .committed && standing.head.disks.first?.oldestSequence == standing.lifeCycle?.points?.first?.sequence, "call \(call)")
            case .cancel, .cancelPrepared:
                #expect(standing.state == .replicating && standing.lifeCycle?.active == sites.source.host.id && host.disks.withLock { $0.isEmpty }, "call \(call)")
                #expect(try Catalogue(site: sites.source.site).disks().allSatisfy { $0.held == nil })
                #expect(try sites.upload().isEmpty, "call \(call)")
            }
        }
    }

    @Test(arguments: ["make", "made", "serve", "release", "remove"]) func aRunThatIsKilledInAnActionContinuesOrIsTakenBack(action: String) throws {
        let sites = try FailoverSites()
        sites.target.dying.withLock { $0 = action }
        _ = try? sites.run(sites.target)
        _ = try? sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false)
        sites.target.dying.withLock { $0 = nil }
        if try sites.standing().state != .replicating {
            #expect(try sites.run(sites.target).state == .failedOver)
            #expect(sites.target.disks.withLock { $0.count } == 2)
            _ = try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false)
        }
        #expect(try sites.standing().state == .replicating && sites.target.disks.withLock { $0.isEmpty })
        #expect(try sites.upload().isEmpty)
    }

    /// What is in the way of the recovery disks is found before the source is fenced; what fails after that says that it is.
    @Test func aRunThatFailsSaysWhetherTheSourceIsFenced() throws {
        let sites = try FailoverSites()
        let taken = sites.target.site.path + "/recovery/log.raw.log"
        try FileManager.default.createDirectory(atPath: taken, withIntermediateDirectories: true)
        let early = #expect(throws: SiteError.self) { try sites.run(sites.target) }
        #expect(early?.message.contains(taken) == true)
        #expect(try sites.standing().state == .replicating && sites.upload().isEmpty)
        // What a killed making left is made anew.
        try Data().write(to: URL(fileURLWithPath: taken + "/making"))
        sites.target.dying.withLock { $0 = "make" }
        let late = #expect(throws: FencedFailure.self) { try sites.run(sites.target) }
        #expect(late?.description.contains("the source of shop is fenced (failingOver since 2") == true && late?.cause is StoreError, "\(String(describing: late))")
        #expect(late?.remedy.contains("farshore failover cancel shop") == true)
        #expect(try Catalogue(site: sites.target.site).jobs().first?.remedy == late?.remedy)
    }

    @Test func anotherPointAndCommit() throws {
        let sites = try FailoverSites()
        let first = try sites.newest()
        try sites.write(2)
        try sites.upload()
        try sites.run(sites.target)
        let chosen = try sites.failovers(sites.target).changePoint(FailoverSites.unit, to: .sequence(first.min()!), startCommand: nil, seconds: 1)
        #expect(Set(chosen.disks.map(\.point.sequence)) == first && sites.target.disks.withLock { Set($0.values) } == first)
        let drills = try DrillReport(try sites.open(sites.store), sinceMicros: 0, limit: 10).entries
        #expect(drills.map(\.event) == [.failover, .changePoint] && Set(drills[1].drill.disks.map(\.sequence)) == first && drills[1].verdict == .unchecked)
        let committed = try sites.failovers(sites.target).commit(FailoverSites.unit, keepsPoints: false)
        #expect(committed.state == .committed)
        // The window begins at what the recovery disks begin with, not later: from there it can be reprotected.
        #expect(Set(committed.head.disks.map(\.oldestSequence)) == first)
        #expect(throws: FailoverError.self) { try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false) }
        #expect(throws: FailoverError.self) { try sites.failovers(sites.target).changePoint(FailoverSites.unit, to: .latest, startCommand: nil, seconds: 1) }
        #expect(sites.target.disks.withLock { $0.count } == 2)
    }

    /// Its disks stand on the old point until they are gone: what they are not filled with yet is nowhere else.
    @Test(arguments: ["make", "release"]) func anotherPointThatWasNotReachedIsNotCommitted(action: String) throws {
        let sites = try FailoverSites(disks: ["data"])
        let first = try sites.newest().min()!
        try sites.write(2)
        try sites.upload()
        let second = try sites.newest().min()!
        try sites.run(sites.target, at: "#\(first)")
        let failovers = try sites.failovers(sites.target)
        // A guest that opens a disk after it was looked at: the second release is refused.
        if action == "release" { sites.target.left.withLock { $0[action] = 1 } } else { sites.target.dying.withLock { $0 = action } }
        #expect(throws: FencedFailure.self) { try failovers.changePoint(FailoverSites.unit, to: .sequence(second), startCommand: nil, seconds: 1) }
        sites.target.left.withLock { $0 = [:] }
        sites.target.dying.withLock { $0 = nil }
        #expect(throws: FailoverError.self) { try failovers.commit(FailoverSites.unit, keepsPoints: false) }
        let standing = try sites.standing()
        #expect(standing.state == .failingOver && Set(standing.head.pins?.map(\.sequence) ?? []) == [first, second])
        // Back to the old one, or on to the new one.
        if action == "release" {
            #expect(sites.target.disks.withLock { $0["data"] } == first)
            _ = try failovers.changePoint(FailoverSites.unit, to: .sequence(first), startCommand: nil, seconds: 1)
        } else {
            try sites.run(sites.target)
        }
        let chosen = action == "release" ? first : second
        #expect(sites.target.disks.withLock { $0["data"] } == chosen)
        #expect(try sites.standing().head.pins?.map(\.sequence) == [chosen])
        let committed = try failovers.commit(FailoverSites.unit, keepsPoints: false)
        #expect(committed.state == .committed && committed.head.disks.first?.oldestSequence == chosen)
    }

    /// The vault of a failover is known by its unit's name, wherever it is.
    @Test func aFailoverFollowsItsVault() throws {
        let sites = try FailoverSites(disks: ["data"])
        try sites.run(sites.target)
        let catalogue = try Catalogue(site: sites.target.site)
        try catalogue.retarget(vault: try sites.open(sites.store).id.description, url: "file:///elsewhere", keyFile: "/key", passphraseFile: nil)
        let record = try #require(try catalogue.openFailovers(.failover).first)
        #expect(record.vaultURL == "file:///elsewhere" && record.keyFile == "/key")
    }

    @Test func aLostTargetIsGivenUpElsewhere() throws {
        let sites = try FailoverSites()
        try sites.run(sites.target)
        #expect(throws: FailoverError.self) { try sites.run(sites.third) }
        #expect(throws: FailoverError.self) { try sites.failovers(sites.source).cancel(FailoverSites.unit, isLost: false) }
        #expect(try sites.failovers(sites.third).cancel(FailoverSites.unit, isLost: true).state == .replicating)
        #expect(try sites.upload().isEmpty)
        // When it comes back after all, what was written there is not thrown away unasked.
        let kept = #expect(throws: FailoverError.self) { try sites.run(sites.target) }
        #expect(kept?.code == .prerequisite && sites.target.disks.withLock { $0.count } == 2)
        #expect(try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false).state == .replicating)
        #expect(sites.target.disks.withLock { $0.isEmpty })
        #expect(try sites.run(sites.third).state == .failedOver)
    }

    @Test func commandsAreToldAndTheirFailureIsSaid() throws {
        let sites = try FailoverSites()
        let out = sites.folder + "/started"
        let failure = #expect(throws: FailoverError.self) {
            try sites.run(sites.target, source: "echo unreachable; exit 3", start: "echo $FARSHORE_MACHINE $FARSHORE_DISKS $FARSHORE_DISK_1 $FARSHORE_DISK_2 > \(out); exit 4")
        }
        #expect(failure?.code == .incomplete && failure?.message.contains("exited 4") == true)
        #expect(try String(contentsOfFile: out, encoding: .utf8) == "shop 2 /mnt/data /mnt/log\n")
        #expect(try sites.standing().state == .failedOver)
        let job = try #require(try Catalogue(site: sites.target.site).jobs().first)
        #expect(job.state == .failed && job.steps.first { $0.name == "source" }?.detail?.contains("unreachable") == true)
        let report = try sites.run(sites.target, start: "true")
        #expect(report.errors.isEmpty && report.started == [FailoverSites.unit])
        // Both are rehearsals that happened, the first a bad one; what is said a third time is none.
        try sites.run(sites.target, start: "true")
        let drills = try DrillReport(try sites.open(sites.store), sinceMicros: 0, limit: 10).entries
        #expect(drills.map(\.event) == [.failover, .failover] && drills.map(\.drill.isGood) == [false, true])
        #expect(drills.first?.drill.note.contains("exited 4") == true && drills.allSatisfy { $0.drill.disks.count == 2 && $0.drill.unit == FailoverSites.unit })
    }

    /// A unit that is over already is not started twice, and keeps its point until another is chosen.
    @Test func aRunThatIsSaidAgainStartsOnlyWhatWasNotStarted() throws {
        let sites = try FailoverSites(disks: ["data"])
        let first = try sites.newest().min()!
        try sites.write(2)
        try sites.upload()
        let out = sites.folder + "/started"
        func starts() throws -> Int { try String(contentsOfFile: out, encoding: .utf8).count }
        #expect(try sites.run(sites.target).isRepeated == false)
        // None was given yet.
        let now = try sites.run(sites.target, start: "printf x >> \(out)")
        #expect(now.isRepeated && now.started == [FailoverSites.unit])
        let again = try sites.run(sites.target, at: "latest", start: "printf x >> \(out)")
        #expect(try again.isRepeated && again.started.isEmpty && starts() == 1)
        let refusal = #expect(throws: FailoverError.self) { try sites.run(sites.target, at: "#\(first)") }
        #expect(refusal?.code == .notNow && refusal?.remedy == "farshore failover change-point shop --at #\(first)", "\(String(describing: refusal))")
        #expect(throws: FailoverError.self) { try sites.run(sites.target, folder: sites.folder + "/elsewhere") }
        #expect(try Catalogue(site: sites.target.site).events(limit: 50).count { $0.text.contains("was failed over to this host") } == 1)
        // Other disks are another start; its point is the one to be said again.
        _ = try sites.failovers(sites.target).changePoint(FailoverSites.unit, to: .sequence(first), startCommand: "printf x >> \(out)", seconds: 5)
        #expect(throws: FailoverError.self) { try sites.run(sites.target, at: "latest") }
        #expect(try sites.run(sites.target, at: "#\(first)", start: "printf x >> \(out)").started.isEmpty && starts() == 2)
    }

    /// The empty disks of a machine go with the others, and what somebody else put there stays.
    @Test func aFailoverThatIsTakenBackLeavesNoEmptyDisks() throws {
        let sites = try FailoverSites(disks: ["data"])
        var settings = MachineSettings(name: FailoverSites.unit)
        settings.disks = [.init(name: "swap", excludedSizeBytes: 1 << 20)]
        try sites.open(sites.store).updateCatalog { [settings] in $0.machines = [settings] }
        let folder = sites.target.site.path + "/recovery"
        let empty = folder + "/empty/swap.raw"
        for isForeign in [true, false] {
            try sites.run(sites.target, start: "test $FARSHORE_DISKS = 2")
            #expect(FileManager.default.fileExists(atPath: empty))
            if isForeign { try Data().write(to: URL(fileURLWithPath: folder + "/empty/own")) }
            _ = try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false)
            #expect(!FileManager.default.fileExists(atPath: empty) && FileManager.default.fileExists(atPath: folder) == isForeign)
            if isForeign { try FileManager.default.removeItem(atPath: folder + "/empty/own") }
        }
    }

    /// A failover that stopped is in the report as well.
    @Test func aFailoverThatFailedIsInTheDrillReport() throws {
        let sites = try FailoverSites(disks: ["data"])
        sites.target.dying.withLock { $0 = "make" }
        #expect(throws: FencedFailure.self) { try sites.run(sites.target) }
        sites.target.dying.withLock { $0 = nil }
        try sites.run(sites.target)
        let drills = try DrillReport(try sites.open(sites.store), sinceMicros: 0, limit: 10).entries.map(\.drill)
        #expect(drills.map(\.isGood) == [false, true] && drills.map(\.disks.count) == [0, 1], "\(drills)")
        #expect(drills[0].note.contains("the process is gone in make") && drills[0].behindMicros == nil && drills[1].behindMicros != nil)
        #expect(drills[1].verdict == .unchecked, "nothing was started")
    }

    /// What goes is counted before it goes; a pinned point is none of it.
    @Test func aCommitSaysHowManyPointsGo() throws {
        let sites = try FailoverSites()
        for value in 2...5 {
            try sites.write(UInt8(value))
            try sites.upload()
        }
        let vault = try sites.open(sites.store)
        /// Time and sequence of what is listed.
        func points() throws -> [[UInt64]] {
            let shared = try SharedPoints(vault, of: try vault.disk("data"))
            return Set(try shared.members.flatMap { try shared.points(of: $0.disk.id) }.map { [$0.point.timeMicros, $0.point.sequence] }).sorted { $0[1] < $1[1] }
        }
        let all = try points()
        #expect(all.count >= 5)
        let kept = all[all.count - 3][1]
        _ = try vault.pin(try vault.disk("data"), sequence: kept, name: "kept", reason: "", spanMicros: nil)
        try sites.run(sites.target)
        var told: Failovers.PointsBefore?
        _ = try sites.failovers(sites.target).commit(FailoverSites.unit, keepsPoints: false) { told = $0 }
        let left = try points()
        #expect(left.contains { $0[1] == kept } && told?.count == all.count - left.count, "\(all), left \(left), \(String(describing: told))")
        #expect(told?.oldestMicros == all.filter { !left.contains($0) }.map { $0[0] }.min())
    }

    /// Said again after the first one has ended, a commit lets nothing go that it kept.
    @Test func aCommitThatIsSaidAgainKeepsThePoints() throws {
        let sites = try FailoverSites(disks: ["data"])
        let first = try sites.newest().min()!
        try sites.write(2)
        try sites.upload()
        try sites.run(sites.target)
        let failovers = try sites.failovers(sites.target)
        #expect(try failovers.pointsBefore(try sites.standing()).count == 1)
        _ = try failovers.commit(FailoverSites.unit, keepsPoints: true) { _ in Issue.record("nothing goes") }
        let again = try failovers.commit(FailoverSites.unit, keepsPoints: false) { _ in Issue.record("nothing goes") }
        #expect(again.state == .committed && again.head.disks.first?.oldestSequence ?? .max <= first)
    }

    @Test func oneDiskOfAMachineIsNotFailedOverAlone() throws {
        let sites = try FailoverSites()
        let standing = try sites.standing()
        #expect(standing.unit.disks.map(\.name) == ["data", "log"])
        let one = try FailoverUnit("data", in: standing.catalog)
        #expect(throws: FailoverError.self) { try one.refusePart() }
        #expect(throws: FailoverError.self) { try FailoverUnit("nothing", in: standing.catalog) }
    }

    @Test func theChoicesOfPointsHaveTheirTimes() throws {
        let sites = try FailoverSites()
        let standing = try sites.standing()
        let choices = try PointChoices.all(of: standing.unit, standing.head, standing.catalog, in: try sites.open(sites.store))
        #expect(choices.map(\.name).starts(with: PointChoices.common))
        let latest = try #require(choices.first)
        #expect(Set(latest.points.map(\.sequence)) == (try sites.newest()) && latest.timesMicros.allSatisfy { $0 ?? 0 > 0 })
        #expect(choices.first { $0.name == "latest-app-consistent" }?.obstacle?.contains("no app-consistent point") == true)
        // Of a state that is no point: that of its newest write.
        usleep(50_000)
        let before = UInt64(Date().timeIntervalSince1970 * 1_000_000)
        for disk in sites.disks.values { try [UInt8](repeating: 3, count: 4096).withUnsafeBytes { try disk.write($0, at: 0, sequenceSlot: nil) } }
        try sites.upload()
        let later = try sites.standing()
        let now = try #require(try PointChoices.all(of: later.unit, later.head, later.catalog, in: try sites.open(sites.store)).first)
        #expect(now.timesMicros.allSatisfy { $0 ?? 0 >= before }, "\(now.timesMicros), written after \(before)")
    }
}
