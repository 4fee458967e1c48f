// The disk against a byte array: random operations, kills and power losses. A failure prints its seed; run it alone with
// FARSHORE_SEED=<seed>.

import BlockIO
import ChangeLog
import Glibc
import Testing
import VirtualDisk

@Suite struct ModelTests {
    static var seeds: [UInt64] {
        if let text = getenv("FARSHORE_SEED"), let seed = UInt64(String(cString: text)) { return [seed] }
        return (1...UInt64(12 * campaignScale)).map { $0 }
    }

    // Promise D4: After a power loss the disk holds a prefix of its writes in sequence order, and at least every
    // durable one.
    @Test(arguments: seeds) func randomOperations(seed: UInt64) throws {
        let model = try Model(seed: seed)
        defer { model.test.remove() }
        for step in 0..<250 {
            do { try model.step() } catch { throw Failed(seed: seed, step: step, error: error) }
            try #require(model.fault == nil, "seed \(seed), step \(step): \(model.fault ?? "")")
        }
    }

    struct Failed: Error, CustomStringConvertible {
        let seed: UInt64, step: Int, error: any Error
        var description: String { "seed \(seed), step \(step): \(error)" }
    }
}

/// One part of an operation: what one record does.
private struct Change {
    var offset: Int
    var bytes: [UInt8]
}

private final class Model {
    let test: TestDisk
    let image: MemoryImage
    /// No whole number of blocks; every third disk is so large that zero records span ranges of the map.
    let diskBytes: Int
    var random: Seeded
    /// What every read must return.
    var bytes: [UInt8]
    /// What was there at the last flush, and the changes since.
    var flushed: [UInt8]
    var changes: [Change] = []
    /// Points cut since the image was frozen, with the disk at that moment.
    var points: [(sequence: UInt64, bytes: [UInt8])] = []
    var fault: String?

    init(seed: UInt64) throws {
        random = Seeded(seed)
        diskBytes = (seed % 3 == 0 ? 5 << 20 : 700 << 10) + 1536
        var start = [UInt8](repeating: 0, count: diskBytes)
        for place in 0..<200 << 10 { start[place] = UInt8(truncatingIfNeeded: place &* 31 >> 3) }
        bytes = start
        flushed = start
        image = MemoryImage(start)
        test = try TestDisk(image, targets: ["vault"])
    }

    func step() throws {
        switch random.below(100) {
        case ..<45: try write(aligned: true)
        case ..<60: try write(aligned: false)
        case ..<70: try zero()
        case ..<80: try read()
        case ..<86: try flush()
        case ..<89: try replicate()
        case ..<92: try cut()
        case ..<94: try freezeOrThaw()
        case ..<95: try test.disk.mergeAll()
        case ..<96: try cleanStop()
        case ..<98: try kill()
        default: try losePower()
        }
    }

    private func anyRange(aligned: Bool) -> Range<Int> {
        let unit = aligned ? 4096 : random.chance(1, in: 2) ? 512 : 1
        let start = random.below(diskBytes / unit) * unit
        let most = min(diskBytes - start, random.chance(1, in: 8) ? 80_000 : 9000)
        let count = max(min(unit, most), random.below(most + 1) / unit * unit)
        return start..<start + count
    }

    private func write(aligned: Bool) throws {
        let range = anyRange(aligned: aligned)
        let fill = UInt8.random(in: 0...255, using: &random)
        let data = range.map { UInt8(truncatingIfNeeded: $0) ^ fill }
        try retrying { try $0.put(data, at: range.lowerBound) }
        apply(Change(offset: range.lowerBound, bytes: data))
    }

    private func zero() throws {
        let start = random.below(diskBytes / 4096) * 4096
        let range = random.chance(1, in: 4) ? start..<start + 1 + random.below(diskBytes - start) : anyRange(aligned: random.chance(1, in: 2))
        let mayFree = random.chance(1, in: 2)
        try retrying { try $0.zero(at: UInt64(range.lowerBound), length: UInt64(range.count), mayFree: mayFree, sequenceSlot: nil) }
        // As the disk does it: the partial edges first, then the whole blocks.
        let first = min((range.lowerBound + 4095) / 4096 * 4096, range.upperBound)
        let last = range.upperBound == diskBytes ? range.upperBound : max(range.upperBound / 4096 * 4096, first)
        for part in [range.lowerBound..<first, last..<range.upperBound, first..<last] where !part.isEmpty {
            apply(Change(offset: part.lowerBound, bytes: [UInt8](repeating: 0, count: part.count)))
        }
    }

