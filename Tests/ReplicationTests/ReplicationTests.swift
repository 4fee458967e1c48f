// From image and log to the vault and back, in one process: what every point holds must be what the model says.

import BlockIO
import ChangeLog
import Foundation
import Replication
import Site
import Testing
import Vault
import VirtualDisk

struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// Chunks of random data, of zeros, and of the same content, and an end that is no whole chunk.
func sampleContent(_ seed: UInt64 = 1) -> [UInt8] {
    var random = SeededRandom(seed)
    let chunk = 1 << 20
    func noise(_ count: Int) -> [UInt8] { (0..<count / 8).flatMap { _ in withUnsafeBytes(of: random.next()) { Array($0) } } }
    let twice = noise(chunk)
    return noise(chunk) + [UInt8](repeating: 0, count: 2 * chunk) + twice + twice + noise(chunk) + noise(chunk / 2 + 512)
}

@Suite struct ReplicationTests {
    private func expectAllPoints(_ disk: ReplicatedDisk) throws {
        let history = try #require(try disk.history())
        // What was cut before initial replication is part of its state, not a point of its own.
        let points = disk.points.filter { $0.key >= history.state.oldestSequence }
        #expect(points.count >= 5)
        for (sequence, content) in points {
            #expect(try vaultContent(history, at: sequence) == content, "point #\(sequence)")
        }
        let listed = try history.points().map(\.sequence)
        #expect(Set(points.keys).isSubset(of: listed))
    }

    @Test func initialReplicationSendsEachContentOnce() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        #expect(try disk.upload() == nil)
        // Six chunks with content, two of them the same; two of zeros.
        #expect(disk.store.requests.chunkPuts.count == 4)
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: history.newestSequence) == disk.model)
        #expect(try history.points().count == 1)
        #expect(try disk.proven.phase == .delta)
        #expect(try LogFolder(disk.folder + "/log").readFreeze() == nil)
        let job = try #require(try Catalogue(site: disk.site).jobs().first)
        #expect(job.state == .succeeded)
        #expect(job.steps.allSatisfy { $0.state == .succeeded })
    }

    @Test(arguments: 1...(3 * campaignScale)) func deltasGiveEveryPoint(_ seed: Int) throws {
        var random = SeededRandom(UInt64(seed))
        let disk = try ReplicatedDisk(content: sampleContent())
        for _ in 0..<4 {
            try disk.scribble(40, using: &random)
            #expect(try disk.upload() == nil)
        }
        try expectAllPoints(disk)
        #expect(try disk.proven.provenSequence == disk.points.keys.max())
    }

    @Test func writesGoOnDuringInitialReplication() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        let before = disk.model
        var random = SeededRandom(9)
        let frozen = try disk.disk.freeze()
        try disk.scribble(60, using: &random)
        #expect(try disk.upload() == nil)
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: frozen) == before)
        try expectAllPoints(disk)
    }

    @Test func aKilledWorkersLogIsReplicatedToo() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        var random = SeededRandom(3)
        #expect(try disk.upload() == nil)
        try disk.scribble(60, using: &random)
        try disk.reopen()
        try disk.scribble(60, using: &random)
        #expect(try disk.upload() == nil)
        try expectAllPoints(disk)
    }

    @Test func aNewLineageIsFollowed() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        var random = SeededRandom(4)
        try disk.scribble(40, using: &random)
        #expect(try disk.upload() == nil)
        let first = try disk.history()?.state.current?.id
        try disk.scribble(40, using: &random)
        _ = try disk.disk.makeDurable()
        // Everything was flushed: the cut loses nothing, but the history is a new one.
        try disk.reopen(inAnotherBoot: true)
        try disk.scribble(40, using: &random)
        #expect(try disk.upload() == nil)
        let history = try #require(try disk.history())
        #expect(history.state.current?.parent == first)
        #expect(history.state.current?.id != first)
        try expectAllPoints(disk)
    }

    @Test func anIdleDiskCostsNoRequests() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        #expect(try disk.upload() == nil)
        let stop = StopFlag()
        let service = try UploadService(replicator: disk.replicator(stop: stop), log: ReplicatedDisk.quiet)
        let thread = try OwnThread(name: "service") { try? service.run() }
        defer {
            stop.stop()
            thread.join()
        }
        Thread.sleep(forTimeInterval: 1)
        let before = disk.store.requests.all
        Thread.sleep(forTimeInterval: 2.5)
        #expect(disk.store.requests.all == before)
        // It is not asleep: a write arrives within its interval and a bit.
        try disk.write([1, 2, 3], at: 5000)
        let point = try disk.cut()
        let deadline = Date.now.addingTimeInterval(10)
        while try disk.proven.provenSequence != point, Date.now < deadline { Thread.sleep(forTimeInterval: 0.05) }
        #expect(try disk.proven.provenSequence == point)
        let history = try #require(try disk.history())
        #expect(try vaultContent(history, at: point) == disk.model)
    }

    @Test func lagIsThatOfTheVault() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        #expect(try disk.upload() == nil)
        let reader = try LogReader(LogFolder(disk.folder + "/log"))
        let proven = try #require(try disk.proven.provenSequence)
        #expect(try ReplicationLag.measure(reader, provenSequence: proven).records == 0)
        try disk.write([UInt8](repeating: 1, count: 8192), at: 4096)
        let lag = try ReplicationLag.measure(reader, provenSequence: proven, nowNanoseconds: Clock.wallNanoseconds() + 7_000_000_000)
        #expect(lag.bytes == 8192)
        #expect(lag.seconds >= 7 && lag.seconds < 60)
        disk.store.failPuts { key, _ in key.hasPrefix("heads/") ? unreachable : nil }
        // Segments and manifest are there, the head is not: nothing was proven.
        #expect(try disk.upload() != nil)
        #expect(try ReplicationLag.measure(reader, provenSequence: try #require(try disk.proven.provenSequence)).bytes == 8192)
    }
}

/// Soak runs multiply the campaigns.
let campaignScale = max(ProcessInfo.processInfo.environment["FARSHORE_CAMPAIGN_SCALE"].flatMap(Int.init) ?? 1, 1)
