// Objects that are sealed rightly but hold nonsense, as a hostile target can forge them in a vault without encryption, and a
// broken writer in any: every one is an error or is read within bounds; nothing traps.

import BlockIO
import Foundation
import ObjectStore
import RecoveryPoints
import Testing
import Vault
import VaultFixtures

@Suite struct HostileTests {
    private static let numbers = ["0", "1", "4095", "9007199254740991", "9007199254740992", "18446744073709551615", "18446744073709551616", "-1", "1e400", "null", "\"x\""]
    private static let rounds = (Int(ProcessInfo.processInfo.environment["FARSHORE_CAMPAIGN_SCALE"] ?? "") ?? 1) * 150

    private func smallDisk(_ test: TestVault) throws -> ModelDisk {
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 4
        limits.deltasPerRollup = 2
        let disk = try ModelDisk(test.vault, sizeBytes: 2 << 20, seed: 1, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<6 { try disk.step(records: 3) }
        return disk
    }

    /// Everything a reader, a checker and a writer do with a disk; errors are what is wanted.
    private func useAll(_ test: TestVault, _ disk: ModelDisk) throws {
        let vault = try test.reopened()
        func tolerate(_ body: () throws -> Void) throws {
            do {
                try body()
            } catch is VaultError {
                return
            }
        }
        try tolerate { _ = try VaultCheck(vault: vault, readData: true, threads: 2).run() }
        try tolerate {
            guard let entry = try vault.catalog().document.disks.first, let history = try DiskHistory.newest(vault, entry) else { return }
            _ = try history.points()
            for sequence in [disk.sequences[0], disk.sequences[7], disk.sequence, history.newestSequence, 0, .max] {
                try tolerate { _ = try history.plan(at: sequence) }
                try tolerate { _ = try content(vault, history, disk.id, at: sequence) }
            }
            _ = try HistoryWriter(vault: vault, disk: disk.id).extend(
                history.state, through: history.newestSequence &+ 1, segments: [], points: [], checkpoint: true, epoch: 1)
        }
    }

    private func content(_ vault: Vault, _ history: DiskHistory, _ disk: VaultID, at sequence: UInt64) throws -> [UInt8] {
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let reader = try PointReader(sources, disk: disk, plan: try history.plan(at: sequence))
        // A forged size is not read to its end.
        var bytes = [UInt8](repeating: 0, count: Int(min(reader.sizeBytes, 2 << 20)))
        try bytes.withMutableBytes { buffer throws(VaultError) in try reader.read(into: buffer, at: 0) }
        return bytes
    }

    /// Puts another plaintext, sealed for the same place.
    private func forge(_ test: TestVault, _ place: ObjectPlace, _ plaintext: [UInt8]) throws -> Hash256 {
        let sealed = try plaintext.withUnsafeBytes { try SealedObject.seal($0, place: place, keys: test.vault.keys, generation: 1) }
        try Data(sealed).write(to: URL(filePath: test.file(place.key)))
        return try #require(Hash256(bytes: sha256(sealed)))
    }

    private func sha256(_ bytes: [UInt8]) throws -> [UInt8] {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/sha256sum")
        let (input, output) = (Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        try input.fileHandleForWriting.write(contentsOf: Data(bytes))
        try input.fileHandleForWriting.close()
        let text = String(decoding: try output.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
        process.waitUntilExit()
        return try #require(Hex.decode(String(text.prefix(64))))
    }

    private func mutated(_ json: [UInt8], _ random: inout SeededNumbers) -> [UInt8] {
        var text = String(decoding: json, as: UTF8.self)
        let values = text.matches(of: #/:([0-9]+)/#)
        guard let pick = values.randomElement(using: &random) else { return json }
        text.replaceSubrange(pick.output.1.startIndex..<pick.output.1.endIndex, with: Self.numbers.randomElement(using: &random)!)
        if Int.random(in: 0..<4, using: &random) == 0, let bracket = text.matches(of: #/\[\{/#).randomElement(using: &random) {
            text.replaceSubrange(bracket.range, with: "[{},{")
        }
        return Array(text.utf8)
    }

    @Test func forgedHeadsAndCatalogs() throws {
        let test = try TestVault(encrypted: false)
        let disk = try smallDisk(test)
        var random = SeededNumbers(seed: 100)
        let head = try #require(try test.vault.heads(group: disk.id).newest()).document.number
        let catalog = try test.vault.catalog().document.number
        for place in [ObjectPlace.head(group: disk.id, head), ObjectPlace.catalog(catalog)] {
            let kept = try Data(contentsOf: URL(filePath: test.file(place.key)))
            let json = try test.vault.read(place)
            for _ in 0..<Self.rounds {
                _ = try forge(test, place, mutated(json, &random))
                try useAll(test, disk)
                try kept.write(to: URL(filePath: test.file(place.key)))
            }
        }
        let history = try #require(try DiskHistory.newest(test.vault, try test.vault.disk("disk")))
        #expect(try content(test.vault, history, disk.id, at: disk.sequence) == disk.content(at: disk.sequence))
    }

    @Test func forgedManifests() throws {
        let test = try TestVault(encrypted: false)
        let disk = try smallDisk(test)
        var random = SeededNumbers(seed: 200)
        let head = try #require(try test.vault.heads(group: disk.id).newest()).document
        let headPlace = ObjectPlace.head(group: disk.id, head.number)
        let lineage = try #require(head.state(of: disk.id)?.current)
        for ref in [lineage.full] + lineage.tail {
            let place = ObjectPlace.manifest(disk: disk.id, lineage: lineage.id, sequence: ref.sequence)
            let kept = try (Data(contentsOf: URL(filePath: test.file(place.key))), Data(contentsOf: URL(filePath: test.file(headPlace.key))))
            let json = try test.vault.read(place)
            let headJSON = String(decoding: try test.vault.read(headPlace), as: UTF8.self)
            for _ in 0..<Self.rounds / 2 {
                let hash = try forge(test, place, mutated(json, &random))
                _ = try forge(test, headPlace, Array(headJSON.replacingOccurrences(of: "\(ref.hash)", with: "\(hash)").utf8))
                try useAll(test, disk)
                try kept.0.write(to: URL(filePath: test.file(place.key)))
                try kept.1.write(to: URL(filePath: test.file(headPlace.key)))
            }
        }
    }

    @Test func forgedSegments() throws {
        let test = try TestVault(encrypted: false)
        let disk = try smallDisk(test)
        var random = SeededNumbers(seed: 300)
        for key in try test.keys().filter({ $0.contains("/segments/") }).suffix(3) {
            let name = key.split(separator: "/").last!.split(separator: "-").map { UInt64($0)! }
            let place = ObjectPlace.segment(disk: disk.id, lineage: disk.lineage, first: name[0], last: name[1])
            let kept = try Data(contentsOf: URL(filePath: test.file(key)))
            let plaintext = try test.vault.read(place)
            for _ in 0..<Self.rounds / 2 {
                var bent = plaintext
                // Header and index, by whole fields or single bytes.
                for _ in 0..<Int.random(in: 1...3, using: &random) {
                    let offset = Int.random(in: 0..<64 * 4, using: &random)
                    if Bool.random(using: &random) {
                        bent.replaceSubrange(offset / 8 * 8..<offset / 8 * 8 + 8, with: [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, UInt8.random(in: 0...255, using: &random)])
                    } else {
                        bent[offset] = UInt8.random(in: 0...255, using: &random)
                    }
                }
                if Int.random(in: 0..<5, using: &random) == 0 { bent.removeLast(Int.random(in: 1..<bent.count, using: &random)) }
                _ = try forge(test, place, bent)
                try useAll(test, disk)
                try kept.write(to: URL(filePath: test.file(key)))
            }
        }
    }

    @Test func forgedMapPages() throws {
        let test = try TestVault(encrypted: false)
        _ = try smallDisk(test)
        var random = SeededNumbers(seed: 400)
        for key in try test.keys().filter({ $0.hasPrefix("maps/") }) {
            let page = try test.vault.read(.mapPage(try #require(Hash256(String(key.dropFirst(5))))))
            for _ in 0..<Self.rounds * 10 {
                var bent = page
                for _ in 0..<Int.random(in: 1...3, using: &random) { bent[Int.random(in: 0..<bent.count, using: &random)] = UInt8.random(in: 0...255, using: &random) }
                if Int.random(in: 0..<5, using: &random) == 0 { bent.removeLast(Int.random(in: 1..<bent.count, using: &random)) }
                guard case .leaf(let leaf)? = MapPage(bent, level: 0, firstBlock: 0) else { continue }
                #expect(leaf.runs.allSatisfy { Int($0.source) < leaf.sources.count && $0.count > 0 && Int($0.start) + Int($0.count) <= 16_384 })
            }
        }
    }
}
