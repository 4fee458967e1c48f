// Throw-away copies of points: writes stay in the copy, and what of a point was looked at says which other points are the same for it.

import BlockIO
import Foundation
import RecoveryPoints
import Synchronization
import Testing
import Vault
import VaultFixtures
import VirtualDisk

@Suite struct ScratchDiskTests {
    private func reader(_ vault: Vault, _ disk: VaultID, at sequence: UInt64, _ sources: PointSources) throws -> PointReader {
        let state = try #require(try vault.heads(group: disk).newest()?.document.state(of: disk))
        return try PointReader(sources, disk: disk, plan: try DiskHistory(vault: vault, state: state).plan(at: sequence))
    }

    private func bytes(of disk: any ServedDisk, _ offset: Int, _ count: Int) throws -> [UInt8] {
        try [UInt8].filled(count) { buffer throws(SystemError) in try disk.read(into: buffer, at: UInt64(offset)) }
    }

    @Test func writesStayInTheCopyAndEverythingElseIsThePoint() throws {
        let test = try TestVault()
        let disk = try ModelDisk(test.vault, sizeBytes: (3 << 20) + 512, seed: 71)
        try disk.replicateInitially()
        for _ in 0..<4 { try disk.step(records: 8) }
        let sources = PointSources(vault: test.vault)
        defer { sources.close() }
        let point = PointDisk(name: "disk", reader: try reader(test.vault, disk.id, at: disk.sequence, sources)) { _ in }
        let scratch = try ScratchDisk(point, folder: test.directory, limitBytes: 16 << 20)
        var model = disk.content(at: disk.sequence)
        let original = model
        var numbers = SeededNumbers(seed: 72)
        for step in 0..<300 {
            let start = Int.random(in: 0..<model.count, using: &numbers)
            let count = Int.random(in: 1...min(model.count - start, step % 9 == 0 ? 300_000 : 9_000), using: &numbers)
            switch step % 3 {
            case 0:
                let data = numbers.bytes(count)
                try data.withUnsafeBytes { try scratch.write($0, at: UInt64(start), sequenceSlot: nil) }
                model.replaceSubrange(start..<start + count, with: data)
            case 1 where step % 6 == 1:
                try scratch.zero(at: UInt64(start), length: UInt64(count), mayFree: true, sequenceSlot: nil)
                model.replaceSubrange(start..<start + count, with: [UInt8](repeating: 0, count: count))
            default:
                #expect(try bytes(of: scratch, start, count) == Array(model[start..<start + count]), "step \(step), \(count) bytes at \(start)")
            }
        }
        #expect(try bytes(of: scratch, 0, model.count) == model)
        #expect(try bytes(of: point, 0, model.count) == original)
        #expect(try FileManager.default.contentsOfDirectory(atPath: test.directory).allSatisfy { !$0.contains("scratch") })
    }

    @Test func whatDoesNotFitIsNoSpace() throws {
        let test = try TestVault()
        let disk = try ModelDisk(test.vault, sizeBytes: 4 << 20, seed: 73)
        try disk.replicateInitially()
        let sources = PointSources(vault: test.vault)
        defer { sources.close() }
        let point = PointDisk(name: "disk", reader: try reader(test.vault, disk.id, at: disk.sequence, sources)) { _ in }
        let scratch = try ScratchDisk(point, folder: test.directory, limitBytes: 1 << 20)
        let data = [UInt8](repeating: 1, count: 512 << 10)
        try data.withUnsafeBytes { try scratch.write($0, at: 0, sequenceSlot: nil) }
        #expect {
            for place in 1..<4 { try data.withUnsafeBytes { try scratch.write($0, at: UInt64(place) << 20, sequenceSlot: nil) } }
        } throws: { ($0 as? SystemError)?.errno == ENOSPC }
    }

    /// For every pair of points and every block: the same place says the same bytes, and a block that was written in between has another.
    @Test func anUntouchedBlockIsKnownByItsPlace() throws {
        let test = try TestVault()
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 6
        limits.deltasPerRollup = 3
        let disk = try ModelDisk(test.vault, sizeBytes: 3 << 20, seed: 75, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<14 { try disk.step(records: 2) }
        let sources = PointSources(vault: test.vault, knownChangesMax: 10_000)
        defer { sources.close() }
        let sequences = disk.points.map(\.sequence)
        let readers = try sequences.map { try reader(test.vault, disk.id, at: $0, sources) }
        let contents = sequences.map { disk.content(at: $0) }
        var untouched = 0
        for older in readers.indices {
            for newer in older..<readers.count {
                for block in stride(from: UInt64(0), to: 768, by: 13) {
                    var blocks = BlockSet()
                    blocks.insert(block..<block + 5)
                    let range = Int(block) * 4096..<min((Int(block) + 5) * 4096, 3 << 20)
                    let isSame = try readers[newer].has(blocks, as: readers[older])
                    if isSame { #expect(contents[older][range] == contents[newer][range], "block \(block) at #\(sequences[older]) and #\(sequences[newer])") }
                    if isSame && older < newer { untouched += 1 }
                }
            }
        }
        #expect(untouched > 1_000, "only \(untouched) were known to be the same")
    }

    @Test func versionsAreFoundWithFewLooks() throws {
        var numbers = SeededNumbers(seed: 77)
        for round in 0..<200 {
            // What a look has read changes at some states; the value only at some of those, and may come back.
            let count = Int.random(in: 1...120, using: &numbers)
            var place = 0
            var value = 0
            var states: [(place: Int, value: Int)] = []
            for _ in 0..<count {
                if Int.random(in: 0..<7, using: &numbers) == 0 {
                    place += 1
                    if Bool.random(using: &numbers) { value = Int.random(in: 0..<3, using: &numbers) }
                }
                states.append((place, value))
            }
            let lineages = [VaultID.random(), VaultID.random(), nil]
            var search = VersionSearch<Int>(states.indices.map { .init(sequence: UInt64($0), stretch: lineages[$0 * 3 / count]) })
            var looks = 0
            var last = 0
            while search.left > 0 {
                search.step(look: { state in
                    looks += 1
                    last = state
                    return states[state].value
                }, isUntouched: { states[$0].place == states[last].place })
            }
            let found = search.versions.flatMap { version in (version.first...version.last).map { _ in version.value } }
            #expect(found == states.map(\.value), "round \(round)")
            #expect(zip(search.versions, search.versions.dropFirst()).allSatisfy { $0.value != $1.value })
            let different = Set(states.map(\.place)).count
            #expect(looks == different, "round \(round): \(looks) looks for \(different) different states")
        }
    }
}
