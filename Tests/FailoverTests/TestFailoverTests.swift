// Test failovers: what they leave alone, several at once, what fails, what is cleaned up and what is forgotten.

import BlockIO
import Failover
import Foundation
import GRDB
import RecoveryPoints
import Site
import Synchronization
import Testing
import Vault
import VaultFixtures

@Suite final class TestFailoverTests: Sendable {
    /// Mounts are noted by their site.
    private let mounted = Mutex<Set<String>>([])

    private func tests(_ sites: FailoverSites) throws -> TestFailovers {
        TestFailovers(heads: try sites.heads(sites.target), catalogue: try Catalogue(site: sites.target.site), actions: TestActions(
            make: { points, _, _ in points.map(\.disk.name) },
            mount: { [self] site in
                mounted.withLock { _ = $0.insert(site.path) }
                return site.path + "/mnt"
            },
            unmount: { [self] site in mounted.withLock { _ = $0.remove(site.path) } }))
    }

    private func request(_ name: String, start: String? = nil, check: String? = nil, unit: String = FailoverSites.unit, at point: PointName? = nil) -> TestRequest {
        TestRequest(
            unit: unit, name: name, point: point, vaultURL: "", keyFile: nil, passphraseFile: nil, startCommand: start, checkCommand: check,
            commandSeconds: 5)
    }

    @Test func severalAtOnceBesideReplication() throws {
        let sites = try FailoverSites()
        let before = try sites.standing().head
        let tests = try tests(sites)
        let first = try tests.run(request("one", check: "test $FARSHORE_TEST = one && test $FARSHORE_DISKS = 2"))
        #expect(first.disks.allSatisfy { $0.path == "\(sites.target.site.path)/tests/one/mnt/\($0.disk.name)/disk.raw" })
        try sites.write(2)
        #expect(try sites.upload().isEmpty)
        let second = try tests.run(request("two"))
        #expect(Set(second.disks.map(\.point.sequence)) != Set(first.disks.map(\.point.sequence)))
        // One machine's disk alone, and a name that is taken.
        #expect(try tests.run(request("three", unit: "data")).disks.map(\.disk.name) == ["data"])
        #expect(throws: SiteError.self) { try tests.run(request("one")) }
        let during = try sites.standing().head
        #expect(during.lifeCycle == nil && during.writer.host == before.writer.host && during.pins?.count == 5)
        let catalogue = try Catalogue(site: sites.target.site)
        for record in try catalogue.openFailovers(.test) { try tests.cleanUp(record, notes: "as it should be") }
        #expect(mounted.withLock { $0.isEmpty } && !FileManager.default.fileExists(atPath: sites.target.site.path + "/tests/one"))
        let after = try sites.standing().head
        #expect(after.pins == nil && after.lifeCycle == nil)
        #expect(try catalogue.openFailovers(.test).isEmpty)
        #expect(try catalogue.events(limit: 10).contains { $0.text.contains("as it should be") })
        let drills = try DrillReport(try sites.open(sites.store), sinceMicros: 0, limit: 10).entries
        #expect(drills.map(\.event) == [.testFailover, .testFailover, .testFailover, .testCleanup, .testCleanup, .testCleanup])
        // Only the first was looked at, and nothing was started.
        #expect(drills.map(\.verdict) == [.good, .unchecked, .unchecked, nil, nil, nil] && drills[0].drill.check.hasPrefix("test $FARSHORE_TEST"), "\(drills)")
        #expect(Set(drills.suffix(3).map(\.drill.note)) == ["one: as it should be", "two: as it should be", "three: as it should be"])
        // From now on a failover does not warn that it was never tested.
        #expect(try sites.run(sites.target).warnings.isEmpty)
    }

    /// Whatever mounted its site: who has the mount's lock serves the disks.
    @Test func aTestIsNotRemovedUnderItsMount() throws {
        let sites = try FailoverSites(disks: ["data"])
        let tests = try tests(sites)
        _ = try tests.run(request("one"))
        let record = try #require(try Catalogue(site: sites.target.site).openFailovers(.test).first)
        do {
            let mount = try #require(try SiteLock.tryTake(TestFailovers.site(of: record).mountLockPath))
            let failure = #expect(throws: FailoverError.self) { try tests.cleanUp(record, notes: nil) }
            #expect(failure?.code == .inUse && failure?.remedy.contains("farshore unmount \(record.folder)/mnt") == true, "\(String(describing: failure))")
            withExtendedLifetime(mount) {}
        }
        #expect(FileManager.default.fileExists(atPath: record.folder))
        #expect(try sites.standing().head.pins?.count == 1)
        try tests.cleanUp(record, notes: nil)
        #expect(!FileManager.default.fileExists(atPath: record.folder))
    }

