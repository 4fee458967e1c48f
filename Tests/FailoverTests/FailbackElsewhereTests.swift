// A failback to an image of its own choosing: what is there is not written over, and a start that was killed anywhere goes on or is taken back.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import Foundation
import ObjectStore
import Site
import Testing
import Vault
import VaultFixtures

@Suite struct FailbackElsewhereTests {
    /// Failed over, reprotected, and written on there; the folder for the new image is empty.
    private func away(_ seed: UInt64, format: OutputFormat = .raw) throws -> (TwoSites, image: String) {
        let sites = try TwoSites(seed: seed, format: format)
        try sites.home.close()
        try sites.failOver(planned: true)
        try sites.write(sites.away)
        try sites.upload(sites.away)
        try Directory.create(sites.folder + "/new")
        return (sites, sites.folder + "/new/db.image")
    }

    @discardableResult
    private func start(_ sites: TwoSites, to image: String?, logFolder: String? = nil) throws -> FailbackReport {
        try sites.failbacks(sites.home).start(.init(unit: TwoSites.name, image: image, logFolder: logFolder), show: { _ in })
    }

    private func bytes(_ path: String) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: path)) }

    @Test(arguments: [OutputFormat.raw, .vhdDynamic]) func toANewImage(format: OutputFormat) throws {
        let (sites, image) = try away(1, format: format)
        let before = try sites.home.entry
        let old = try bytes(before.imagePath)
        try start(sites, to: image)
        #expect(try sites.home.entry.imagePath == image && sites.home.entry.logFolder == image + ".log")
        #expect(try sites.image(sites.home) == sites.model)
        // Said again it goes on there, named or not, and nowhere else.
        try sites.write(sites.away)
        try sites.upload(sites.away)
        try start(sites, to: image)
        try start(sites, to: nil)
        #expect(try sites.image(sites.home) == sites.model)
        for other in [before.imagePath, image + "2"] {
            let refusal = #expect(throws: FailoverError.self) { try start(sites, to: other) }
            #expect(refusal?.message.contains("was begun in \(image)") == true && refusal?.remedy.contains("failback cancel") == true, "\(other)")
        }
        try sites.prepare(sites.away)
        _ = try sites.failbacks(sites.home).complete(TwoSites.name)
        _ = try sites.failovers(sites.home).commit(TwoSites.name, keepsPoints: true)
        _ = try sites.failbacks(sites.home).reprotect(TwoSites.name)
        try sites.home.open()
        try sites.write(sites.home)
        #expect(try sites.upload(sites.home).isEmpty)
        #expect(try sites.newest() == sites.model)
        #expect(try bytes(before.imagePath) == old, "the old image was changed")
    }

    /// Its mark says what the image held: a new one holds nothing.
    @Test(arguments: [true, false]) func anImageThatIsGoneIsBroughtAnew(writesOn: Bool) throws {
        let (sites, image) = try away(7)
        try start(sites, to: image)
        unlink(image)
        if writesOn {
            try sites.write(sites.away)
            try sites.upload(sites.away)
        }
        try start(sites, to: nil)
        #expect(try sites.image(sites.home) == sites.model)
        unlink(image)
        try sites.prepare(sites.away)
        _ = try sites.failbacks(sites.home).complete(TwoSites.name)
        #expect(try sites.image(sites.home) == sites.model)
    }

    @Test func whatIsThereIsNotWrittenOver() throws {
        let (sites, image) = try away(2)
        let before = try sites.home.entry
        let own = before.imagePath
        try Data([1, 2, 3]).write(to: URL(fileURLWithPath: image))
        // A link that leads nowhere is a file too.
        try FileManager.default.createSymbolicLink(atPath: image + ".link", withDestinationPath: sites.folder + "/nowhere")
        for taken in [image, image + ".link", sites.folder] {
            let refusal = #expect(throws: FailoverError.self) { try start(sites, to: taken) }
            #expect(refusal?.code == .inUse && refusal?.message.contains("is there already and is not the image of db") == true, "\(taken)")
            #expect(refusal?.remedy.contains("which reuses \(own)") == true)
        }
        // Another disk's, which is not there just now.
        try Catalogue(site: sites.home.site).add(ProtectedDisk(
            name: "other", id: String(repeating: "a", count: 32), imagePath: image + ".away", format: "raw", sizeBytes: 1 << 20, logFolder: sites.folder + "/other.log", logBudgetBytes: 64 << 20,
            vaultURL: sites.store.location, vaultID: try sites.home.entry.vaultID, keyFile: nil, passphraseFile: nil))
        #expect(throws: FailoverError.self) { try start(sites, to: image + ".away") }
        // Somebody's folder in the log's place.
        try Directory.create(image + ".new.log")
        try Data().write(to: URL(fileURLWithPath: image + ".new.log/notes"))
        let log = #expect(throws: FailoverError.self) { try start(sites, to: image + ".new") }
        #expect(log?.message.contains("\(image).new.log for its log is there already") == true)
        #expect(throws: FailoverError.self) { try start(sites, to: own, logFolder: sites.folder + "/new") }
        #expect(try sites.home.entry == before)
        #expect(try bytes(image) == Data([1, 2, 3]))
        // The disk's own image, by whatever name, is reused: what differs is fetched.
        try FileManager.default.createSymbolicLink(atPath: image + ".own", withDestinationPath: own)
        let report = try start(sites, to: image + ".own")
        #expect(report.disks[0].parted.obstacle == nil && report.disks[0].parted.image == own)
        #expect(try sites.image(sites.home) == sites.model)
    }

    @Test func oneImageIsForOneDisk() throws {
        let (sites, image) = try away(3)
        let (vault, id) = (try sites.vault(), VaultID.random())
        let group = try vault.disk(TwoSites.name).group
        _ = try vault.register(disk: id, name: "db-log", sizeBytes: 1 << 20, machine: TwoSites.name)
        _ = try vault.place(id, in: group, named: nil, machine: TwoSites.name)
        try Catalogue(site: sites.home.site).add(ProtectedDisk(
            name: "db-log", id: id.description, imagePath: sites.folder + "/log.image", format: "raw", sizeBytes: 1 << 20, logFolder: sites.folder + "/log.image.log",
            logBudgetBytes: 64 << 20, vaultURL: sites.store.location, vaultID: vault.id.description, keyFile: nil, passphraseFile: nil, machine: TwoSites.name))
        let refusal = #expect(throws: FailoverError.self) { try start(sites, to: image) }
        #expect(refusal?.message.contains("has 2 disks, and one image was named") == true && refusal?.remedy.contains("--image-folder") == true)
    }

    /// What a kill leaves before each step that is kept on the disk.
    enum Step: String, CaseIterable { case folder, unfinishedMark, mark, catalogue, partialImage, image }

    private func leave(_ step: Step, _ sites: TwoSites, _ image: String) throws {
        let (entry, log) = (try sites.home.entry, LogFolder(image + ".log"))
        try Directory.create(log.path)
        if step == .folder { return }
        try Data("{".utf8).write(to: URL(fileURLWithPath: log.path + "/failback.4711-1.new"))
        if step == .unfinishedMark { return }
        try RefreshMark(vault: VaultID(entry.vaultID)!, disk: VaultID(entry.id)!, base: nil, hasUnsent: false).store(log)
        if step == .mark { return }
        let catalogue = try Catalogue(site: sites.home.site)
        try catalogue.hold(disk: TwoSites.name, reason: "a failback to it is under way; farshore failback complete UNIT ends that")
        try catalogue.move(disk: TwoSites.name, imagePath: image, logFolder: log.path)
        if step == .catalogue { return }
        let output = try OutputImage.begin(image, format: .raw, sizeBytes: entry.sizeBytes, uniqueID: [UInt8](repeating: 1, count: 16), timeStamp: 0)
        if step == .image { try output.finish(replacing: false) }
    }

    @Test func aStartThatIsKilledAtAnyStepGoesOnOrIsTakenBack() throws {
        let (sites, image) = try away(4)
        let before = try sites.home.entry
        func takeBack(_ image: String, _ what: String) throws {
            #expect(try sites.failbacks(sites.home).cancel(TwoSites.name).begun.isEmpty, "\(what)")
            let after = try sites.home.entry
            #expect(after.imagePath == before.imagePath && after.logFolder == before.logFolder, "\(what)")
            // Nothing that takes space is left; the log's folder may be, until it is used again.
            #expect(try Directory.list(sites.folder + "/new").allSatisfy { $0.hasSuffix(".log") }, "\(what)")
        }
        for step in Step.allCases {
            try leave(step, sites, image + step.rawValue)
            try start(sites, to: image + step.rawValue)
            #expect(try sites.home.entry.imagePath == image + step.rawValue)
            #expect(try sites.image(sites.home) == sites.model, "\(step)")
            try takeBack(image + step.rawValue, "\(step), gone on with")
            try leave(step, sites, image + "-" + step.rawValue)
            try takeBack(image + "-" + step.rawValue, "\(step)")
        }
        try start(sites, to: nil)
        #expect(try sites.image(sites.home) == sites.model)
    }

    /// The vault goes away at each request in turn.
    @Test func aStartThatIsKilledAtAnyRequestGoesOnOrIsTakenBack() throws {
        let (sites, image) = try away(6)
        let before = try sites.home.entry
        for call in stride(from: 1, through: 90, by: 5) {
            sites.home.store.interrupt(at: call, .dies)
            let first = Result { try start(sites, to: image) }
            let wasReached = sites.home.store.calls >= call
            sites.home.store.interrupt(at: .max, .dies)
            guard wasReached else {
                guard case .success = first else { Issue.record("\(first)"); return }
                return #expect(call > 10)
            }
            if call % 2 == 0 {
                try start(sites, to: image)
                #expect(try sites.home.entry.imagePath == image, "call \(call)")
                #expect(try sites.image(sites.home) == sites.model, "call \(call)")
            }
            _ = try sites.failbacks(sites.home).cancel(TwoSites.name)
            #expect(try sites.home.entry.imagePath == before.imagePath, "call \(call)")
            #expect(try Directory.list(sites.folder + "/new") == [], "call \(call)")
        }
        Issue.record("there are more requests than were looked at")
    }
}
