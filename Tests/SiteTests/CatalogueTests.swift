import BlockIO
import Foundation
import GRDB
import Site
import Synchronization
import Testing

@Suite struct CatalogueTests {
    @Test func disksSurviveReopening() throws {
        let site = try TemporarySite()
        var disk = makeDisk("a")
        try site.catalogue().add(disk)
        try site.catalogue().setPaused(true, disk: "a")
        disk.isPaused = true
        #expect(try site.catalogue().disks() == [disk])
        #expect(try site.catalogue().replication(ofDisk: "a").phase == .waiting)
        try site.catalogue().remove(disk: "a")
        #expect(try site.catalogue().disks().isEmpty)
        #expect(throws: SiteError.self) { try site.catalogue().replication(ofDisk: "a") }
    }

    @Test(arguments: ["name", "image", "log"])
    func aSecondDiskMayShareNothing(_ field: String) throws {
        let catalogue = try TemporarySite().catalogue()
        try catalogue.add(makeDisk("a"))
        var second = makeDisk("b")
        if field == "name" { second.name = "a" }
        if field == "image" { second.imagePath = "/images/a" }
        if field == "log" { second.logFolder = "/logs/a" }
        #expect { try catalogue.add(second) } throws: { ($0 as? SiteError)?.code == .diskExists }
    }

    @Test func replicationStateKeepsEveryField() throws {
        let catalogue = try TemporarySite().catalogue()
        try catalogue.add(makeDisk("a"))
        var state = try catalogue.replication(ofDisk: "a")
        state.phase = .delta
        state.lineage = "l"
        state.provenSequence = UInt64.max
        state.provenAtNanoseconds = 7
        state.headNumber = 3
        state.writerEpoch = 2
        state.failures = 4
        state.nextAttemptNanoseconds = 9
        state.health = .critical
        state.error = "e"
        state.remedy = "r"
        try catalogue.setReplication(state, ofDisk: "a")
        #expect(try catalogue.replication(ofDisk: "a") == state)
    }

    @Test func severalMakeOneCatalogueAtTheSameTime() throws {
        for _ in 0..<5 {
            let site = try TemporarySite()
            let directory = site.directory
            let failures = Mutex<[String]>([])
            forEachInParallel(Array(0..<6), threads: 6) { _ in
                do { _ = try Catalogue(site: directory) } catch { failures.withLock { $0.append("\(error)") } }
            }
            #expect(failures.withLock { $0 } == [])
        }
    }

    @Test func aNewerCatalogueIsRefused() throws {
        let site = try TemporarySite()
        _ = try site.catalogue()
        let raw = try DatabaseQueue(path: site.directory.cataloguePath)
        try raw.write { try $0.execute(sql: "INSERT INTO grdb_migrations (identifier) VALUES ('99 later')") }
        #expect { try site.catalogue() } throws: { ($0 as? SiteError)?.code == .catalogueNewer }
    }

    @Test func aDamagedCatalogueIsNamed() throws {
        let site = try TemporarySite()
        try Data(repeating: 0x41, count: 8192).write(to: URL(fileURLWithPath: site.directory.cataloguePath))
        #expect { try site.catalogue() } throws: { ($0 as? SiteError)?.code == .catalogueDamaged }
    }

    @Test func oneHolderALock() throws {
        let site = try TemporarySite()
        let path = site.directory.uploadLockPath
        #expect(try !SiteLock.isTaken(path))
        var first = try SiteLock.tryTake(path)
        #expect(first != nil)
        #expect(try SiteLock.tryTake(path) == nil)
        #expect(try SiteLock.isTaken(path))
        first = nil
        #expect(try !SiteLock.isTaken(path))
    }

    @Test func eventsAreKeptToALimitAndReadInOrder() throws {
        let catalogue = try TemporarySite().catalogue()
        for number in 0..<5 { try catalogue.record(.warning, disk: number % 2 == 0 ? "a" : nil, "event \(number)") }
        #expect(try catalogue.events(limit: 3).map(\.text) == ["event 2", "event 3", "event 4"])
        #expect(try catalogue.events(limit: 10, disk: "a").map(\.text) == ["event 0", "event 2", "event 4"])
    }
}