    /// Killed before it could note what it was made of, it is not gone on with on some of its disks.
    @Test func aTestThatFailedBetweenTwoNotesHasAllItsDisks() throws {
        let sites = try FailoverSites()
        let tests = try tests(sites)
        let catalogue = try DatabaseQueue(path: sites.target.site.cataloguePath)
        try catalogue.write {
            try $0.execute(sql: "CREATE TRIGGER full BEFORE INSERT ON failover_disk WHEN EXISTS (SELECT 1 FROM failover_disk WHERE run = NEW.run) BEGIN SELECT RAISE(ABORT, 'full'); END")
        }
        #expect(throws: (any Error).self) { try tests.run(request("one")) }
        try catalogue.write { try $0.execute(sql: "DROP TRIGGER full") }
        #expect(try tests.run(request("one")).disks.count == 2)
    }

    @Test func aCheckThatFailsLeavesTheTestToBeLookedInto() throws {
        let sites = try FailoverSites()
        let tests = try tests(sites)
        let failure = #expect(throws: FailoverError.self) { try tests.run(request("bad", check: "echo no database; exit 2")) }
        #expect(failure?.message.contains("no database") == true)
        let catalogue = try Catalogue(site: sites.target.site)
        let record = try #require(try catalogue.openFailovers(.test).first)
        #expect(record.verdict == .bad && record.finding?.contains("no database") == true)
        #expect(mounted.withLock { $0.count } == 1)
        #expect(try catalogue.forgottenTests().isEmpty)
        // Old enough at once: an event, once.
        #expect(try catalogue.forgottenTests(days: 0).map(\.name) == ["bad"])
        #expect(try catalogue.forgottenTests(days: 0).count == 1)
        #expect(try catalogue.events(limit: 50).filter { $0.text.contains("older than") }.count == 1)
        try tests.cleanUp(record, notes: nil)
        try tests.cleanUp(record, notes: nil)
        #expect(try sites.standing().head.pins == nil)
        // The end that was said twice is one.
        #expect(try DrillReport(try sites.open(sites.store), sinceMicros: 0, limit: 10).entries.map(\.event) == [.testFailover, .testCleanup])
    }

    /// Once what failed is mended it goes on by its name: with its states, and without a second start.
    @Test func aTestThatFailedGoesOnByItsName() throws {
        let sites = try FailoverSites(disks: ["data"])
        let tests = try tests(sites)
        let (started, mended) = (sites.folder + "/started", sites.folder + "/mended")
        func request(at point: PointName? = nil) -> TestRequest { self.request("one", start: "printf x >> \(started)", check: "test -e \(mended)", at: point) }
        let failure = #expect(throws: FailoverError.self) { try tests.run(request()) }
        #expect(failure?.remedy.contains("farshore failover test shop --name one goes on") == true && failure?.remedy.contains("farshore failover cleanup one") == true)
        let first = try #require(try sites.standing().head.pins?.first?.sequence)
        try sites.write(2)
        try sites.upload()
        #expect(throws: FailoverError.self) { try tests.run(request(at: .sequence(first))) }
        try Data().write(to: URL(fileURLWithPath: mended))
        #expect(try tests.run(request()).disks.map(\.point.sequence) == [first])
        #expect(try String(contentsOfFile: started, encoding: .utf8) == "x")
        let catalogue = try Catalogue(site: sites.target.site)
        #expect(try catalogue.openFailovers(.test).map(\.verdict) == [.good])
        #expect(try sites.standing().head.pins?.map(\.sequence) == [first])
        // One that is up is not done again.
        #expect(throws: SiteError.self) { try tests.run(request()) }
        // A point that is not there leaves nothing behind, but for the report.
        #expect(throws: VaultError.self) { try tests.run(self.request("two", at: .tag("nothing"))) }
        var settings = MachineSettings(name: FailoverSites.unit)
        (settings.start, settings.check) = ("true", "test -n \"$FARSHORE_DISK_1\"")
        try sites.open(sites.store).updateCatalog { $0.set(settings) }
        let byItsSettings = try tests.run(self.request("three"))
        #expect(byItsSettings.disks.count == 1)
        try tests.cleanUp(try #require(try catalogue.openFailovers(.test).first { $0.name == "three" }), notes: nil)
        #expect(try catalogue.openFailovers(.test).map(\.name) == ["one"])
        let drills = try DrillReport(try sites.open(sites.store), sinceMicros: 0, limit: 10).entries
        #expect(drills.map(\.verdict) == [.bad, .good, .bad, .good, nil], "\(drills.map(\.drill))")
        #expect(drills[3].drill.check == settings.check && drills[4].drill.note == "three")
    }
}
