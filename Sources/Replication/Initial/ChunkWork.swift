// Several threads over the chunks of a frozen image: each is read and handed to `body`, in no order; the first error ends all. Memory is a
// chunk a thread, and what `body` makes of it.

import BlockIO
import DiskImage
import Synchronization
import Vault

struct ChunkWork {
    let image: any ImageFile
    let threads: Int
    let stop: StopFlag
    /// Told of bytes done and of all that are to be looked at.
    let progress: @Sendable (UInt64, UInt64) throws -> Void
    /// Where something lies that the image may have no data for: the first byte of it from one on.
    var other: @Sendable (UInt64) throws -> UInt64? = { _ in nil }

    /// Shown what is there, by its place on the disk.
    var seen: (@Sendable (UInt64, UnsafeRawBufferPointer) -> Void)?

    func run(_ body: @Sendable (ChunkScan.Chunk, UnsafeRawBufferPointer) throws -> Void) throws {
        let total = try ChunkScan(image, chunkBytes: FormatLimits.chunkBytes, other: other).remainingBytes()
        try progress(0, total)
        let scan = ChunkScan(image, chunkBytes: FormatLimits.chunkBytes, other: other)
        let failure = FirstFailure()
        let done = Mutex<UInt64>(0)
        try withoutActuallyEscaping(body) { body in
            let workers = try (0..<threads).map { _ throws(SystemError) in
                try OwnThread(name: "initial") {
                    do {
                        try work(scan, failure, body) { bytes in try progress(done.add(bytes), total) }
                    } catch {
                        failure.note(error)
                    }
                }
            }
            for worker in workers { worker.join() }
        }
        if let error = failure.error { throw error }
    }

    private func work(
        _ scan: ChunkScan, _ failure: FirstFailure, _ body: (ChunkScan.Chunk, UnsafeRawBufferPointer) throws -> Void, _ passed: (UInt64) throws -> Void
    ) throws {
        let buffer = AlignedBuffer(count: FormatLimits.chunkBytes)
        while failure.error == nil, let chunk = try scan.next() {
            if stop.isStopping { throw Stopped() }
            let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<chunk.length])
            try image.read(into: bytes, at: chunk.offset)
            seen?(chunk.offset, UnsafeRawBufferPointer(bytes))
            try body(chunk, UnsafeRawBufferPointer(bytes))
            try passed(UInt64(chunk.length))
        }
    }
}

/// The first error of several threads; the others stop when they see it.
final class FirstFailure: Sendable {
    private let first = Mutex<(any Error)?>(nil)

    var error: (any Error)? { first.withLock { $0 } }

    func note(_ error: any Error) { first.withLock { $0 = $0 ?? error } }
}

extension Mutex<UInt64> {
    func add(_ bytes: UInt64) -> UInt64 {
        withLock { sum in
            sum += bytes
            return sum
        }
    }
}
