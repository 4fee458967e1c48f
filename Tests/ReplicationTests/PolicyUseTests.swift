// What a policy says is what is done: real bytes through the bandwidth limit, and changes that reach what is running.

import BlockIO
import Foundation
import ObjectStore
import Replication
import Site
import Synchronization
import Testing
import Vault

@Suite struct PolicyUseTests {
    /// Bytes of data objects, and when their PUTs came.
    private func sentBytes(_ disk: ReplicatedDisk) throws -> Int {
        try disk.store.requests.puts.filter { $0.hasPrefix("chunks/") || $0.contains("/segments/") }.reduce(0) { sum, key in
            try sum + Int(disk.store.head(key)?.sizeBytes ?? 0)
        }
    }

    @Test func noMoreIsSentThanTheLimitAllows() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        let catalogue = try Catalogue(site: disk.site)
        _ = try catalogue.changePolicy(named: "default", PolicyChange(bandwidth: try BandwidthCalendar("4MiB"), compression: .off))
        let began = Clock.monotonicNanoseconds()
        #expect(try disk.upload() == nil)
        let seconds = Double(Clock.monotonicNanoseconds() - began) / 1e9
        let bytes = try sentBytes(disk)
        // The last object is let go before it is paid for.
        #expect(bytes > 3 << 20 && seconds >= Double(bytes - (1 << 20)) / Double(4 << 20) && seconds < 6, "\(bytes) bytes in \(seconds) s")
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
        // Another hour of the week: the calendar says nothing of it, so nothing is held back.
        let day = (Calendar.current.component(.weekday, from: Date()) + 5) % 7
        let other = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][(day + 3) % 7]
        _ = try catalogue.changePolicy(named: "default", PolicyChange(bandwidth: try BandwidthCalendar("\(other) 16KiB")))
        try disk.write(Array(disk.model.prefix(1 << 20)), at: 1 << 20)
        let again = Clock.monotonicNanoseconds()
        #expect(try disk.upload() == nil)
        #expect(Clock.monotonicNanoseconds() - again < 3_000_000_000)
    }

    /// Paused, what is being sent as a whole ends at its next chunks, is no failure of the disk, and goes on with the rest.
    @Test func aPauseEndsWhatIsBeingSent() throws {
        var numbers = SystemRandomNumberGenerator()
        let disk = try ReplicatedDisk(content: (0..<24 << 17).flatMap { _ in withUnsafeBytes(of: numbers.next()) { Array($0) } })
        let catalogue = try Catalogue(site: disk.site)
        _ = try catalogue.changePolicy(named: "default", PolicyChange(bandwidth: try BandwidthCalendar("4MiB"), compression: .off))
        let failure = Mutex<AttemptFailure?>(nil)
        let uploading = try OwnThread(name: "test") {
            do { try failure.withLock { $0 = try disk.upload() } } catch { Issue.record(error) }
        }
        while disk.store.chunkPutCount == 0 { usleep(10_000) }
        try catalogue.setPaused(true, disk: ReplicatedDisk.name)
        uploading.join()
        let sent = disk.store.chunkPutCount
        #expect(sent < 24 && failure.withLock { $0?.message } == "the upload was paused")
        #expect(try catalogue.replication(ofDisk: ReplicatedDisk.name).failures == 0)
        let job = try #require(try catalogue.jobs().first)
        #expect(job.kind == .initialReplication && job.state == .failed && job.remedy == "farshore resume \(ReplicatedDisk.name)")
        try catalogue.setPaused(false, disk: ReplicatedDisk.name)
        #expect(try disk.upload() == nil)
        #expect(disk.store.chunkPutCount == 24, "what was there was sent again")
    }

    @Test func aLiftedLimitLetsWhatWaitsGo() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        let catalogue = try Catalogue(site: disk.site)
        _ = try catalogue.changePolicy(named: "default", PolicyChange(bandwidth: try BandwidthCalendar("16KiB")))
        let failure = Mutex<AttemptFailure?>(nil)
        let began = Clock.monotonicNanoseconds()
        // At this limit the 4 MiB would take four minutes.
        let uploading = try OwnThread(name: "test") {
            do { try failure.withLock { $0 = try disk.upload() } } catch { Issue.record(error) }
        }
        while disk.store.chunkPutCount == 0 { usleep(10_000) }
        usleep(300_000)
        #expect(disk.store.chunkPutCount == 1)
        _ = try catalogue.changePolicy(named: "default", PolicyChange(bandwidth: .unlimited))
        uploading.join()
        #expect(failure.withLock { $0 } == nil && disk.store.chunkPutCount == 4)
        #expect(Clock.monotonicNanoseconds() - began < 8_000_000_000)
    }

    @Test func whatIsSentIsCompressedAsThePolicySays() throws {
        func bytes(_ compression: Policy.Compression) throws -> Int {
            let disk = try ReplicatedDisk(content: (0..<4 << 20).map { UInt8(truncatingIfNeeded: $0 / 37 &* ($0 >> 12)) })
            _ = try Catalogue(site: disk.site).changePolicy(named: "default", PolicyChange(compression: compression))
            #expect(try disk.upload() == nil)
            let history = try #require(try disk.history())
            #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
            return try sentBytes(disk)
        }
        let (off, fast, best) = (try bytes(.off), try bytes(.level(1)), try bytes(.level(19)))
        #expect(off > 4 << 20 && fast < off / 4 && best < off / 4 && best != fast, "off \(off), 1 \(fast), 19 \(best)")
        #expect(try bytes(.automatic) == fast)
    }

    /// The interval of a running uploader follows the policy.
    @Test func aRunningUploaderFollowsTheInterval() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        let catalogue = try Catalogue(site: disk.site)
        _ = try catalogue.changePolicy(named: "default", PolicyChange(intervalSeconds: 3_600))
        let stop = StopFlag()
        let service = UploadService(replicator: try disk.replicator(stop: stop), log: ReplicatedDisk.quiet)
        let running = try OwnThread(name: "test") { do { try service.run() } catch { Issue.record(error) } }
        defer {
            stop.stop()
            running.join()
        }
        func waits(for isDone: () throws -> Bool) throws -> Bool {
            for _ in 0..<1_000 { if try isDone() { return true } else { usleep(10_000) } }
            return false
        }
        #expect(try waits { try disk.proven.phase == .delta })
        // The attempt that ended initial replication may take a point along.
        usleep(1_500_000)
        let point = try disk.cut()
        usleep(1_500_000)
        #expect(try disk.proven.provenSequence ?? 0 < point)
        _ = try catalogue.changePolicy(named: "default", PolicyChange(intervalSeconds: 1))
        #expect(try waits { try disk.proven.provenSequence ?? 0 >= point })
    }
}
