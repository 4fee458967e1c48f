// Restores: the bytes of the point in every format, resumed after failures without fetching again, and the same bytes by
// a script that shares no code with Farshore.

import BlockIO
import DiskImage
import Foundation
import ObjectStore
import RecoveryPoints
import Synchronization
import Testing
import Vault
import VaultFixtures

@Suite struct RestoreTests {
    private static let restoreScript = "examples/restore-without-farshore/restore.py"

    private func reader(_ vault: Vault, _ disk: VaultID, at sequence: UInt64) throws -> (PointReader, PointSources) {
        let state = try #require(try vault.heads(group: disk).newest()?.document.state(of: disk))
        let sources = PointSources(vault: vault)
        return (try PointReader(sources, disk: disk, plan: try DiskHistory(vault: vault, state: state).plan(at: sequence)), sources)
    }

    private func replicated(_ vault: Vault, sizeBytes: Int, seed: UInt64) throws -> ModelDisk {
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 5
        limits.deltasPerRollup = 2
        let disk = try ModelDisk(vault, sizeBytes: sizeBytes, seed: seed, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<7 { try disk.step(records: 10) }
        return disk
    }

    private func content(_ path: String) throws -> [UInt8] {
        let image = try openImage(path, access: .readOnly)
        var bytes = [UInt8](repeating: 0, count: Int(image.sizeBytes))
        try bytes.withMutableBytes { buffer throws(SystemError) in try image.read(into: buffer, at: 0) }
        return bytes
    }

    @Test(arguments: OutputFormat.allCases) func everyFormatHoldsThePoint(format: OutputFormat) throws {
        let test = try TestVault()
        let disk = try replicated(test.vault, sizeBytes: 21 << 20, seed: 5)
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let sequence = disk.sequences[disk.sequences.count / 2]
        let (reader, sources) = try reader(test.vault, disk.id, at: sequence)
        defer { sources.close() }
        let path = directory + "/out"
        let restore = Restore(reader: reader, path: path, format: format) { _, _ in }
        _ = try restore.run(timeStamp: 7, replacing: false)
        #expect(try content(path) == disk.content(at: sequence))
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory) == ["out"])
        #expect(throws: RestoreError.self) { try restore.run(timeStamp: 7, replacing: false) }
    }

    /// Unless somebody else emptied its partial image, as a killed `image convert` to the same name does.
    @Test(arguments: [false, true]) func anInterruptedRestoreGoesOnWhereItStopped(isEmptied: Bool) throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        // Every chunk full, and different from all others.
        let disk = try ModelDisk(test.vault, sizeBytes: 64 << 20, seed: 6)
        disk.fill()
        try disk.replicateInitially()
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let path = directory + "/out"
        let chunks = try test.keys().filter { $0.hasPrefix("chunks/") }
        #expect(chunks.count == 64)
        // The last of the disk, so that others are done by then.
        let last = disk.content.suffix(1 << 20).withUnsafeBytes { ObjectPlace.chunk(test.vault.chunkRef(of: $0, epoch: 1)).key }
        #expect(chunks.contains(last))
        meddled.meddle { $0.fails = { $0 == last ? StoreError(.timedOut, "no answer", try: "later") : nil } }
        func run() throws -> Restore.Outcome {
            let (reader, sources) = try reader(test.vault, disk.id, at: disk.sequence)
            defer { sources.close() }
            return try Restore(reader: reader, path: path, format: .raw) { _, _ in }.run(timeStamp: 0, replacing: false)
        }
        #expect(throws: RestoreError.self) { try run() }
        #expect(!FileManager.default.fileExists(atPath: path))
        if isEmptied {
            let other = try OutputImage.begin(path, format: .raw, sizeBytes: 64 << 20, uniqueID: disk.id.bytes, timeStamp: 0)
            try [UInt8](repeating: 0xEE, count: 1 << 20).withUnsafeBytes { try other.image.write($0, at: 0) }
        }
        meddled.meddle { $0.fails = { _ in nil } }
        meddled.resetCounts()
        let outcome = try run()
        #expect((outcome.resumedBytes == 0) == isEmptied && outcome.resumedBytes + outcome.writtenBytes == 64 << 20)
        // What was done is not fetched again: data came to what was missing, with room for tables and metadata.
        #expect(meddled.counts.getBytes < Int(outcome.writtenBytes) + (2 << 20))
        #expect(try content(path) == disk.content(at: disk.sequence))
    }

    /// Killed before its own first note, a restore must leave no note of another one about the partial image it emptied.
    @Test(arguments: [false, true]) func aPartialImageThatIsThrownAwayLeavesNoNote(isRemoved: Bool) throws {
        var meddled: MeddledStore!
        let test = try TestVault { inner in
            meddled = MeddledStore(inner)
            return meddled
        }
        let disk = try ModelDisk(test.vault, sizeBytes: 64 << 20, seed: 6)
        disk.fill()
        try disk.replicateInitially()
        let first = disk.sequence
        try disk.step(records: 1)
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let path = directory + "/out"
        let last = try test.keys().last { $0.hasPrefix("chunks/") }
        func run(at sequence: UInt64) throws {
            let (reader, sources) = try reader(test.vault, disk.id, at: sequence)
            defer { sources.close() }
            _ = try Restore(reader: reader, path: path, format: .raw) { _, _ in }.run(timeStamp: 0, replacing: false)
        }
        let timedOut = StoreError(.timedOut, "no answer", try: "later")
        meddled.meddle { $0.fails = { $0 == last ? timedOut : nil } }
        #expect(throws: RestoreError.self) { try run(at: first) }
        let notes = try FileManager.default.contentsOfDirectory(atPath: directory).filter { $0.hasSuffix(".farshore-restore") }
        #expect(notes.count == 1)
        if isRemoved { try FileManager.default.removeItem(atPath: path + OutputImage.partialSuffix) }
        let seen = Mutex<[Bool]>([])
        meddled.meddle {
            $0.fails = { key in
                guard key.hasPrefix("chunks/") else { return nil }
                seen.withLock { $0.append(FileManager.default.fileExists(atPath: directory + "/" + notes[0])) }
                return timedOut
            }
        }
        #expect(throws: RestoreError.self) { try run(at: isRemoved ? first : disk.sequence) }
        #expect(seen.withLock { $0.first } == false)
    }

    /// A child knows its parent by its id alone: another point in the parent's place must not be taken for it.
    @Test(arguments: [OutputFormat.vhdFixed, .vhdDynamic]) func aChildOfOnePointIsNoneOfAnother(format: OutputFormat) throws {
        let test = try TestVault()
        let disk = try replicated(test.vault, sizeBytes: 5 << 20, seed: 9)
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let (base, child, raw) = (directory + "/base.vhd", directory + "/child.vhd", directory + "/child.raw")
        func footer(afterRestoring point: RecoveryPoint) throws -> Data {
            let (reader, sources) = try reader(test.vault, disk.id, at: point.sequence)
            defer { sources.close() }
            _ = try Restore(reader: reader, path: base, format: format) { _, _ in }.run(timeStamp: 7, replacing: true)
            return try Data(contentsOf: URL(filePath: base)).suffix(512)
        }
        let first = try footer(afterRestoring: disk.points[1])
        #expect(try python("Tests/tools/vhd.py", ["child", child, raw, "--parent", base]) == 0)
        let model = try [UInt8](Data(contentsOf: URL(filePath: raw)))
        #expect(try content(child) == model)
        #expect(try footer(afterRestoring: disk.points[2]) != first)
        let error = #expect(throws: ImageError.self) { _ = try content(child) }
        guard case .brokenChain = error else { Issue.record("\(String(describing: error))"); return }
        #expect(try footer(afterRestoring: disk.points[1]) == first)
        #expect(try content(child) == model)
    }

    /// The vector is by Python's hashlib, from the format page.
    @Test func aPointHasItsOwnIDAndTime() throws {
        let vault = try #require(VaultID(bytes: [UInt8](0..<16))), named = try #require(VaultID(bytes: [UInt8](16..<32)))
        let id = try #require(VaultID(bytes: pointImageID(vault: vault, disk: named, sequence: 0x0102030405, format: .vhdDynamic)))
        #expect(id.description == "e2bfae1ef8b41f58faf1379bf789d956")
        let test = try TestVault()
        let disk = try replicated(test.vault, sizeBytes: 1 << 20, seed: 10)
        for sequence in disk.sequences {
            let (reader, sources) = try reader(test.vault, disk.id, at: sequence)
            defer { sources.close() }
            #expect(reader.point == disk.points.first { $0.sequence == sequence })
        }
    }

    @Test func damageStopsTheRestoreAndNamesTheObject() throws {
        let test = try TestVault()
        let disk = try replicated(test.vault, sizeBytes: 9 << 20, seed: 7)
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let chunk = try #require(try test.keys().first { $0.hasPrefix("chunks/") })
        try test.flipBit(chunk, at: 3000)
        let (reader, sources) = try reader(test.vault, disk.id, at: disk.points[0].sequence)
        defer { sources.close() }
        #expect {
            _ = try Restore(reader: reader, path: directory + "/out", format: .raw) { _, _ in }.run(timeStamp: 0, replacing: false)
        } throws: { "\($0)".contains(chunk) }
        #expect(!FileManager.default.fileExists(atPath: directory + "/out"))
    }

    /// Promise P4: Every point can be recovered with only the vault and its key.
    ///
    /// The script in examples/ was written from the format page; it must find the same bytes.
    @Test(arguments: [KeySource.keyFile(TestVault.keyBytes), .passphrase(Array("open sesame".utf8)), .none])
    func theScriptRestoresTheSameBytes(key: KeySource) throws {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = try DirectoryStore(root: directory + "/vault", create: true)
        let (vault, kit) = try Vault.create(store: store, protection: key, memory: HeadMemory(folder: nil))
        let disk = try replicated(vault, sizeBytes: (65 << 20) + 1024, seed: 8)
        try Data(TestVault.keyBytes).write(to: URL(filePath: directory + "/key"))
        try Data("open sesame\n".utf8).write(to: URL(filePath: directory + "/pass"))
        try Data(kit.text.utf8).write(to: URL(filePath: directory + "/kit"))
        let options: [[String]] =
            switch key {
            case .passphrase: [["--passphrase-file", directory + "/pass"], ["--key-file", directory + "/kit"]]
            case .none: [[]]
            default: [["--key-file", directory + "/key"]]
            }
        let picks = [disk.sequences[1], disk.sequences[disk.sequences.count / 2], disk.sequence]
        for (number, sequence) in picks.enumerated() {
            let output = directory + "/out.raw"
            let status = try python(Self.restoreScript, [directory + "/vault", "disk", output, "--at", "\(sequence)"] + options[number % options.count])
            #expect(status == 0)
            #expect(try [UInt8](Data(contentsOf: URL(filePath: output))) == disk.content(at: sequence), "sequence \(sequence)")
        }
    }

    /// A history that left some of the one before behind, as failovers make them: points of both, and sequences between points.
    @Test(arguments: [KeySource.keyFile(TestVault.keyBytes), .none]) func theScriptRestoresEveryPointOfBranchedHistories(key: KeySource) throws {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = try DirectoryStore(root: directory + "/vault", create: true)
        let (vault, _) = try Vault.create(store: store, protection: key, memory: HeadMemory(folder: nil))
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 4
        limits.deltasPerRollup = 2
        let disk = try ModelDisk(vault, sizeBytes: (1 << 20) + 512, seed: 17, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<6 { try disk.step(records: 5) }
        var expected: [UInt64: [UInt8]] = [:]
        func keep() { for sequence in disk.points.map(\.sequence) + disk.sequences.suffix(9) where expected[sequence] == nil { expected[sequence] = disk.content(at: sequence) } }
        keep()
        let (branch, lineage) = (disk.points[4].sequence, VaultID.random())
        let heads = vault.heads(group: disk.id)
        let next = try disk.writer.branch(try #require(try heads.newest()?.document.state(of: disk.id)), to: lineage, at: branch, epoch: 1)
        try heads.update(epoch: disk.epoch) { $0.set(next) }
        try disk.branched(at: branch, lineage: lineage)
        for _ in 0..<6 { try disk.step(records: 5) }
        keep()
        try Data(TestVault.keyBytes).write(to: URL(filePath: directory + "/key"))
        let options = if case .none = key { [String]() } else { ["--key-file", directory + "/key"] }
        for (sequence, content) in expected {
            let output = directory + "/out.raw"
            #expect(try python(Self.restoreScript, [directory + "/vault", "disk", output, "--at", "\(sequence)"] + options) == 0)
            #expect(try [UInt8](Data(contentsOf: URL(filePath: output))) == content, "sequence \(sequence)")
        }
        #expect(expected.count > 24)
    }

    /// Points before and after what was left of mostly dead objects was copied.
    @Test func theScriptRestoresWhatWasCleaned() throws {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let (vault, _) = try Vault.create(store: try DirectoryStore(root: directory + "/vault", create: true), protection: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil))
        try Data(TestVault.keyBytes).write(to: URL(filePath: directory + "/key"))
        var (limits, cleaned) = (HistoryWriter.Limits(), Cleaning.Limits())
        (limits.manifestsPerFull, limits.deltasPerRollup, cleaned.blocksPerStepMin) = (4, 2, 24)
        let disk = try ModelDisk(vault, sizeBytes: (2 << 20) + 512, seed: 23, limits: limits)
        disk.cleaning = Cleaning(vault: vault, disk: disk.id, limits: cleaned)
        try disk.replicateInitially()
        var copied = 0
        for _ in 0..<40 {
            try disk.step(records: 2)
            try disk.thin(Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 20), .init(periodSeconds: 40, spanSeconds: 1_000)]))
            copied += try disk.clean().objects
        }
        #expect(copied > 10)
        let points = try #require(try DiskHistory.newest(vault, try vault.disk("disk"))).points()
        #expect(points.count >= 6)
        for point in points {
            let output = directory + "/out.raw"
            #expect(try python(Self.restoreScript, [directory + "/vault", "disk", output, "--at", "\(point.sequence)", "--key-file", directory + "/key"]) == 0)
            #expect(try [UInt8](Data(contentsOf: URL(filePath: output))) == disk.content(at: point.sequence), "#\(point.sequence)")
        }
    }

    private func python(_ script: String, _ arguments: [String]) throws -> Int32 {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = ["python3", root.appending(path: script).path] + arguments
        process.standardOutput = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        return process.terminationStatus
    }
}
