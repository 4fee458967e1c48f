// Kills and power losses between any two writes of a recovery disk's image and of its presence file: afterwards each sector is as it was
// flushed last, or as it was written since.

import BlockIO
import DiskImage
import Foundation
import RecoveryPoints
import Synchronization
import Testing
import Vault
import VaultFixtures

/// What happened to which of the two files.
private struct Change {
    let isOfImage: Bool
    let what: FileChange
}

private final class Journal: Sendable {
    private let all = Mutex<[Change]>([])
    var changes: [Change] { all.withLock { $0 } }
    var count: Int { all.withLock { $0.count } }
    func note(_ what: FileChange, isOfImage: Bool) { all.withLock { $0.append(Change(isOfImage: isOfImage, what: what)) } }
}

/// The local image, in memory, every change told of.
private final class JournalledImage: ImageFile {
    let path = "image"
    let files: [OpenedFile] = []
    let sizeBytes: UInt64
    private let journal: Journal
    private let content: Mutex<[UInt8]>

    init(_ bytes: [UInt8], _ journal: Journal) {
        sizeBytes = UInt64(bytes.count)
        self.journal = journal
        content = Mutex(bytes)
    }

    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) {
        content.withLock { content in buffer.copyBytes(from: content[Int(offset)..<Int(offset) + buffer.count]) }
    }

    func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) {
        journal.note(.write(at: offset, Array(buffer)), isOfImage: true)
        content.withLock { $0.replaceSubrange(Int(offset)..<Int(offset) + buffer.count, with: buffer) }
    }

    func zero(at offset: UInt64, length: UInt64) {
        journal.note(.zero(at: offset, length: length), isOfImage: true)
        content.withLock { $0.replaceSubrange(Int(offset)..<Int(offset + length), with: repeatElement(0, count: Int(length))) }
    }

    func flush() { journal.note(.sync, isOfImage: true) }
    func nextData(from offset: UInt64) -> UInt64? { offset }
    func nextHole(from offset: UInt64) -> UInt64 { sizeBytes }
}

@Suite struct RecoveryImageCrashTests {
    private static let scale = Int(ProcessInfo.processInfo.environment["FARSHORE_CAMPAIGN_SCALE"] ?? "") ?? 1

    private enum Loss: CaseIterable { case none, all, changes, sectors }

    private struct Step {
        var puts: (start: Int, bytes: [UInt8])?
        let before: Int
        var after = 0
    }

    /// Promise V2: What a recovery disk acknowledged as durable survives kill -9, a power loss and the loss of its vault, however much of it is filled.
    @Test(arguments: [1, 2] as [UInt64]) func aCrashAnywhereLosesNothingFlushed(seed: UInt64) throws {
        let filled = try FilledImage(try TestVault(), seed: seed, sizeBytes: 1 << 20)
        var numbers = SeededNumbers(seed: seed)
        let empty = try [UInt8](Data(contentsOf: URL(filePath: filled.presencePath)))
        var image = [UInt8](repeating: 0, count: 1 << 20)
        var presence = empty
        var start = filled.content
        // Each round begins with what the crash before left.
        for _ in 0..<3 {
            let (changes, steps) = try run(filled, image, presence, &numbers)
            for _ in 0..<8 * Self.scale {
                let count = Int.random(in: 0...changes.count, using: &numbers)
                let allowed = allowedSectors(start, steps, count)
                for loss in Loss.allCases {
                    let left = (
                        lost(image, changes, count, ofImage: true, loss, &numbers), lost(presence, changes, count, ofImage: false, loss, &numbers)
                    )
                    try Data(left.1).write(to: URL(filePath: filled.presencePath))
                    let found = try filled.open(JournalledImage(left.0, Journal())).bytes(0, 1 << 20)
                    for sector in allowed.indices where !allowed[sector].contains(Array(found[sector * 512..<sector * 512 + 512])) {
                        Issue.record("seed \(seed), \(loss) after \(count) of \(changes.count) changes: sector \(sector)")
                        return
                    }
                }
            }
            image = lost(image, changes, changes.count, ofImage: true, .sectors, &numbers)
            presence = lost(presence, changes, changes.count, ofImage: false, .sectors, &numbers)
            try Data(presence).write(to: URL(filePath: filled.presencePath))
            start = try filled.open(JournalledImage(image, Journal())).bytes(0, 1 << 20)
        }
    }

