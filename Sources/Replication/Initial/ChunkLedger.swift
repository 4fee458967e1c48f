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
    private let epoch: UInt32
    /// Content that some thread is sending now; changed with `finished` locked, so that no wake-up is missed.
    private let sending = Mutex<Set<Hash256>>([])
    private let finished = NSCondition()

    package init(catalogue: Catalogue, vault: VaultID, epoch: UInt32) {
        self.catalogue = catalogue
        vaultID = vault.description
        self.epoch = epoch
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

    /// The chunk's place in the vault. `send` is called when the vault does not hold it yet; it returns verified.
    /// Content that another thread is sending is waited for, and sent here if that thread failed.
    package func place(_ id: Hash256, send: (ChunkRef) throws -> Void) throws -> ChunkRef {
        begin(id)
        defer { end(id) }
        // Looked up after `begin`: a thread that sent the same content settled it before its `end`.
        if let known = try catalogue.presentEpoch(ofChunk: id.bytes, vault: vaultID), let epoch = UInt32(exactly: known) {
            return ChunkRef(id: id, epoch: epoch)
        }
        let chunk = ChunkRef(id: id, epoch: epoch)
        try catalogue.journalChunk(id.bytes, epoch: UInt64(epoch), vault: vaultID)
        try send(chunk)
        try catalogue.settleChunk(id.bytes, epoch: UInt64(epoch), vault: vaultID)
        return chunk
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
