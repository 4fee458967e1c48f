// Records what an open dynamic VHD does to its file and makes the files a power loss could leave: everything before
// the last completed sync, and any part of what came after it, sector by sector.

import DiskImage
import Synchronization

final class CrashRecorder: Sendable {
    private let events = Mutex<[FileChange]>([])

    var listener: FileChangeListener { { [self] change in events.withLock { $0.append(change) } } }
    var changes: [FileChange] { events.withLock { $0 } }
    var count: Int { events.withLock { $0.count } }
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
