// The presence index: which chunks a vault is known to hold, so that no listing is needed and no chunk is sent twice.
// An id is journalled as in flight before its PUT; after a crash only those ids are in doubt and are probed. A chunk in
// flight counts as absent until it was verified. The uploader alone writes here, under the site's upload lock.

import Foundation
import GRDB

package struct ChunkInDoubt: Equatable, Sendable {
    package let id: [UInt8]
    package let epoch: UInt64

    package init(id: [UInt8], epoch: UInt64) {
        self.id = id
        self.epoch = epoch
    }
}

package struct ChunkPresence: Equatable, Sendable {
    package let epoch: UInt64
    package let isDoubted: Bool
}

extension Catalogue {
    private static let inFlight = 0
    private static let verified = 1
    /// Verified once, by a target that has been rolled back or lost objects since.
    private static let doubted = 2

    /// What is known of a chunk that was verified in the vault; nil when that was never so.
    package func presence(ofChunk id: [UInt8], vault: String) throws(SiteError) -> ChunkPresence? {
        try read {
            try Row.fetchOne(
                $0, sql: "SELECT epoch, state FROM chunk WHERE vault = ? AND id = ? AND state <> ?", arguments: [vault, idBytes(id), Self.inFlight]
            ).map { ChunkPresence(epoch: UInt64(bitPattern: $0["epoch"]), isDoubted: $0["state"] == Self.doubted) }
        }
    }

    /// The vault is to be asked for each chunk before it counts as there again.
    package func doubtChunks(vault: String) throws(SiteError) {
        try write { try $0.execute(sql: "UPDATE chunk SET state = ? WHERE vault = ? AND state = ?", arguments: [Self.doubted, vault, Self.verified]) }
    }

    /// Before the PUT: from here on the vault may hold the chunk.
    package func journalChunk(_ id: [UInt8], epoch: UInt64, vault: String) throws(SiteError) {
        try setChunk(id, epoch: epoch, vault: vault, state: Self.inFlight)
    }

    /// After the PUT was verified.
    package func settleChunk(_ id: [UInt8], epoch: UInt64, vault: String) throws(SiteError) {
        try setChunk(id, epoch: epoch, vault: vault, state: Self.verified)
    }

    /// The vault does not hold the chunk.
    package func forgetChunk(_ id: [UInt8], vault: String) throws(SiteError) {
        try write { try $0.execute(sql: "DELETE FROM chunk WHERE vault = ? AND id = ?", arguments: [vault, idBytes(id)]) }
    }

    /// Chunks whose PUT was begun and never settled.
    package func chunksInDoubt(vault: String) throws(SiteError) -> [ChunkInDoubt] {
        try read {
            try Row.fetchAll($0, sql: "SELECT id, epoch FROM chunk WHERE vault = ? AND state = 0", arguments: [vault]).map {
                ChunkInDoubt(id: Array($0["id"] as Data), epoch: UInt64(bitPattern: $0["epoch"]))
            }
        }
    }

    private func setChunk(_ id: [UInt8], epoch: UInt64, vault: String, state: Int) throws(SiteError) {
        try write {
            try $0.execute(
                sql: "INSERT OR REPLACE INTO chunk (vault, id, epoch, state) VALUES (?, ?, ?, ?)",
                arguments: [vault, idBytes(id), Int64(bitPattern: epoch), state])
        }
    }

    private func idBytes(_ id: [UInt8]) -> Data { Data(id) }
}
