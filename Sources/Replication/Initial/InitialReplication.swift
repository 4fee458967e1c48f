// Sends the content of a frozen image: chunks in parallel, holes unread, zeros and known content not sent, and builds
// the block map of that state. Memory is two chunks a thread; what was sent before an interruption is found in the
// presence index and not sent again. Called by Replicator with the disk frozen.

import DiskImage
import Glibc
import Synchronization
import Vault

struct InitialReplication {
    let vault: Vault
    let ledger: ChunkLedger
    let epoch: UInt32
    let work: ChunkWork

    /// The map of the image's content. Everything it names is verified in the vault when this returns.
    func run() throws -> MapRoot {
        let map = ChunkOrder(InitialMap(vault: vault, sizeBytes: work.image.sizeBytes, epoch: epoch))
        try work.run { chunk, bytes in try map.add(chunk, try send(bytes)) }
        return try map.finish()
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

/// Compared with itself one byte on: as fast as memory is read.
func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard let base = bytes.baseAddress, bytes.count > 0 else { return true }
    return bytes[0] == 0 && memcmp(base, base + 1, bytes.count - 1) == 0
}
