// Points read lazily from the vault: right bytes at every sequence, EIO where an object is damaged and only there.

import BlockIO
import Foundation
import ObjectStore
import RecoveryPoints
import Synchronization
import Testing
import Vault
import VaultFixtures

@Suite struct PointDiskTests {
    private func open(_ vault: Vault, _ disk: VaultID, at sequence: UInt64, limits: FrameStoreLimits = FrameStoreLimits()) throws -> (PointDisk, PointSources) {
        let state = try #require(try vault.heads(group: disk).newest()?.document.state(of: disk))
        let sources = PointSources(vault: vault, limits: limits)
        let reader = try PointReader(sources, disk: disk, plan: try DiskHistory(vault: vault, state: state).plan(at: sequence))
        return (PointDisk(name: "disk", reader: reader) { _ in }, sources)
    }

    private func read(_ disk: PointDisk, _ offset: Int, _ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        var failure: SystemError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(SystemError) { try disk.read(into: buffer, at: UInt64(offset)) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    private func replicated(_ test: TestVault, seed: UInt64, steps: Int = 14) throws -> ModelDisk {
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 6
        limits.deltasPerRollup = 3
        let disk = try ModelDisk(test.vault, sizeBytes: (9 << 20) + 512, seed: seed, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<steps { try disk.step(records: 10) }
        return disk
    }

    @Test(arguments: [true, false]) func randomReadsAtRandomPointsAreRight(encrypted: Bool) throws {
        let test = try TestVault(encrypted: encrypted)
        let disk = try replicated(test, seed: 21)
        var numbers = SeededNumbers(seed: 22)
        // A cache of a few frames, so that most reads evict.
        var limits = FrameStoreLimits()
        limits.cacheBytesMax = 300_000
        limits.tablesMax = 8
        for sequence in disk.sequences.shuffled(using: &numbers).prefix(12) {
            let model = disk.content(at: sequence)
            let (point, sources) = try open(test.vault, disk.id, at: sequence, limits: limits)
            defer { sources.close() }
            #expect(point.sizeBytes == UInt64(model.count) && !point.isWritable)
            for _ in 0..<60 {
                let start = Int.random(in: 0..<model.count, using: &numbers)
                let count = Int.random(in: 1...min(model.count - start, 700_000), using: &numbers)
                #expect(try read(point, start, count) == Array(model[start..<start + count]), "sequence \(sequence), \(count) bytes at \(start)")
            }
            // And from one end to the other, as a copy does.
            var position = 0
            while position < model.count {
                let count = min(128 << 10, model.count - position)
                guard try read(point, position, count) == Array(model[position..<position + count]) else {
                    Issue.record("sequence \(sequence), \(position)")
                    break
                }
                position += count
            }
        }
    }

    @Test func manyThreadsReadTheSamePoint() throws {
        let test = try TestVault()
        let disk = try replicated(test, seed: 31, steps: 4)
        let model = disk.content(at: disk.sequence)
        let (point, sources) = try open(test.vault, disk.id, at: disk.sequence)
        defer { sources.close() }
        let wrong = Mutex(0)
        forEachInParallel(Array(0..<400), threads: 16) { number in
            var numbers = SeededNumbers(seed: UInt64(number))
            let start = Int.random(in: 0..<model.count, using: &numbers)
            let count = min(Int.random(in: 1...300_000, using: &numbers), model.count - start)
            let bytes = try? self.read(point, start, count)
            if bytes != Array(model[start..<start + count]) { wrong.withLock { $0 += 1 } }
        }
        #expect(wrong.withLock { $0 } == 0)
    }

    @Test func holesAndDataAreFound() throws {
        let test = try TestVault()
        let disk = try replicated(test, seed: 41, steps: 3)
        let model = disk.content(at: disk.sequence)
        let (point, sources) = try open(test.vault, disk.id, at: disk.sequence)
        defer { sources.close() }
        var position: UInt64 = 0
        var holes = 0
        while position < point.sizeBytes {
            let data = try point.nextData(from: position) ?? point.sizeBytes
            #expect(model[Int(position)..<Int(data)].allSatisfy { $0 == 0 })
            if data > position { holes += 1 }
            guard data < point.sizeBytes else { break }
            position = try point.nextHole(from: data)
            #expect(position > data)
        }
        #expect(holes > 0)
    }

    @Test func aPointCannotBeWritten() throws {
        let test = try TestVault()
        let disk = try replicated(test, seed: 51, steps: 1)
        let (point, sources) = try open(test.vault, disk.id, at: disk.sequence)
        defer { sources.close() }
        var code: Int32 = 0
        do throws(SystemError) {
            try [UInt8](repeating: 0, count: 512).withBytes { bytes throws(SystemError) in try point.write(bytes, at: 0, sequenceSlot: nil) }
        } catch {
            code = error.errno
        }
        #expect(code == EROFS)
    }

    /// Promise P3: A point reads bit-exact, or the read fails naming the object; it never reads as zeros instead.
    ///
    /// Damaged data is EIO for the blocks that lie in it; all others read right; never zeros instead.
    @Test(arguments: [true, false]) func damageIsAnErrorForItsRangeAlone(encrypted: Bool) throws {
        let test = try TestVault(encrypted: encrypted)
        let disk = try replicated(test, seed: 61, steps: 8)
        let model = disk.content(at: disk.sequence)
        var numbers = SeededNumbers(seed: 62)
        var failedBlocks = 0
        for key in try test.keys() where key.hasPrefix("chunks/") || key.contains("/segments/") {
            let file = try Data(contentsOf: URL(filePath: test.file(key)))
            // In the second half of the object: payload, never header or index.
            let bit = Int.random(in: file.count * 4..<file.count * 8, using: &numbers)
            try test.flipBit(key, at: bit)
            let report = try VaultCheck(vault: test.reopened(), readData: true).run()
            let damaged = try #require(report.findings.first { $0.object == key }).ranges
            guard let (point, sources) = try? open(test.vault, disk.id, at: disk.sequence) else {
                // The index of a segment over the map is damaged: the point is refused as a whole.
                #expect(key.contains("/segments/"))
                try file.write(to: URL(filePath: test.file(key)))
                continue
            }
            defer { sources.close() }
            for start in stride(from: 0, to: model.count, by: 4096) {
                let end = min(start + 4096, model.count)
                do {
                    guard try read(point, start, end - start) == Array(model[start..<end]) else {
                        Issue.record("wrong bytes at \(start) with bit \(bit) of \(key) flipped")
                        break
                    }
                } catch let error as SystemError {
                    failedBlocks += 1
                    #expect(error.errno == EIO)
                    #expect(damaged.contains { $0.offset <= UInt64(start) && UInt64(start) < $0.end }, "\(start) fails, which no check named")
                }
            }
            try file.write(to: URL(filePath: test.file(key)))
        }
        #expect(failedBlocks > 0)
    }

    @Test func openingCostsAHandfulOfRequests() throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        let disk = try replicated(test, seed: 71, steps: 40)
        let vault = try test.reopened()
        meddled.resetCounts()
        let (point, sources) = try open(vault, disk.id, at: disk.points[20].sequence)
        defer { sources.close() }
        _ = try read(point, 0, 4096)
        let counts = meddled.counts
        // A host that never saw the vault asks once for each chain whether an object was lost.
        #expect(counts.gets <= 20 && counts.heads <= 8 && counts.lists <= 2 && counts.puts.isEmpty, "\(counts.gets) GETs, \(counts.heads) HEADs")
    }

    /// However many segments lie over the map: what they changed comes with the manifests.
    @Test func openingAsksForNoSegment() throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        var limits = HistoryWriter.Limits()
        limits.deltasPerRollup = 4
        let disk = try ModelDisk(test.vault, sizeBytes: 9 << 20, seed: 72, limits: limits)
        try disk.replicateInitially()
        for step in 0..<22 { try disk.step(records: 20, segmentBytes: 64 << 10, checkpoint: step == 12) }
        let segments = try test.keys().filter { $0.contains("/segments/") }
        #expect(segments.count > 100)
        for (index, point) in disk.points.enumerated() {
            let vault = try test.reopened()
            let state = try #require(try vault.heads(group: disk.id).newest()?.document.state(of: disk.id))
            meddled.resetCounts()
            meddled.meddle { $0.fails = { $0.contains("/segments/") ? StoreError(.timedOut, "no answer", try: "later") : nil } }
            let sources = PointSources(vault: vault)
            defer { sources.close() }
            let reader = try PointReader(sources, disk: disk.id, plan: try DiskHistory(vault: vault, state: state).plan(at: point.sequence))
            #expect(meddled.counts.gets <= 12, "\(meddled.counts.gets) GETs for point \(index)")
            meddled.meddle { $0.fails = { _ in nil } }
            let model = disk.content(at: point.sequence)
            #expect(try read(PointDisk(name: "disk", reader: reader) { _ in }, 0, model.count) == model, "point \(index)")
        }
    }

    /// One request for a place of an object that was not looked at yet: its table comes with it. From one end to the other, one a chunk.
    @Test func readsCostOneRequestEach() throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        let disk = try ModelDisk(test.vault, sizeBytes: 16 << 20, seed: 73)
        disk.fill()
        try disk.replicateInitially()
        let (point, sources) = try open(test.vault, disk.id, at: disk.sequence)
        defer { sources.close() }
        _ = try read(point, 5 << 20, 4096)
        // Too far from each other to be a stream.
        for (place, gets) in [(1 << 20, 1), (2 << 20 + 150_000, 1), (9 << 20, 1), (2 << 20 + 200_000, 1), (11 << 20, 1), (2 << 20 + 140_000, 0), (7 << 20 - 4096, 2)] {
            meddled.resetCounts()
            #expect(try read(point, place, 4096) == Array(disk.content[place..<place + 4096]))
            #expect(meddled.counts.gets == gets, "at \(place)")
        }
        let (again, fresh) = try open(test.vault, disk.id, at: disk.sequence)
        defer { fresh.close() }
        _ = try read(again, 15 << 20, 4096)
        meddled.resetCounts()
        for position in stride(from: 0, to: 16 << 20, by: 1 << 20) { #expect(try read(again, position, 1 << 20) == Array(disk.content[position..<position + 1 << 20])) }
        #expect(meddled.counts.gets <= 16 && meddled.counts.getBytes < 17 << 20, "\(meddled.counts.gets) GETs")
    }

    @Test func pointsAreFoundByName() throws {
        let test = try TestVault()
        let disk = try replicated(test, seed: 81, steps: 9)
        try disk.step(records: 2, tag: "before-upgrade")
        try disk.step(records: 2)
        let history = try #require(try DiskHistory.newest(test.vault, try test.vault.disk("disk")))
        let entry = try test.vault.disk("disk")
        let shared = try SharedPoints(test.vault, of: entry)
        func resolve(_ text: String) throws -> UInt64 {
            let name = try #require(PointName(text))
            return try #require(try shared.resolve(name, on: entry))
        }
        #expect(try resolve("latest") == disk.sequence)
        #expect(try resolve("latest-processed") == history.checkpointSequence)
        #expect(try resolve("before-upgrade") == disk.points[disk.points.count - 2].sequence)
        #expect(try resolve("#\(disk.sequences[7])") == disk.sequences[7])
        #expect(try resolve("\(disk.sequences[7])") == disk.sequences[7])
        let third = disk.points[3]
        let time = Date(timeIntervalSince1970: Double(third.timeMicros) / 1_000_000 + 0.5).formatted(Date.ISO8601FormatStyle(includingFractionalSeconds: true))
        #expect(try resolve(time) == third.sequence)
        #expect(throws: VaultError.self) { try resolve("no-such-tag") }
        #expect(throws: VaultError.self) { try resolve("latest-app-consistent") }
        #expect(throws: VaultError.self) { try resolve("1970-01-01T00:00:01Z") }
        // It shares points with no other disk.
        #expect(throws: VaultError.self) { try resolve("latest-multi") }
        #expect(throws: VaultError.self) { try resolve("latest-multi-app-consistent") }
        #expect(PointName("") == nil)
    }
}
