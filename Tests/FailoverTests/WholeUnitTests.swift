// The disks of a unit are made and taken away all together: what a refusal, or a kill between two of them, leaves is never taken for the unit.

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

@Suite struct WholeUnitTests {
    /// Failed over to the second of two points; the first one's sequence.
    private func failedOver(_ sites: FailoverSites) throws -> UInt64 {
        let first = try #require(try sites.newest().min())
        try sites.write(2)
        try sites.upload()
        try sites.run(sites.target)
        return first
    }

    private func cancelKilledBetweenTwoDisks(_ sites: FailoverSites) throws -> Failovers {
        _ = try failedOver(sites)
        let failovers = try sites.failovers(sites.target)
        sites.target.left.withLock { $0["remove"] = 1 }
        #expect(throws: StoreError.self) { try failovers.cancel(FailoverSites.unit, isLost: false) }
        sites.target.left.withLock { $0 = [:] }
        return failovers
    }

    @Test func aCancelThatIsRefusedRemovesNone() throws {
        let sites = try FailoverSites()
        _ = try failedOver(sites)
        // A guest has the second disk.
        sites.target.left.withLock { $0["release"] = 1 }
        #expect(throws: StoreError.self) { try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false) }
        sites.target.left.withLock { $0 = [:] }
        #expect(sites.target.disks.withLock { $0.count } == 2)
        #expect(try sites.run(sites.target).isRepeated)
        #expect(try sites.failovers(sites.target).commit(FailoverSites.unit, keepsPoints: true).state == .committed)
    }

    /// Guests may have written on what is left, so nothing but the cancel goes on.
    @Test func aCancelThatIsKilledBetweenTwoDisksGoesOn() throws {
        let sites = try FailoverSites()
        let failovers = try cancelKilledBetweenTwoDisks(sites)
        #expect(sites.target.disks.withLock { $0.count } == 1)
        for attempt in [{ _ = try sites.run(sites.target) }, { _ = try failovers.commit(FailoverSites.unit, keepsPoints: false) }] {
            let failure = #expect(throws: FailoverError.self) { try attempt() }
            #expect(failure?.message.contains("is not on this site any more") == true && failure?.remedy.hasPrefix("farshore failover cancel shop goes on") == true, "\(String(describing: failure))")
        }
        #expect(sites.target.disks.withLock { $0.count } == 1)
        #expect(try failovers.cancel(FailoverSites.unit, isLost: false).state == .replicating)
        #expect(sites.target.disks.withLock { $0.isEmpty })
        #expect(try sites.run(sites.target).state == .failedOver)
    }

    /// What the vault was told to forget is none of the unit: what guests wrote on the others is not given up for it.
    @Test func aUnitGoesOnWithoutADiskThatWasForgotten() throws {
        let sites = try FailoverSites()
        let failovers = try cancelKilledBetweenTwoDisks(sites)
        let missing = try #require(sites.disks.keys.first { name in sites.target.disks.withLock { $0[name] == nil } })
        let failure = #expect(throws: FailoverError.self) { try failovers.commit(FailoverSites.unit, keepsPoints: true) }
        #expect(failure?.remedy.contains("farshore vault forget \(missing)") == true, "\(String(describing: failure))")
        _ = try sites.open(sites.store).forget(missing)
        #expect(try sites.failovers(sites.target).commit(FailoverSites.unit, keepsPoints: true).state == .committed)
    }

    /// No guest began on the disks of a failover that has not ended: a run makes all of them anew.
    @Test func aRunGoesOnFromACancelThatWasKilledBetweenTwoDisks() throws {
        let sites = try FailoverSites()
        sites.target.dying.withLock { $0 = "made" }
        #expect(throws: FencedFailure.self) { try sites.run(sites.target) }
        sites.target.dying.withLock { $0 = nil }
        sites.target.left.withLock { $0["remove"] = 1 }
        #expect(throws: StoreError.self) { try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false) }
        sites.target.left.withLock { $0 = [:] }
        #expect(try sites.standing().state == .failingOver && sites.target.disks.withLock { $0.count } == 1)
        #expect(try sites.run(sites.target).state == .failedOver)
        #expect(sites.target.disks.withLock { $0.count } == 2)
    }

