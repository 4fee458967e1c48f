// Images whose disk bytes lie in blocks anywhere in their file: what VHDX and qcow2 have in common. A conformer says
// where a run of the disk lies and finds room for what is written; reading, writing and the search for holes are here.

import BlockIO
import Synchronization

/// The longest part of a range that lies together.
struct MappedRun {
    enum Place: Equatable {
        /// Reads as zeros.
        case hole
        case stored(at: UInt64)
        /// Only as a whole, through the conformer's `readPacked`.
        case packed
    }

    let place: Place
    let length: UInt64
}

/// A part of the disk that may be written in place.
struct WritableRun {
    let fileOffset: UInt64
    let length: UInt64
}

/// The file behind a mapped image.
final class MappedFile: Sendable {
    let changes: ChangedFile
    let reads: ImageReads
    let opened: OpenedFile
    /// What lies behind it reads as zeros: the file may end inside its last block until something is written.
    private let endOfData: Atomic<UInt64>

    init(_ changes: consuming ChangedFile, storedBytes: UInt64) throws(SystemError) {
        reads = try ImageReads(changes.descriptor)
        opened = try OpenedFile(changes.descriptor)
        self.changes = changes
        endOfData = Atomic(storedBytes)
    }

    var storedBytes: UInt64 { endOfData.load(ordering: .acquiring) }

    /// The file has been extended: what it lacks from now on is an error, not zeros.
    func noteComplete() { endOfData.store(.max, ordering: .releasing) }
}

protocol MappedImage: ImageFile {
    var file: MappedFile { get }

    /// Where the disk's bytes from `offset` lie, at most `limit` of them. The range lies within the disk.
    func run(at offset: UInt64, limit: UInt64) throws(SystemError) -> MappedRun
    /// As `run`, where that needs no wait for the disk.
    func knownRun(at offset: UInt64, limit: UInt64) -> MappedRun?
    /// Reads a part of a packed block.
    func readPacked(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError)
    /// Makes the whole range writable in place; what it held before stays to be read.
    func makeWritable(at offset: UInt64, length: UInt64) throws(SystemError) -> [WritableRun]
}

extension MappedImage {
    package var files: [OpenedFile] { [file.opened] }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: UInt64(buffer.count), sizeBytes: sizeBytes, path: path)
        var done = 0
        while done < buffer.count {
            let position = offset + UInt64(done)
            let run = clipped(try run(at: position, limit: UInt64(buffer.count - done)))
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + Int(run.length)])
            switch run.place {
            case .hole: part.initializeMemory(as: UInt8.self, repeating: 0)
            case .stored(let place): try file.reads.read(file.changes.descriptor, into: part, at: place)
            case .packed: try readPacked(into: part, at: position)
            }
            done += Int(run.length)
        }
    }

    package func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool {
        let (end, overflow) = offset.addingReportingOverflow(UInt64(buffer.count))
        guard !overflow, end <= sizeBytes else { return false }
        var done = 0
        var hasAll = true
        while done < buffer.count {
            guard let known = knownRun(at: offset + UInt64(done), limit: UInt64(buffer.count - done)) else { return false }
            let run = clipped(known)
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + Int(run.length)])
            switch run.place {
            case .hole: part.initializeMemory(as: UInt8.self, repeating: 0)
            case .stored(let place): if !file.reads.readIfCached(into: part, at: place) { hasAll = false }
            case .packed: return false
            }
            done += Int(run.length)
        }
        return hasAll
    }

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: UInt64(buffer.count), sizeBytes: sizeBytes, path: path)
        guard buffer.count > 0 else { return }
        var done = 0
        for run in try makeWritable(at: offset, length: UInt64(buffer.count)) {
            let part = UnsafeRawBufferPointer(rebasing: buffer[done..<done + Int(run.length)])
            try file.changes.write(part, at: run.fileOffset)
            done += part.count
        }
    }

    package func zero(at offset: UInt64, length: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: length, sizeBytes: sizeBytes, path: path)
        var done: UInt64 = 0
        while done < length {
            let found = try run(at: offset + done, limit: length - done)
            if found.place != .hole {
                for run in try makeWritable(at: offset + done, length: found.length) {
                    try file.changes.zero(at: run.fileOffset, length: run.length)
                }
            }
            done += found.length
        }
    }

    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? {
        var from = offset
        while from < sizeBytes {
            let run = clipped(try run(at: from, limit: sizeBytes - from))
            switch run.place {
            case .hole: break
            case .packed: return from
            case .stored(let place):
                if let found = try file.changes.descriptor.nextData(from: place), found < place + run.length { return from + (found - place) }
            }
            from += run.length
        }
        return nil
    }

    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        var from = offset
        while from < sizeBytes {
            let run = clipped(try run(at: from, limit: sizeBytes - from))
            switch run.place {
            case .hole: return from
            case .packed: break
            case .stored(let place):
                let hole = try file.changes.descriptor.nextHole(from: place)
                if hole < place + run.length { return from + (hole - place) }
            }
            from += run.length
        }
        return sizeBytes
    }

    /// Bytes of the disk that the file does not reach are a hole.
    private func clipped(_ run: MappedRun) -> MappedRun {
        guard case .stored(let place) = run.place else { return run }
        let stored = file.storedBytes
        guard place < stored else { return MappedRun(place: .hole, length: run.length) }
        return MappedRun(place: run.place, length: min(run.length, stored - place))
    }
}

/// Joins a piece to the runs when it continues the last of them.
func append(_ fileOffset: UInt64, _ length: UInt64, to runs: inout [WritableRun]) {
    if let last = runs.last, last.fileOffset + last.length == fileOffset {
        runs[runs.count - 1] = WritableRun(fileOffset: last.fileOffset, length: last.length + length)
    } else {
        runs.append(WritableRun(fileOffset: fileOffset, length: length))
    }
}
