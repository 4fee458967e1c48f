// The image of a recovery disk against a model: what was written, and the point where nothing was.

import BlockIO
import DiskImage
import Foundation
import ObjectStore
import RecoveryPoints
import Synchronization
import Testing
import Vault
import VaultFixtures

/// A point of a vault, and the files of a recovery disk made from it.
final class FilledImage {
    let folder: String
    let sources: PointSources
    let base: RecoveryBase
    let content: [UInt8]
    private let disk: ModelDisk
    /// Its directory goes with it.
    private let test: TestVault
    let isAway = Away()

    final class Away: Sendable {
        let flag = Mutex(false)
        struct Error: Swift.Error {}
    }

    var basePath: String { folder + "/base" }
    var presencePath: String { folder + "/presence" }
    var imagePath: String { folder + "/image" }

    init(_ test: TestVault, seed: UInt64, sizeBytes: Int = (3 << 20) + 512) throws {
        self.test = test
        folder = try temporaryDirectory()
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 4
        disk = try ModelDisk(test.vault, sizeBytes: sizeBytes, seed: seed, limits: limits)
        try disk.replicateInitially()
        for _ in 0..<6 { try disk.step(records: 8) }
        let sequence = disk.points[disk.points.count - 2].sequence
        content = disk.content(at: sequence)
        base = RecoveryBase(vault: test.vault.id, disk: disk.id, lineage: disk.lineage, sequence: sequence, sizeBytes: UInt64(sizeBytes))
        sources = PointSources(vault: try test.reopened())
        try Descriptor.open(imagePath, O_RDWR | O_CREAT).truncate(to: UInt64(sizeBytes))
        try PresenceMap.create(presencePath, for: base)
        try base.store(basePath)
    }

    deinit {
        sources.close()
        try? FileManager.default.removeItem(atPath: folder)
    }

    func source() throws -> RecoverySource {
        RecoverySource(name: "d", open: { [sources, base, isAway] in
            if isAway.flag.withLock({ $0 }) { throw Away.Error() }
            let entry = try sources.vault.disk(base.disk.description)
            guard let history = try DiskHistory.newest(sources.vault, entry) else { throw Away.Error() }
            return try PointReader(sources, disk: base.disk, plan: try history.plan(at: base.sequence))
        }) { _ in }
    }

    func open(_ local: (any ImageFile)? = nil, listener: FileChangeListener? = nil) throws -> RecoveryImage {
        RecoveryImage(
            local: try local ?? openImage(imagePath, access: .readWrite, format: .raw), base: try #require(try RecoveryBase.load(basePath)),
            presence: try PresenceMap(presencePath, for: base, listener: listener), source: try source())
    }

    func plan(_ ended: @escaping @Sendable () -> Void = {}) -> Hydration.Plan {
        var plan = Hydration.Plan(basePath: basePath, presencePath: presencePath, ended: ended)
        (plan.retryMilliseconds, plan.againMilliseconds) = (20, 20)
        return plan
    }
}

