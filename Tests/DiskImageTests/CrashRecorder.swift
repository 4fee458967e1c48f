// Records what an open image does to its file and makes the files a power loss could leave: everything before
// the last completed sync, and any part of what came after it, sector by sector.

import BlockIO
import DiskImage
import Synchronization

/// What was done to the disk, with the number of file changes before and after.
struct CrashStep {
    enum What { case put(at: Int, [UInt8]), flush }
    let what: What
    let changesBefore: Int
    var changesAfter = 0
}

final class CrashRecorder: Sendable {
    private let events = Mutex<[FileChange]>([])

    var listener: FileChangeListener { { [self] change in events.withLock { $0.append(change) } } }
    var changes: [FileChange] { events.withLock { $0 } }
    var count: Int { events.withLock { $0.count } }

    /// Random writes, zeroing and flushes.
    func record(_ image: any ImageFile, steps count: Int, _ random: inout SeededRandom) throws -> [CrashStep] {
        var steps: [CrashStep] = []
        for _ in 0..<count {
            var step = CrashStep(what: randomStep(sectors: Int(image.sizeBytes / 512), &random), changesBefore: self.count)
            switch step.what {
            case .flush: try image.flush()
            case .put(let offset, let bytes):
                if bytes.allSatisfy({ $0 == 0 }) {
                    try image.zero(at: UInt64(offset), length: UInt64(bytes.count))
                } else {
                    try image.put(bytes, at: UInt64(offset))
                }
            }
            step.changesAfter = self.count
            steps.append(step)
        }
        return steps
    }

    private func randomStep(sectors: Int, _ random: inout SeededRandom) -> CrashStep.What {
        let kind = Int.random(in: 0..<10, using: &random)
        if kind < 2 { return .flush }
        let sector = Int.random(in: 0..<sectors, using: &random)
        let count = min(Int.random(in: 1...12, using: &random), sectors - sector) * 512
        return .put(at: sector * 512, kind == 2 ? [UInt8](repeating: 0, count: count) : random.bytes(count))
    }
}

/// For each sector the value of the last flush that ended before the crash, and every value written since.
func allowedSectors(_ start: [UInt8], _ steps: [CrashStep], crashAfter count: Int) -> [Set<[UInt8]>] {
    var latest = stride(from: 0, to: start.count, by: 512).map { Array(start[$0..<$0 + 512]) }
    var allowed = latest.map { Set([$0]) }
    for step in steps where step.changesBefore <= count {
        switch step.what {
        case .flush where step.changesAfter <= count:
            for index in allowed.indices where allowed[index].count > 1 { allowed[index] = [latest[index]] }
        case .flush: break
        case .put(let offset, let bytes):
            for start in stride(from: 0, to: bytes.count, by: 512) {
                latest[(offset + start) / 512] = Array(bytes[start..<start + 512])
                allowed[(offset + start) / 512].insert(latest[(offset + start) / 512])
            }
        }
    }
    return allowed
}

enum Loss: CaseIterable {
    /// The process was killed: every change so far is in the file.
    case none
    /// Nothing since the last sync reached the disk.
    case all
    /// A random part of the changes, whole.
    case changes
    /// A random part of the changed sectors.
    case sectors
}

/// The file after the first `count` changes and a power loss.
func crashed(_ start: [UInt8], _ changes: [FileChange], after count: Int, losing loss: Loss, _ random: inout SeededRandom) -> [UInt8] {
    var file = start
    let happened = changes[..<count]
    let lastSync = happened.lastIndex { if case .sync = $0 { true } else { false } } ?? -1
    for (index, change) in happened.enumerated() {
        let isDurable = index < lastSync
        if !isDurable, loss == .all { break }
        if !isDurable, loss == .changes, Bool.random(using: &random) { continue }
        apply(change, to: &file) { isDurable || loss != .sectors || Bool.random(using: &random) }
    }
    return file
}

/// Applies a change; `keeps` is asked for each sector of it.
private func apply(_ change: FileChange, to file: inout [UInt8], keeps: () -> Bool) {
    switch change {
    case .sync: return
    case .truncate(let bytes):
        if keeps() { resize(&file, to: Int(bytes)) }
    case .zero(let offset, let length):
        patch(&file, at: Int(offset), [UInt8](repeating: 0, count: Int(length)), keeps)
    case .write(let offset, let bytes):
        patch(&file, at: Int(offset), bytes, keeps)
    }
}

private func patch(_ file: inout [UInt8], at offset: Int, _ bytes: [UInt8], _ keeps: () -> Bool) {
    var done = 0
    while done < bytes.count {
        let count = min(512 - (offset + done) % 512, bytes.count - done)
        if keeps() {
            let start = offset + done
            if file.count < start + count { resize(&file, to: start + count) }
            file.replaceSubrange(start..<start + count, with: bytes[done..<done + count])
        }
        done += count
    }
}

private func resize(_ file: inout [UInt8], to count: Int) {
    if file.count > count { file.removeLast(file.count - count) } else { file += [UInt8](repeating: 0, count: count - file.count) }
}
