// Many threads on one disk over a real file, with segments so small that destage and recycling run all the time.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Synchronization
import Testing
import VirtualDisk

@Suite struct StressTests {
    /// Every block is written whole, with one value; a reader that sees two values saw a torn block.
    // Promise D3: A read returns each 4 KiB block as one write left it, never a mixture of two states.
    @Test func blocksAreNeverTorn() throws {
        try withFileDisk(blocks: 64) { test in
            let disk = test.disk!
            let isDone = Atomic<Bool>(false)
            let torn = Atomic<Int>(0), reads = Atomic<Int>(0)
            let writers = try (0..<3).map { thread in
                try OwnThread(name: "writer") {
                    var random = Seeded(UInt64(thread) + 1)
                    for count in 0..<(3000 * campaignScale) {
                        let blocks = random.chance(1, in: 10) ? 8 : 1
                        let first = random.below(64 - blocks + 1)
                        let stamp = UInt8(truncatingIfNeeded: count * 3 + thread)
                        expectNoError { try disk.put([UInt8](repeating: stamp, count: blocks * blockBytes), at: first * blockBytes) }
                        if count % 500 == 499 { expectNoError { try disk.mergeAll() } }
                    }
                }
            }
            let readers = try (0..<2).map { thread in
                try OwnThread(name: "reader") {
                    var random = Seeded(UInt64(thread) + 100)
                    while !isDone.load(ordering: .relaxed) {
                        let blocks = 1 + random.below(8)
                        let first = random.below(64 - blocks + 1)
                        guard let bytes = expectNoError({ try disk.bytes(at: first * blockBytes, count: blocks * blockBytes) }) else { return }
                        for block in 0..<blocks {
                            let part = bytes[block * blockBytes..<(block + 1) * blockBytes]
                            if !part.allSatisfy({ $0 == part.first }) { torn.add(1, ordering: .relaxed) }
                        }
                        reads.add(1, ordering: .relaxed)
                    }
                }
            }
            for writer in writers { writer.join() }
            isDone.store(true, ordering: .relaxed)
            for reader in readers { reader.join() }
            #expect(torn.load(ordering: .relaxed) == 0)
            #expect(reads.load(ordering: .relaxed) > 100)
        }
    }

    /// Four threads share each block, a quarter each: no partial write may undo another's.
    @Test func partialWritesOfOneBlockAreNotLost() throws {
        try withFileDisk(blocks: 8) { test in
            let disk = test.disk!
            let threads = try (0..<4).map { thread in
                try OwnThread(name: "quarter") {
                    var random = Seeded(UInt64(thread) + 7)
                    for count in 1...(400 * campaignScale) {
                        for block in 0..<8 where random.chance(1, in: 3) || count == 400 * campaignScale {
                            let stamp = UInt8(truncatingIfNeeded: count)
                            let offset = block * blockBytes + thread * 1024
                            expectNoError { try disk.put([UInt8](repeating: stamp, count: 1024), at: offset) }
                            let seen = expectNoError { try disk.bytes(at: offset, count: 1024) }
                            #expect(seen?.allSatisfy { $0 == stamp } ?? false)
                        }
                    }
                }
            }
            for thread in threads { thread.join() }
            let last = UInt8(truncatingIfNeeded: 400 * campaignScale)
            #expect(try test.contents().allSatisfy { $0 == last })
            try test.kill()
            #expect(try test.contents().allSatisfy { $0 == last })
        }
    }

    /// A point holds what was acknowledged before it was asked for and nothing issued after it returned.
    // Promise P1: A point holds every write acknowledged before the cut was asked for and none issued after it
    // returned.
    @Test func pointsCutUnderLoadAreLegal() throws {
        try withFileDisk(blocks: 32, targets: ["vault"], segments: 1024) { test in
            let disk = test.disk!
            let acknowledged = (0..<3).map { _ in Counter() }
            let isDone = Atomic<Bool>(false)
            let writers = try (0..<3).map { thread in
                try OwnThread(name: "writer") {
                    var count: UInt64 = 0
                    while !isDone.load(ordering: .relaxed) {
                        count += 1
                        let value = count
                        var bytes = [UInt8](repeating: 0, count: blockBytes)
                        bytes.withUnsafeMutableBytes { $0.putLE(value, at: 0) }
                        expectNoError { try disk.put(bytes, at: thread * blockBytes) }
                        acknowledged[thread].value.store(value, ordering: .releasing)
                    }
                }
            }
            var points: [(sequence: UInt64, before: [UInt64], after: [UInt64])] = []
            var longest: UInt64 = 0
            for count in 0..<40 {
                usleep(2000)
                let before = acknowledged.map { $0.value.load(ordering: .acquiring) }
                let start = Clock.monotonicNanoseconds()
                let sequence = try VirtualDisk.cutPoint([disk], tag: "\(count)")
                longest = max(longest, Clock.monotonicNanoseconds() - start)
                points.append((sequence, before, acknowledged.map { $0.value.load(ordering: .acquiring) + 1 }))
            }
            isDone.store(true, ordering: .relaxed)
            for writer in writers { writer.join() }
            print("longest cut under load: \(longest / 1000) us")
            let durable = try disk.makeDurable()
            var values = [UInt64](repeating: 0, count: 3)
            var found = 0
            _ = try LogReader(test.folder).records(after: 0, through: durable) { record, payload in
                if record.kind == .write { values[Int(record.diskOffset) / blockBytes] = payload.getLE(UInt64.self, at: 0) }
                guard record.kind == .point else { return }
                let point = try #require(points.first { $0.sequence == record.sequence })
                found += 1
                for thread in 0..<3 { #expect(values[thread] >= point.before[thread] && values[thread] <= point.after[thread]) }
            }
            #expect(found == points.count)
        }
    }

    private func withFileDisk(blocks: Int, targets: [String] = [], segments: UInt64 = 6, _ body: (TestDisk) throws -> Void) throws {
        let root = try TestDisk.makeFolder()
        defer {
            unlink(root + "/disk.raw")
            rmdir(root)
        }
        let file = try Descriptor.open(root + "/disk.raw", O_RDWR | O_CREAT)
        try file.write([UInt8](repeating: 0, count: blocks * blockBytes), at: 0)
        try file.close()
        let test = try TestDisk(try openImage(root + "/disk.raw", access: .readWrite, format: .raw), targets: targets, segments: segments)
        defer { test.remove() }
        try body(test)
    }
}

private final class Counter: Sendable {
    let value = Atomic<UInt64>(0)
}

@discardableResult
func expectNoError<T>(_ body: () throws -> T) -> T? {
    do { return try body() } catch {
        Issue.record("\(error)")
        return nil
    }
}
