// Test failovers: what they leave alone, several at once, what fails, what is cleaned up and what is forgotten.

import BlockIO
import Failover
import Foundation
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

    private func request(_ name: String, check: String? = nil, unit: String = FailoverSites.unit) -> TestRequest {
        TestRequest(
            unit: unit, name: name, point: .latest, pointText: "latest", vaultURL: "", keyFile: nil, passphraseFile: nil, startCommand: nil, checkCommand: check,
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
        // From now on a failover does not warn that it was never tested.
        #expect(try sites.run(sites.target).warnings.isEmpty)
    }

    @Test func aCheckThatFailsLeavesTheTestToBeLookedInto() throws {
        let sites = try FailoverSites()
        let tests = try tests(sites)
        let failure = #expect(throws: FailoverError.self) { try tests.run(request("bad", check: "echo no database; exit 2")) }
        #expect(failure?.message.contains("no database") == true)
        let catalogue = try Catalogue(site: sites.target.site)
        let record = try #require(try catalogue.openFailovers(.test).first)
        #expect(mounted.withLock { $0.count } == 1)
        #expect(try catalogue.forgottenTests().isEmpty)
        // Old enough at once: an event, once.
        #expect(try catalogue.forgottenTests(days: 0).map(\.name) == ["bad"])
        #expect(try catalogue.forgottenTests(days: 0).count == 1)
        #expect(try catalogue.events(limit: 50).filter { $0.text.contains("older than") }.count == 1)
        try tests.cleanUp(record, notes: nil)
        try tests.cleanUp(record, notes: nil)
        #expect(try sites.standing().head.pins == nil)
    }
}