    /// Writes, zeros, flushes, and reads, which keep what they fetched.
    private func run(_ filled: FilledImage, _ bytes: [UInt8], _ presence: [UInt8], _ numbers: inout SeededNumbers) throws -> ([Change], [Step]) {
        try Data(presence).write(to: URL(filePath: filled.presencePath))
        let journal = Journal()
        let image = try filled.open(JournalledImage(bytes, journal)) { journal.note($0, isOfImage: false) }
        var steps: [Step] = []
        for _ in 0..<60 {
            let sector = Int.random(in: 0..<2048, using: &numbers)
            let count = min(Int.random(in: 1...24, using: &numbers), 2048 - sector) * 512
            var step = Step(before: journal.count)
            switch Int.random(in: 0..<10, using: &numbers) {
            case 0...1:
                try image.flush()
            case 2...4:
                _ = try image.bytes(sector * 512, count)
                continue
            case 5:
                try image.zero(at: UInt64(sector * 512), length: UInt64(count))
                step.puts = (sector * 512, [UInt8](repeating: 0, count: count))
            default:
                let data = numbers.bytes(count)
                try image.put(data, at: sector * 512)
                step.puts = (sector * 512, data)
            }
            step.after = journal.count
            steps.append(step)
        }
        return (journal.changes, steps)
    }

    private func allowedSectors(_ start: [UInt8], _ steps: [Step], _ count: Int) -> [Set<[UInt8]>] {
        var latest = stride(from: 0, to: start.count, by: 512).map { Array(start[$0..<$0 + 512]) }
        var allowed = latest.map { Set([$0]) }
        for step in steps where step.before <= count {
            guard let put = step.puts else {
                if step.after <= count { for index in allowed.indices where allowed[index].count > 1 { allowed[index] = [latest[index]] } }
                continue
            }
            for offset in stride(from: 0, to: put.bytes.count, by: 512) {
                latest[(put.start + offset) / 512] = Array(put.bytes[offset..<offset + 512])
                allowed[(put.start + offset) / 512].insert(latest[(put.start + offset) / 512])
            }
        }
        return allowed
    }

    /// One of the files after the first `count` changes: all that was synced, and of the rest what `loss` leaves.
    private func lost(_ start: [UInt8], _ changes: [Change], _ count: Int, ofImage: Bool, _ loss: Loss, _ numbers: inout SeededNumbers) -> [UInt8] {
        var file = start
        let own = changes[..<count].filter { $0.isOfImage == ofImage }.map(\.what)
        let lastSync = own.lastIndex { if case .sync = $0 { true } else { false } } ?? -1
        for (index, change) in own.enumerated() {
            let isDurable = index < lastSync || loss == .none
            if !isDurable, loss == .all || loss == .changes && Bool.random(using: &numbers) { continue }
            let (offset, bytes): (Int, [UInt8])
            switch change {
            case .write(let at, let data): (offset, bytes) = (Int(at), data)
            case .zero(let at, let length): (offset, bytes) = (Int(at), [UInt8](repeating: 0, count: Int(length)))
            case .sync, .truncate: continue
            }
            for sector in stride(from: 0, to: bytes.count, by: 512) where isDurable || loss != .sectors || Bool.random(using: &numbers) {
                if file.count < offset + sector + 512 { file += [UInt8](repeating: 0, count: offset + sector + 512 - file.count) }
                file.replaceSubrange(offset + sector..<offset + sector + 512, with: bytes[sector..<sector + 512])
            }
        }
        return file
    }
}