extension ImageFile {
    func bytes(_ offset: Int, _ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        var failure: SystemError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(SystemError) { try read(into: buffer, at: UInt64(offset)) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    func put(_ bytes: [UInt8], at offset: Int) throws {
        var failure: SystemError?
        bytes.withUnsafeBytes { buffer in
            do throws(SystemError) { try write(buffer, at: UInt64(offset)) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

@Suite struct RecoveryImageTests {
    @Test(arguments: [1, 2, 3, 4] as [UInt64]) func readsWhatWasWrittenAndElseThePoint(seed: UInt64) throws {
        let filled = try FilledImage(try TestVault(encrypted: seed % 2 == 0), seed: seed)
        var numbers = SeededNumbers(seed: seed + 100)
        var model = filled.content
        var image = try filled.open()
        #expect(image.sizeBytes == UInt64(model.count) && image.localBytes == 0)
        for step in 0..<300 {
            // By sectors: blocks are touched in part as well, and the disk ends inside one.
            let start = Int.random(in: 0..<model.count / 512, using: &numbers) * 512
            let count = min(Int.random(in: 1...100, using: &numbers) * 512, model.count - start)
            switch Int.random(in: 0..<12, using: &numbers) {
            case 0...3:
                let bytes = numbers.bytes(count)
                try image.put(bytes, at: start)
                model.replaceSubrange(start..<start + count, with: bytes)
            case 4:
                try image.zero(at: UInt64(start), length: UInt64(count))
                model.replaceSubrange(start..<start + count, with: repeatElement(0, count: count))
            case 5: try checkHoles(image, model, from: start)
            case 6:
                // A restart.
                try image.flush()
                image = try filled.open()
            case 7:
                var bytes = [UInt8](repeating: 0xEE, count: count)
                let isThere = bytes.withUnsafeMutableBytes { image.readIfCached(into: $0, at: UInt64(start)) }
                if isThere { #expect(bytes == Array(model[start..<start + count]), "step \(step)") }
            default: #expect(try image.bytes(start, count) == Array(model[start..<start + count]), "step \(step): \(count) bytes at \(start)")
            }
        }
        #expect(try image.bytes(0, model.count) == model)
        #expect(image.localBytes == image.base.sizeBytes, "what was read is kept")
        #expect(throws: SystemError.self) { try image.bytes(model.count - 512, 1024) }
    }

    private func checkHoles(_ image: RecoveryImage, _ model: [UInt8], from start: Int) throws {
        let data = try image.nextData(from: UInt64(start)).map(Int.init) ?? model.count
        #expect(data >= start && model[start..<data].allSatisfy { $0 == 0 }, "data is told of from \(data), but some lies before")
        let hole = Int(try image.nextHole(from: UInt64(start)))
        #expect(hole >= start && hole <= model.count)
        if hole < model.count { #expect(model[hole..<min(hole + 512, model.count)].allSatisfy { $0 == 0 }, "no hole at \(hole)") }
    }

    @Test(arguments: [1, 2, 3] as [UInt64]) func fillingNeverCoversWhatWasWrittenMeanwhile(seed: UInt64) throws {
        let store = MemoryStore()
        let filled = try FilledImage(try TestVault(wrap: { _ in store }), seed: seed, sizeBytes: 6 << 20)
        store.setLatency(microseconds: 300)
        let image = try filled.open()
        let ended = Mutex(false)
        let hydration = try Hydration(image, filled.plan { ended.withLock { $0 = true } })
        let content = filled.content
        let model = Mutex(content)
        let wrong = Mutex(0)
        // Blocks of even number are written, those of odd number are read all the while.
        let writer = try OwnThread(name: "writer") {
            var numbers = SeededNumbers(seed: seed)
            for _ in 0..<1_500 {
                let block = Int.random(in: 0..<(6 << 20) / 8192, using: &numbers) * 8192
                if Bool.random(using: &numbers) {
                    let bytes = numbers.bytes(4096)
                    try? image.put(bytes, at: block)
                    model.withLock { $0.replaceSubrange(block..<block + 4096, with: bytes) }
                } else {
                    try? image.zero(at: UInt64(block), length: 4096)
                    model.withLock { $0.replaceSubrange(block..<block + 4096, with: repeatElement(0, count: 4096)) }
                }
            }
        }
        let reader = try OwnThread(name: "reader") {
            var numbers = SeededNumbers(seed: seed + 9)
            for _ in 0..<1_500 {
                let block = Int.random(in: 0..<(6 << 20) / 8192, using: &numbers) * 8192 + 4096
                let found = try? image.bytes(block, 4096)
                if found != Array(content[block..<block + 4096]) { wrong.withLock { $0 += 1 } }
            }
        }
        writer.join()
        reader.join()
        hydration.join()
        #expect(wrong.withLock { $0 } == 0)
        #expect(ended.withLock { $0 } && image.standsAlone)
        #expect(try image.bytes(0, 6 << 20) == model.withLock { $0 })
        #expect(try [UInt8](Data(contentsOf: URL(filePath: filled.imagePath))) == model.withLock { $0 }, "the image stands alone")
        #expect(try RecoveryBase.load(filled.basePath) == nil && !FileManager.default.fileExists(atPath: filled.presencePath))
    }

    @Test func fillingGoesOnAfterARestart() throws {
        let store = MemoryStore()
        let filled = try FilledImage(try TestVault(wrap: { _ in store }), seed: 5, sizeBytes: 6 << 20)
        // Up to a limit that never lets more go.
        let fetched = Mutex(0)
        var slow = Hydration.Plan(basePath: filled.basePath, presencePath: filled.presencePath, pace: { bytes, isOver in
            fetched.withLock { $0 += bytes }
            while fetched.withLock({ $0 }) > 3 << 20, !isOver() { usleep(1_000) }
        })
        slow.retryMilliseconds = 20
        let first = try filled.open()
        let hydration = try Hydration(first, slow)
        while fetched.withLock({ $0 }) <= 3 << 20 { usleep(1_000) }
        let local = first.localBytes
        #expect(local > 0 && local < 6 << 20)
        hydration.stop()
        hydration.join()
        try first.flush()
        let second = try filled.open()
        #expect(second.localBytes == local)
        let again = Mutex(0)
        let rest = try Hydration(second, Hydration.Plan(
            basePath: filled.basePath, presencePath: filled.presencePath, pace: { bytes, _ in again.withLock { $0 += bytes } }))
        rest.join()
        #expect(second.standsAlone && again.withLock { $0 } <= (6 << 20) - Int(local), "what was there is not fetched again")
        #expect(rest.status.doneBytes == rest.status.totalBytes)
        #expect(try [UInt8](Data(contentsOf: URL(filePath: filled.imagePath))) == filled.content)
    }

    @Test func aBlockThatTheVaultLostIsAnErrorUntilItIsWritten() throws {
        let test = try TestVault()
        let filled = try FilledImage(test, seed: 6, sizeBytes: 4 << 20)
        for key in try test.keys() where key.hasPrefix("chunks/") { try FileManager.default.removeItem(atPath: test.file(key)) }
        let image = try filled.open()
        let lost = stride(from: 0, to: 4 << 20, by: 4096).filter { (try? image.bytes($0, 4096)) == nil }
        #expect(!lost.isEmpty && lost.count < 1024)
        for block in 0..<1024 where !lost.contains(block * 4096) {
            #expect(try image.bytes(block * 4096, 4096) == Array(filled.content[block * 4096..<(block + 1) * 4096]), "only what was lost is an error")
        }
        let hydration = try Hydration(image, filled.plan())
        while hydration.status.problem == nil || hydration.status.doneBytes < hydration.status.totalBytes ?? .max { usleep(1_000) }
        #expect(!image.standsAlone)
        #expect(try RecoveryBase.load(filled.basePath) != nil)
        #expect(throws: SystemError.self, "a part of a lost block cannot be written") { try image.put([UInt8](repeating: 1, count: 512), at: lost[0]) }
        for block in lost { try image.put([UInt8](repeating: 7, count: 4096), at: block) }
        hydration.join()
        #expect(image.standsAlone && hydration.status.problem == nil)
        for block in lost { #expect(try image.bytes(block, 4096) == [UInt8](repeating: 7, count: 4096)) }
    }

    @Test func whatIsLocalIsServedWhileTheVaultIsAway() throws {
        let filled = try FilledImage(try TestVault(), seed: 7)
        filled.isAway.flag.withLock { $0 = true }
        let image = try filled.open()
        let hydration = try Hydration(image, filled.plan())
        let bytes = [UInt8](repeating: 9, count: 8192)
        try image.put(bytes, at: 4096)
        #expect(try image.bytes(4096, 8192) == bytes)
        try image.flush()
        while hydration.status.problem == nil { usleep(1_000) }
        #expect(image.source.problem != nil && !image.standsAlone)
        // A read of what is not there waits, and has its data when the vault is back.
        let found = Mutex<[UInt8]?>(nil)
        let reader = try OwnThread(name: "reader") { [content = filled.content] in
            let read = try? image.bytes(0, 4096)
            found.withLock { $0 = read == Array(content[..<4096]) ? read : [] }
        }
        while image.source.waiting == 0 { usleep(1_000) }
        usleep(50_000)
        #expect(found.withLock { $0 } == nil)
        filled.isAway.flag.withLock { $0 = false }
        reader.join()
        #expect(found.withLock { $0?.count } == 4096)
        hydration.join()
        #expect(image.standsAlone && image.source.problem == nil)
    }

    @Test func aReadThatWaitsEndsWithTheDisk() throws {
        let filled = try FilledImage(try TestVault(), seed: 8)
        filled.isAway.flag.withLock { $0 = true }
        let image = try filled.open()
        let failure = Mutex<Int32?>(nil)
        let reader = try OwnThread(name: "reader") {
            do { _ = try image.bytes(0, 512) } catch { failure.withLock { $0 = (error as? SystemError)?.errno } }
        }
        while image.source.waiting == 0 { usleep(1_000) }
        image.seal()
        reader.join()
        #expect(failure.withLock { $0 } == EIO)
    }

    @Test func filesThatAreNotOfThisDiskAreRefused() throws {
        let test = try TestVault()
        let filled = try FilledImage(test, seed: 9)
        let image = try filled.open()
        try image.put([UInt8](repeating: 1, count: 4096), at: 0)
        try image.flush()
        let whole = try [UInt8](Data(contentsOf: URL(filePath: filled.presencePath)))
        #expect(whole.count == 1024, "a sector of bits")
        for place in stride(from: 0, to: whole.count, by: 37) {
            var changed = whole
            changed[place] ^= 0x20
            try Data(changed).write(to: URL(filePath: filled.presencePath))
            #expect(throws: ImageError.self, "byte \(place) was changed") { try filled.open() }
        }
        try Data(whole[..<700]).write(to: URL(filePath: filled.presencePath))
        #expect(throws: ImageError.self) { try filled.open() }
        try FileManager.default.removeItem(atPath: filled.presencePath)
        #expect(throws: ImageError.self, "without it written blocks would read as the point") { try filled.open() }
        try Data("{}".utf8).write(to: URL(filePath: filled.basePath))
        #expect(throws: ImageError.self) { try RecoveryBase.load(filled.basePath) }
    }
}
