// A log in a temporary folder, and what its recovery replayed. Segments are small so that tests cross many of them.

import BlockIO
import ChangeLog
import Glibc
import Testing

let bootA = "aaaaaaaa-0000-0000-0000-000000000000"
let bootB = "bbbbbbbb-0000-0000-0000-000000000000"

final class TestLog {
    struct Replayed: Equatable {
        var kind: RecordKind
        var sequence: UInt64
        var diskOffset: UInt64
        var length: UInt64
    }

    final class Replay { var blocks: [RecordBlocks] = [] }

    static let segmentBytes = 128 << 10
    let root: String
    let folder: LogFolder
    let sequencer: Sequencer

    init(targets: [String] = [], segments: UInt64 = 8, diskBytes: UInt64 = 64 << 20) throws {
        var template = Array("/tmp/farshore-log-XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        root = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        folder = LogFolder(root + "/disk.log")
        sequencer = try Sequencer(path: root + "/sequences")
        try ChangeLog.create(
            folder, diskID: .random(), diskBytes: diskBytes, targets: targets, segmentBytes: Self.segmentBytes,
            budgetBytes: segments * UInt64(Self.segmentBytes))
    }

    /// Removes the folder; call in a `defer`.
    func remove() {
        for folder in [folder.path, root] {
            for name in (try? Directory.list(folder)) ?? [] { unlink(folder + "/" + name) }
            rmdir(folder)
        }
    }

    /// What was replayed must be what the tables hold, wherever recovery read it.
    func open(boot: String = bootA, catchingUpSeconds: UInt64 = 10, roomWait: (@Sendable (Bool) -> Void)? = nil) throws -> (log: ChangeLog, lastStop: LastStop, replayed: [Replayed]) {
        let replay = Replay()
        var options = ChangeLog.Options(bootID: boot, catchingUpSeconds: catchingUpSeconds)
        options.roomWait = roomWait
        let lock = try OwnerLock.acquire(folder)
        let (log, lastStop) = try ChangeLog.open(folder, lock: lock, sequencer: sequencer, options: options) { blocks, _ in
            replay.blocks.append(blocks)
        }
        var held: [RecordHeader] = []
        let destaged = log.currentState.destagedSequence
        try LogReader(folder).headersNewestFirst { record in
            if record.sequence > destaged, record.changesDisk { held.append(record) }
            return record.sequence > destaged
        }
        held.reverse()
        #expect(replay.blocks == held.compactMap { RecordBlocks($0) })
        let replayed = held.map { Replayed(kind: $0.kind, sequence: $0.sequence, diskOffset: $0.diskOffset, length: $0.length) }
        return (log, lastStop, replayed)
    }

    /// All records a reader sees, up to `through`.
    func read(after: UInt64 = 0, through: UInt64 = .max - 1) throws -> [(header: RecordHeader, payload: [UInt8])] {
        var records: [(RecordHeader, [UInt8])] = []
        _ = try LogReader(folder).records(after: after, through: through) { records.append(($0, Array($1))) }
        return records
    }

    /// The segment file with the highest index that holds `bytes` of data, by its path.
    func segmentFiles() throws -> [String] {
        try Directory.list(folder.path).filter { $0.hasPrefix("segment-") }.map { folder.path + "/" + $0 }
    }
}

extension ChangeLog {
    /// One whole record.
    @discardableResult
    func append(_ bytes: [UInt8], at offset: UInt64) throws -> UInt64 {
        let place = try reserve(.write, diskOffset: offset, length: UInt64(bytes.count))
        try bytes.withUnsafeBytes { try write(place, RecordPayload($0)) }
        complete(place)
        return place.sequence
    }

    /// Fills the segment of `place` and puts one record into the next. Returns the last sequence of the one and of the other.
    @discardableResult
    func appendToNextSegment(than place: Reservation) throws -> (last: UInt64, next: UInt64) {
        var last = place.sequence
        while true {
            let bytes = [UInt8](repeating: 7, count: blockBytes)
            let next = try reserve(.write, diskOffset: 1 << 20, length: UInt64(blockBytes))
            try bytes.withUnsafeBytes { try write(next, RecordPayload($0)) }
            complete(next)
            if next.segmentIndex != place.segmentIndex { return (last, next.sequence) }
            last = next.sequence
        }
    }

    @discardableResult
    func appendBlock(_ fill: UInt8, at block: UInt64) throws -> UInt64 {
        try append([UInt8](repeating: fill, count: blockBytes), at: block * UInt64(blockBytes))
    }
}

/// Replaces this process's descriptor of `path` by one of `substitute`, so that its writes or syncs fail.
func replaceDescriptor(of path: String, by substitute: String, flags: Int32) throws {
    for name in try Directory.list("/proc/self/fd") {
        guard let raw = Int32(name) else { continue }
        var target = [UInt8](repeating: 0, count: 4096)
        let count = target.withUnsafeMutableBytes { readlink("/proc/self/fd/\(raw)", $0.baseAddress!.assumingMemoryBound(to: CChar.self), 4096) }
        guard count > 0, String(decoding: target[..<count], as: UTF8.self) == path else { continue }
        let file = try Descriptor.open(substitute, flags)
        try #require(dup2(file.raw, raw) == raw)
    }
}

func overwrite(_ path: String, at offset: UInt64, _ change: (inout [UInt8]) -> Void, count: Int = 64) throws {
    let file = try Descriptor.open(path, O_RDWR)
    var bytes = try file.read(count: count, at: offset)
    change(&bytes)
    try file.write(bytes, at: offset)
}