    private func apply(_ change: Change) {
        bytes.replaceSubrange(change.offset..<change.offset + change.bytes.count, with: change.bytes)
        changes.append(change)
    }

    /// A full log is emptied as in life: the target catches up, destage goes on.
    private func retrying(_ body: (VirtualDisk) throws -> Void) throws {
        for _ in 0..<100 {
            do { return try body(test.disk) } catch let error as SystemError where error.errno == ENOSPC {
                try replicate()
                if test.disk.frozenSequence != nil { try thaw() }
                usleep(100_000)
            }
        }
        fault = "no space came back: \(test.disk.status)"
    }

    private func read() throws {
        let range = anyRange(aligned: false)
        try expect(test.disk.bytes(at: range.lowerBound, count: range.count) == Array(bytes[range]), "a read of \(range) is wrong")
        let hole = Int(try test.disk.nextHole(from: UInt64(range.lowerBound)))
        let data = try test.disk.nextData(from: UInt64(range.lowerBound)).map { Int($0) } ?? diskBytes
        expect(max(hole, data) > range.lowerBound && (data == range.lowerBound || hole == range.lowerBound), "neither data nor hole at \(range)")
        expect(bytes[range.lowerBound..<data].allSatisfy { $0 == 0 }, "a hole at \(range.lowerBound) hides data")
    }

    private func flush() throws {
        try test.disk.flush()
        flushed = bytes
        changes = []
    }

    private func replicate() throws {
        let durable = try test.disk.makeDurable()
        try test.folder.storeMark(ReplicatedMark(sequence: durable, lineage: test.disk.log.lineage), target: "vault")
    }

    private func cut() throws {
        var sequence: UInt64 = 0
        let tag = "point \(points.count)"
        try retrying { sequence = try VirtualDisk.cutPoint([$0], tag: tag) }
        points.append((sequence, bytes))
    }

    private func freezeOrThaw() throws {
        if test.disk.frozenSequence != nil { return try thaw() }
        let sequence = try test.disk.freeze()
        expect(image.bytes == bytes, "the frozen image is not the disk at \(sequence)")
        points = [(sequence, bytes)]
    }

    /// Every point: the frozen image and the records up to it.
    private func thaw() throws {
        guard let frozen = test.disk.frozenSequence else { return }
        expect(image.bytes == points.first?.bytes ?? image.bytes, "the frozen image changed")
        _ = try test.disk.makeDurable()
        let reader = try LogReader(test.folder)
        for point in points {
            var built = image.bytes
            _ = try reader.records(after: frozen, through: point.sequence) { record, payload in
                guard record.changesDisk else { return }
                let range = Int(record.diskOffset)..<Int(record.diskOffset + record.length)
                built.replaceSubrange(range, with: record.kind == .write ? Array(payload) : [UInt8](repeating: 0, count: range.count))
            }
            expect(built == point.bytes, "point \(point.sequence) is not what it was")
        }
        try test.disk.unfreeze()
        points = []
    }

    private func cleanStop() throws {
        try test.disk.close()
        try test.open()
        try expect(test.contents() == bytes, "a clean stop lost something")
    }

    private func kill() throws {
        try test.kill()
        expect(test.disk.lastStop == .killed, "a kill was taken for \(test.disk.lastStop)")
        try expect(test.contents() == bytes, "a kill lost something")
    }

    /// What is there now must be the flushed state and a prefix of the changes since.
    private func losePower() throws {
        try test.losePower(&random)
        let now = try test.contents()
        var candidate = flushed
        var kept = 0
        while candidate != now, kept < changes.count {
            let change = changes[kept]
            candidate.replaceSubrange(change.offset..<change.offset + change.bytes.count, with: change.bytes)
            kept += 1
        }
        expect(candidate == now, "after a power loss the disk is no prefix of its \(changes.count) unflushed changes")
        bytes = now
        flushed = now
        changes = []
        // Points above the cut are gone.
        guard case .powerLost(let last) = test.disk.lastStop else { return expect(false, "the power loss was not noticed") }
        points.removeAll { $0.sequence > last }
    }

    private func expect(_ condition: Bool, _ what: String) {
        if !condition, fault == nil { fault = what }
    }
}
