// Sends each chunk of content at most once. The journal entry comes before the PUT and the settlement after its
// verification, so a crash leaves only journalled ids in doubt; those are probed, never guessed. Shared by all
// threads and disks of one vault; two that meet the same content send it once.

import Foundation
package import Site
import Synchronization
package import Vault

package final class ChunkLedger: Sendable {
    private let catalogue: Catalogue
    private let vaultID: String
    /// Asks the vault, by the chunk's name alone.
    private let isThere: @Sendable (ChunkRef) throws -> Bool
    /// Content that some thread is sending now; changed with `finished` locked, so that no wake-up is missed.
    private let sending = Mutex<Set<Hash256>>([])
    private let finished = NSCondition()

    package init(catalogue: Catalogue, vault: VaultID, isThere: @escaping @Sendable (ChunkRef) throws -> Bool) {
        self.catalogue = catalogue
        self.isThere = isThere
        vaultID = vault.description
    }

    /// Before anything is sent: finds out about each chunk whose PUT an earlier process began. `isThere` fetches the
    /// chunk and checks its content, so a first reuse is of verified data.
    package func settleDoubts(_ isThere: (ChunkRef) throws -> Bool) throws {
        for doubt in try catalogue.chunksInDoubt(vault: vaultID) {
            guard let id = Hash256(bytes: doubt.id), let epoch = UInt32(exactly: doubt.epoch) else {
                throw SiteError(.catalogueDamaged, "the presence index holds an impossible chunk id", remedy: "move catalogue.sqlite away and protect the disks again")
            }
            if try isThere(ChunkRef(id: id, epoch: epoch)) {
                try catalogue.settleChunk(doubt.id, epoch: doubt.epoch, vault: vaultID)
            } else {
                try catalogue.forgetChunk(doubt.id, vault: vaultID)
            }
        }
    }

    /// The chunk's content as the vault holds it, verified. `send` is called when it is not known to; it returns verified.
    /// Content that another thread is sending is waited for, and sent here if that thread failed. What was sent under an
    /// earlier epoch counts as absent: a collection may delete it at any moment. A later epoch, of another group, is as good.
    package func place(_ chunk: ChunkRef, send: (ChunkRef) throws -> Void) throws -> ChunkRef {
        begin(chunk.id)
        defer { end(chunk.id) }
        // Looked up after `begin`: a thread that sent the same content settled it before its `end`.
        let id = chunk.id.bytes
        let epoch = UInt64(chunk.epoch)
        if let present = try catalogue.presence(ofChunk: id, vault: vaultID), present.epoch >= epoch, let known = UInt32(exactly: present.epoch) {
            let ref = ChunkRef(id: chunk.id, epoch: known)
            if try !present.isDoubted || settleIfThere(ref) { return ref }
        }
        try catalogue.journalChunk(id, epoch: epoch, vault: vaultID)
        try send(chunk)
        try catalogue.settleChunk(id, epoch: epoch, vault: vaultID)
        return chunk
    }

    /// Whether the vault has a chunk that one of its maps names. Asked of it where this host does not know, or doubts what it knew.
    func holds(_ chunk: ChunkRef) throws -> Bool {
        let present = try catalogue.presence(ofChunk: chunk.id.bytes, vault: vaultID)
        guard let present, present.epoch == UInt64(chunk.epoch) else { return try isThere(chunk) }
        return try !present.isDoubted || settleIfThere(chunk)
    }

    private func settleIfThere(_ chunk: ChunkRef) throws -> Bool {
        guard try isThere(chunk) else { return false }
        try catalogue.settleChunk(chunk.id.bytes, epoch: UInt64(chunk.epoch), vault: vaultID)
        return true
    }

    private func begin(_ id: Hash256) {
        finished.lock()
        defer { finished.unlock() }
        while !sending.withLock({ $0.insert(id).inserted }) { finished.wait() }
    }

    private func end(_ id: Hash256) {
        finished.lock()
        defer { finished.unlock() }
        sending.withLock { _ = $0.remove(id) }
        finished.broadcast()
    }
}
