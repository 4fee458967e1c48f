// Sends the content of a frozen image: chunks in parallel, holes unread, zeros and known content not sent, and builds
// the block map of that state. Memory is two chunks a thread; what was sent before an interruption is found in the
// presence index and not sent again. Called by Replicator with the disk frozen.

import BlockIO
import DiskImage
import Glibc
import Synchronization
import Vault

struct InitialReplication {
    /// Enough to hide a target's latency behind compression on a few cores.
    static let threadsDefault = 4

    let vault: Vault
    let ledger: ChunkLedger
    let image: any ImageFile
    let epoch: UInt32
    let threads: Int
    let stop: StopFlag
    /// Told of bytes done and of all that are to be looked at.
    let progress: @Sendable (UInt64, UInt64) throws -> Void

    /// The map of the image's content. Everything it names is verified in the vault when this returns.
    func run() throws -> MapRoot {
        let total = try ChunkScan(image, chunkBytes: FormatLimits.chunkBytes).remainingBytes()
        try progress(0, total)
        let scan = ChunkScan(image, chunkBytes: FormatLimits.chunkBytes)
        let map = ChunkOrder(InitialMap(vault: vault, sizeBytes: image.sizeBytes, epoch: epoch))
        let failure = FirstFailure()
        let done = Mutex<UInt64>(0)
        let workers = try (0..<threads).map { _ throws(SystemError) in
            try OwnThread(name: "initial") {
                do {
                    try work(scan, map, failure) { bytes in try progress(done.add(bytes), total) }
                } catch {
                    failure.note(error)
                }
            }
        }
        for worker in workers { worker.join() }
        if let error = failure.error { throw error }
        return try map.finish()
    }

    private func work(_ scan: ChunkScan, _ map: ChunkOrder, _ failure: FirstFailure, _ passed: (UInt64) throws -> Void) throws {
        let buffer = AlignedBuffer(count: FormatLimits.chunkBytes)
        while failure.error == nil, let chunk = try scan.next() {
            if stop.isStopping { throw Stopped() }
            let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<chunk.length])
            try image.read(into: bytes, at: chunk.offset)
            try map.add(chunk, try send(UnsafeRawBufferPointer(bytes)))
            try passed(UInt64(chunk.length))
        }
    }

    /// The chunk's place in the vault, or nil for zeros.
    private func send(_ bytes: UnsafeRawBufferPointer) throws -> ChunkRef? {
        if isZero(bytes) { return nil }
        let chunk = vault.chunkRef(of: bytes, epoch: epoch)
        return try ledger.place(chunk) { try vault.putChunk(bytes, as: $0) }
    }
}

/// Takes the chunks as threads finish them and gives them to the map in the order of the disk.
final class ChunkOrder: Sendable {
    private struct State {
        let map: InitialMap
        /// Finished before an earlier one; as many as threads may be ahead of the slowest.
        var early: [UInt64: (number: UInt64, ref: ChunkRef?)] = [:]
        var nextTicket: UInt64 = 0
    }

    private let state: Mutex<State>

    init(_ map: sending InitialMap) { state = Mutex(State(map: map)) }

    func add(_ chunk: ChunkScan.Chunk, _ ref: ChunkRef?) throws {
        try state.withLock { state in
            state.early[chunk.ticket] = (chunk.number, ref)
            while let next = state.early.removeValue(forKey: state.nextTicket) {
                state.nextTicket += 1
                if let ref = next.ref { try state.map.append(chunk: next.number, ref) }
            }
        }
    }

    func finish() throws -> MapRoot { try state.withLock { try $0.map.finish() } }
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

/// Compared with itself one byte on: as fast as memory is read.
func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard let base = bytes.baseAddress, bytes.count > 0 else { return true }
    return bytes[0] == 0 && memcmp(base, base + 1, bytes.count - 1) == 0
}