    /// Its disks would stay, with what is to be given up.
    @Test func thePointThatItStandsOnIsNoOtherPoint() throws {
        let sites = try FailoverSites()
        let first = try failedOver(sites)
        let failovers = try sites.failovers(sites.target)
        let second = try #require(sites.target.disks.withLock { $0["data"] })
        for point in ["latest", "#\(second)"] {
            let refusal = #expect(throws: FailoverError.self) { try failovers.changePoint(FailoverSites.unit, to: PointName(point)!, startCommand: nil, seconds: 1) }
            #expect(refusal?.code == .notNow && refusal?.message.contains("stands on that point already") == true, "\(String(describing: refusal))")
            #expect(refusal?.remedy.contains("farshore failover run shop --at \(point)") == true, "\(String(describing: refusal))")
        }
        #expect(try sites.standing().state == .failedOver && sites.target.disks.withLock { Set($0.values) } == [second])
        _ = try failovers.changePoint(FailoverSites.unit, to: .sequence(first), startCommand: nil, seconds: 1)
        #expect(sites.target.disks.withLock { Set($0.values) } == [first])
    }

    /// Killed between two removals, or with one disk that has the same state under both points.
    @Test(arguments: [false, true]) func aChangeOfPointMakesAllDisksAnew(isKilled: Bool) throws {
        let sites = try FailoverSites()
        let first = try failedOver(sites)
        let failovers = try sites.failovers(sites.target)
        if isKilled {
            sites.target.left.withLock { $0["remove"] = 1 }
            #expect(throws: FencedFailure.self) { try failovers.changePoint(FailoverSites.unit, to: .sequence(first), startCommand: nil, seconds: 1) }
            sites.target.left.withLock { $0 = [:] }
            #expect(try sites.standing().state == .failingOver && sites.target.disks.withLock { $0.count } == 1)
            try sites.run(sites.target)
        } else {
            let catalogue = try Catalogue(site: sites.target.site)
            let run = try #require(try catalogue.openFailovers(.failover).first).run
            let log = try #require(try catalogue.disks(ofFailover: run).first { $0.name == "log" })
            try catalogue.note([FailoverRecord.Disk(name: log.name, id: log.id, lineage: log.lineage, sequence: first)], ofFailover: run)
            sites.target.disks.withLock { $0["log"] = first }
            _ = try failovers.changePoint(FailoverSites.unit, to: .sequence(first), startCommand: nil, seconds: 1)
        }
        #expect(sites.target.disks.withLock { $0 } == ["data": first, "log": first])
        #expect(try sites.standing().state == .failedOver)
        #expect(try failovers.commit(FailoverSites.unit, keepsPoints: true).state == .committed)
    }

    /// Another host may take it over at any time: nobody serves a disk again because the same command was said twice.
    @Test func aPreparedUnitStaysHeldWhenItsPreparationIsRefused() throws {
        let sites = try FailoverSites()
        try sites.prepare()
        sites.source.dying.withLock { $0 = "release" }
        #expect(throws: StoreError.self) { try sites.prepare() }
        #expect(try Catalogue(site: sites.source.site).disks().allSatisfy { $0.held != nil })
        sites.source.dying.withLock { $0 = nil }
        #expect(try sites.run(sites.target, planned: true).state == .failedOver)
    }

    @Test func aRefusedPreparationLetsGoOfWhatItHeldItself() throws {
        let sites = try FailoverSites()
        let catalogue = try Catalogue(site: sites.source.site)
        try catalogue.hold(disk: "data", reason: "somebody else's")
        sites.source.dying.withLock { $0 = "release" }
        #expect(throws: StoreError.self) { try sites.prepare() }
        #expect(try catalogue.disk(named: "data").held == "somebody else's" && catalogue.disk(named: "log").held == nil)
    }

    /// A recovery volume that is away for a moment has no recovery point to be filled from: its image may need the pins all the same.
    @Test func pinsOfAFillingStayWhileALogIsAway() throws {
        let sites = try FailoverSites()
        try sites.run(sites.target)
        _ = try sites.failovers(sites.target).cancel(FailoverSites.unit, isLost: false)
        let name = Head.Pin.failoverPrefix + "left"
        try sites.open(sites.store).heads(group: try sites.standing().unit.group).edit { head throws(VaultError) in
            head.pins = [Head.Pin(name: name, disk: head.disks[0].disk, sequence: head.disks[0].newestSequence, timeMicros: 1, reason: "", untilMicros: nil)]
        }
        try sites.write(2)
        let log = sites.folder + "/data.log"
        try FileManager.default.moveItem(atPath: log, toPath: log + ".away")
        let before = try sites.newest()
        #expect(try !sites.upload().isEmpty)
        #expect(try sites.newest() != before, "the other disk's log is there")
        #expect(try sites.standing().head.pins?.map(\.name) == [name])
        try FileManager.default.moveItem(atPath: log + ".away", toPath: log)
        #expect(try sites.upload().isEmpty)
        #expect(try sites.standing().head.pins == nil)
    }
}
