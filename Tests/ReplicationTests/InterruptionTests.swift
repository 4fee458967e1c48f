// Initial replication interrupted: what was answered is never sent again, and two uploaders never mix.

import BlockIO
import ChangeLog
import Foundation
import ObjectStore
import Replication
import Site
import Synchronization
import Testing
import Vault

@Suite struct InterruptionTests {
    /// Each run begins with a new catalogue connection and nothing in memory, as after a kill; the failure comes either
    /// before a PUT or between its arrival and its answer.
    @Test(arguments: [WatchedStore.Moment.before, .after]) func noChunkIsSentTwice(_ moment: WatchedStore.Moment) throws {
        let disk = try ReplicatedDisk(content: sampleContent(1) + sampleContent(2) + sampleContent(3) + sampleContent(4))
        var runs = 0
        while runs < 20 {
            let start = disk.store.requests.chunkPuts.count
            // The first chunk of each run gets through, the next does not.
            disk.store.failPuts { [store = disk.store] key, at in
                guard key.hasPrefix("chunks/"), at == moment else { return nil }
                return store.chunkPutCount >= start + 1 ? unreachable : nil
            }
            runs += 1
            if try disk.upload() == nil { break }
            #expect(try disk.history() == nil)
        }
        // Eight threads send the 21 chunks: each run may get as many through before it sees that one has failed.
        #expect(runs > 2)
        let puts = disk.store.requests.chunkPuts
        #expect(Set(puts).count == puts.count)
        #expect(puts.count > 16)
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
    }

    @Test func failuresThatMayPassAreWarnings() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        disk.store.failPuts { key, _ in key.hasPrefix("chunks/") ? unreachable : nil }
        let failure = try #require(try disk.upload())
        #expect(failure.outcome == .mayPass)
        let state = try disk.proven
        #expect(state.health == .warning)
        #expect(state.failures == 1)
        #expect(state.remedy == "wait")
        #expect(try Catalogue(site: disk.site).jobs().first?.state == .failed)
        disk.store.failPuts(nil)
        #expect(try disk.upload() == nil)
        #expect(try disk.proven.health == .normal)
        #expect(try Catalogue(site: disk.site).events(limit: 10).contains { $0.text == "replication goes on" })
    }

    @Test func aWrongKeyIsCriticalAndNotRetried() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        let failure = try #require(try disk.upload(key: .keyFile([UInt8](repeating: 1, count: 32))))
        #expect(failure.outcome == .forGood)
        #expect(try disk.proven.health == .critical)
        #expect(disk.store.requests.chunkPuts.isEmpty)
    }

    @Test func aTargetThatAcknowledgesAndDropsIsCaught() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        disk.store.dropPuts { $0.hasPrefix("chunks/") }
        let failure = try #require(try disk.upload())
        #expect(failure.outcome == .forGood || failure.outcome == .mayPass)
        #expect(try disk.history() == nil)
        #expect(try LogFolder(disk.folder + "/log").readMark(target: try disk.openVault().id.description) == nil)
    }

    @Test func theUploaderThatWasOvertakenStops() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        var random = SeededRandom(5)
        let stop = StopFlag()
        let service = try UploadService(replicator: disk.replicator(stop: stop), log: ReplicatedDisk.quiet)
        let thread = try OwnThread(name: "service") { try? service.run() }
        defer {
            stop.stop()
            thread.join()
        }
        let deadline = Date.now.addingTimeInterval(20)
        while try disk.proven.provenSequence == nil, Date.now < deadline { Thread.sleep(forTimeInterval: 0.05) }
        // Another host with a copy of the site.
        let copy = SiteDirectory(path: disk.folder + "/copy")
        try FileManager.default.copyItem(atPath: disk.site.path, toPath: copy.path)
        try disk.scribble(5, using: &random)
        _ = try UploadService(replicator: disk.replicator(site: copy), log: ReplicatedDisk.quiet).runOnce()
        try disk.scribble(5, using: &random)
        while try disk.proven.health != .critical, Date.now < deadline { Thread.sleep(forTimeInterval: 0.05) }
        #expect(try disk.proven.error?.contains("fenced") == true)
        let history = try #require(try disk.history())
        for (sequence, content) in disk.points where sequence <= history.newestSequence {
            #expect(try vaultContent(history, at: sequence) == content)
        }
    }

    /// What is in its way is the other one's: that it was overtaken is the first that it says.
    @Test func theUploaderThatIsOvertakenWhileItSendsSaysSoAtOnce() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        var random = SeededRandom(6)
        let stop = StopFlag()
        let service = try UploadService(replicator: disk.replicator(stop: stop), log: ReplicatedDisk.quiet)
        let thread = try OwnThread(name: "service") { try? service.run() }
        defer {
            stop.stop()
            thread.join()
        }
        let deadline = Date.now.addingTimeInterval(20)
        while try disk.proven.provenSequence == nil, Date.now < deadline { Thread.sleep(forTimeInterval: 0.05) }
        let copy = SiteDirectory(path: disk.folder + "/copy")
        try FileManager.default.copyItem(atPath: disk.site.path, toPath: copy.path)
        let other = try UploadService(replicator: disk.replicator(site: copy), log: ReplicatedDisk.quiet)
        let isFirst = Mutex(true)
        let failures = Mutex<[String]>([])
        disk.store.failPuts { key, moment in
            guard moment == .before, key.contains("/segments/"), isFirst.withLock({ first in defer { first = false }; return first }) else { return nil }
            // The same records under the same name, sent by the other one.
            do { for failed in try other.runOnce() { failures.withLock { $0.append(failed.failure.message) } } } catch { failures.withLock { $0.append("\(error)") } }
            return nil
        }
        try disk.scribble(5, using: &random)
        while try disk.proven.health == .normal, Date.now < deadline { Thread.sleep(forTimeInterval: 0.02) }
        let state = try disk.proven
        #expect(failures.withLock { $0 } == [])
        #expect(state.health == .critical && state.error?.contains("fenced") == true && state.remedy?.contains("another uploader") == true, "\(state)")
        #expect(try Catalogue(site: disk.site).events(limit: 20).count { $0.text.contains("replication failed") } == 1)
        disk.store.failPuts(nil)
    }
}
