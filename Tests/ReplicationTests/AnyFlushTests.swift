// Any flush as a recovery point: a disk is written, flushed, cut, killed, replicated in steps; then every flush boundary the
// vault tells of is opened and compared with a model, by number and by time.

import BlockIO
import ChangeLog
import Foundation
import RecoveryPoints
import Synchronization
import Testing
import Vault
import VirtualDisk

@Suite struct AnyFlushTests {
    /// One flush as its caller knows it.
    private struct Flush {
        /// The newest write acknowledged before the call, and a time between its answer and the next write.
        let sequence: UInt64
        let answeredMicros: UInt64
    }

    private final class Model {
        let disk: ReplicatedDisk
        private let initial: [UInt8]
        private var writes: [(sequence: UInt64, offset: Int, bytes: [UInt8])] = []
        private(set) var flushes: [Flush] = []
        private(set) var answered: [(sequence: UInt64, micros: UInt64)] = []
        var random: SeededRandom

        init(seed: UInt64) throws {
            random = SeededRandom(seed)
            initial = (0..<(1 << 20) + 512).map { UInt8(truncatingIfNeeded: $0 / 4096) }
            disk = try ReplicatedDisk(content: initial)
        }

        func content(at sequence: UInt64) -> [UInt8] {
            var content = initial
            for write in writes where write.sequence <= sequence { content.replaceSubrange(write.offset..<write.offset + write.bytes.count, with: write.bytes) }
            return content
        }

        /// One record.
        func write() throws {
            var sequence: UInt64 = 0
            if Int.random(in: 0..<6, using: &random) == 0 {
                let blocks = Int.random(in: 1...20, using: &random)
                let offset = 4096 * Int.random(in: 0...256 - blocks, using: &random)
                try disk.disk.zero(at: UInt64(offset), length: UInt64(4096 * blocks), mayFree: Bool.random(using: &random), sequenceSlot: &sequence)
                writes.append((sequence, offset, [UInt8](repeating: 0, count: 4096 * blocks)))
            } else {
                let count = Int.random(in: 1...20_000, using: &random)
                let offset = Int.random(in: 0...initial.count - count, using: &random)
                let bytes = [UInt8](repeating: UInt8.random(in: 1...255, using: &random), count: count)
                try bytes.withUnsafeBytes { try disk.disk.write($0, at: UInt64(offset), sequenceSlot: &sequence) }
                writes.append((sequence, offset, bytes))
            }
            note(sequence)
        }

        /// A time behind the record, and before the next one also when only microseconds count.
        private func note(_ sequence: UInt64) {
            answered.append((sequence, Clock.wallNanoseconds() / 1000))
            usleep(3)
        }

        func flush() throws {
            let sequence = answered.last?.sequence ?? 0
            try disk.disk.flush()
            flushes.append(Flush(sequence: sequence, answeredMicros: Clock.wallNanoseconds() / 1000))
            usleep(3)
        }

        func cut() throws { note(try VirtualDisk.cutPoint([disk.disk], tag: "")) }

        func work(_ count: Int) throws {
            for _ in 0..<count {
                switch Int.random(in: 0..<12, using: &random) {
                case 0...3: try flush()
                case 4: try cut()
                default: try write()
                }
            }
        }
    }

    /// Promise P5: Every acknowledged flush inside the vault's window is a boundary that opens: it holds every
    /// write acknowledged before the flush was asked for and none issued after it returned. One that no
    /// write followed before the worker died may be missing.
    @Test(arguments: 1...(3 * campaignScale)) func everyFlushOpensAsItWasAnswered(_ seed: Int) throws {
        let model = try Model(seed: UInt64(seed))
        try model.work(10)
        #expect(try model.disk.upload() == nil)
        let start = try #require(try model.disk.history()?.newestSequence)
        for round in 0..<5 {
            try model.work(50)
            // A flush is not forgotten with the process, nor by the power loss that begins a new history.
            if round == 1 { try model.disk.reopen() }
            if round == 3 {
                _ = try model.disk.disk.makeDurable()
                try model.disk.reopen(inAnotherBoot: true)
            }
            #expect(try model.disk.upload() == nil)
        }
        let history = try #require(try model.disk.history())
        var query = FlushQuery()
        query.limit = .max
        let listed = Array(try history.flushBoundaries(query).boundaries.map(\.sequence).reversed())
        for sequence in listed {
            #expect(try vaultContent(history, at: sequence) == model.content(at: sequence), "seed \(seed), #\(sequence)")
        }
        let flushes = model.flushes.filter { $0.sequence >= start }
        #expect(flushes.count > 30)
        for flush in flushes {
            // One writer: the boundary is the newest write before the flush, exactly.
            let next = model.answered.first { $0.sequence > flush.sequence }?.sequence ?? .max
            let boundary = try #require(listed.first { $0 >= flush.sequence }, "seed \(seed): no boundary for the flush at #\(flush.sequence)")
            #expect(boundary < next)
            #expect(try history.opened(at: boundary) == boundary)
            // By the time of its answer it is found too; then nothing older is, and nothing that was written later.
            let found = try history.newest(atOrBefore: flush.answeredMicros)
            #expect(found >= flush.sequence && found < next, "seed \(seed): \(found) for the flush at #\(flush.sequence)")
        }
    }

    @Test func aMomentBetweenFlushesHoldsTheLastFlushAndNothingLater() throws {
        let model = try Model(seed: 77)
        #expect(try model.disk.upload() == nil)
        try model.work(120)
        #expect(try model.disk.upload() == nil)
        let history = try #require(try model.disk.history())
        for (sequence, micros) in model.answered {
            let found = try history.newest(atOrBefore: micros)
            let flushed = model.flushes.last { $0.answeredMicros <= micros }?.sequence ?? 0
            #expect(found >= flushed && found <= sequence)
        }
    }

    /// Many writers and flushers at once: also then no flush is without a boundary of its own.
    @Test func concurrentFlushesAllHaveABoundary() throws {
        let disk = try ReplicatedDisk(content: [UInt8](repeating: 0, count: 1 << 20))
        /// Of each flush: the newest write before it and the first one after it, of the same thread.
        let spans = Mutex<[Range<UInt64>]>([])
        let failures = Mutex(0)
        let threads = try (0..<6).map { number in
            try OwnThread(name: "writer") { [block = [UInt8](repeating: UInt8(number + 1), count: 4096), served = disk.disk] in
                do {
                    var before: UInt64 = 0
                    for round in 0..<150 {
                        var sequence: UInt64 = 0
                        try block.withUnsafeBytes { try served.write($0, at: UInt64((number * 40 + round % 40) * 4096), sequenceSlot: &sequence) }
                        if before > 0 { spans.withLock { $0.append(before..<sequence) } }
                        try served.flush()
                        before = sequence
                    }
                } catch {
                    failures.withLock { $0 += 1 }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == 0)
        let reader = try LogReader(LogFolder(disk.folder + "/log"))
        var scan = FlushScan()
        var boundaries: [UInt64] = []
        try reader.headersNewestFirst { record in
            if let found = scan.take(sequence: record.sequence, flushed: record.flushedSequence, wallNanoseconds: 0) { boundaries.append(found.sequence) }
            return true
        }
        boundaries.reverse()
        let told = spans.withLock { $0 }
        #expect(told.count == 6 * 149)
        for span in told { #expect(boundaries.contains { span.contains($0) }, "no boundary in \(span)") }
    }
}
