// Compares a frozen image with a state in the vault, chunk by chunk, and sends what differs. A chunk that the vault has as a whole is
// compared by its name, others by fetching them: downloading costs less than sending everything that deltas ever touched. Chunks that were sent
// before an interruption are found in the presence index. Called with the disk frozen.

import DiskImage
import Synchronization
import Vault

struct ChangedChunks {
    struct Result: Sendable {
        /// Those that differ, by their number on the disk, rising; nil reads as zeros.
        var chunks: [(number: UInt64, ref: ChunkRef?)] = []
        var compared: UInt64 = 0
        var sent: UInt64 = 0
    }

    let vault: Vault
    let ledger: ChunkLedger
    let epoch: UInt32
    let content: MappedContent
    let work: ChunkWork

    /// Everything that the result names is verified in the vault when this returns.
    func run() throws -> Result {
        let result = Mutex(Result())
        var work = work
        work.other = { [content] in try content.nextData(from: $0) }
        try work.run { chunk, bytes in
            if try content.holds(bytes, at: chunk.offset) { return result.withLock { $0.compared += 1 } }
            let ref = isZero(bytes) ? nil : vault.chunkRef(of: bytes, epoch: epoch)
            let placed = try ref.map { try ledger.place($0) { ref in
                try vault.putChunk(bytes, as: ref)
                result.withLock { $0.sent += 1 }
            } }
            result.withLock { result in
                result.compared += 1
                result.chunks.append((chunk.number, placed))
            }
        }
        var found = result.withLock { $0 }
        found.chunks.sort { $0.number < $1.number }
        return found
    }
}
