// What the uploader last knew of a disk's replication, kept for each of its targets, for `status` and for the next start. `provenSequence` is
// only ever what was read back from the vault's head, never the uploader's own count.

import BlockIO
import GRDB

package struct ReplicationState: Equatable, Sendable {
    package enum Phase: String, Sendable {
        /// Nothing was replicated yet.
        case waiting
        case initial
        case delta
        /// Once begun it goes on at any hour.
        case resynchronisation
    }

    package enum Health: String, Sendable { case normal, warning, critical }

    /// The collection epoch under which an initial replication or resynchronisation sends, and the group in vaults whose heads acknowledge it.
    package struct KeptEpoch: Equatable, Sendable {
        package let epoch: UInt32
        package let group: String

        package init(epoch: UInt32, group: String) {
            self.epoch = epoch
            self.group = group
        }
    }

    package var phase: Phase
    /// Nil until the phase has one; another phase has another.
    package var keptEpoch: KeptEpoch?
    package var lineage: String?
    package var provenSequence: UInt64?
    package var provenAtNanoseconds: UInt64?
    package var headNumber: UInt64?
    package var writerEpoch: UInt64?
    /// Failed attempts since the last that succeeded.
    package var failures: Int
    package var nextAttemptNanoseconds: UInt64?
    package var health: Health
    package var error: String?
    package var remedy: String?

    init(row: Row) throws {
        phase = try storedName(row["phase"])
        if let epoch = (row["kept_epoch"] as Int64?).flatMap({ UInt32(exactly: $0) }), let group = row["kept_group"] as String? { keptEpoch = KeptEpoch(epoch: epoch, group: group) }
        lineage = row["lineage"]
        provenSequence = (row["proven_sequence"] as Int64?).map(UInt64.init(bitPattern:))
        provenAtNanoseconds = (row["proven_at"] as Int64?).map(UInt64.init(bitPattern:))
        headNumber = (row["head_number"] as Int64?).map(UInt64.init(bitPattern:))
        writerEpoch = (row["writer_epoch"] as Int64?).map(UInt64.init(bitPattern:))
        failures = row["failures"]
        nextAttemptNanoseconds = (row["next_attempt"] as Int64?).map(UInt64.init(bitPattern:))
        health = try storedName(row["health"])
        error = row["error"]
        remedy = row["remedy"]
    }
}

extension Catalogue {
    /// `vault`: the id of the target; nil means the first. The same in the calls below.
    package func replication(ofDisk name: String, at vault: String? = nil) throws(SiteError) -> ReplicationState {
        let found = try read { database in
            try Row.fetchOne(database, sql: "SELECT * FROM replication WHERE disk = ? AND vault = ?", arguments: [name, Self.vault(vault, ofDisk: name, database)])
                .map(ReplicationState.init(row:))
        }
        guard let found else { throw SiteError(.diskNotFound, "no disk named \(name) is protected on this site", remedy: "farshore status") }
        return found
    }

    /// What any of its targets is proven to have.
    package func newestProven(ofDisk name: String) throws(SiteError) -> UInt64? {
        try read { try Int64.fetchAll($0, sql: "SELECT proven_sequence FROM replication WHERE disk = ? AND proven_sequence IS NOT NULL", arguments: [name]) }
            .map(UInt64.init(bitPattern:)).max()
    }

    /// Makes the next attempt of a disk whose last one failed due now, at all its targets where none is named; the uploader notices that the time was changed.
    package func requestAttempt(ofDisk name: String, at vault: String? = nil) throws(SiteError) {
        try write {
            try $0.execute(
                sql: "UPDATE replication SET next_attempt = ?1 WHERE disk = ?2 AND (?3 IS NULL OR vault = ?3) AND failures > 0",
                arguments: [Int64(bitPattern: Clock.wallNanoseconds()), name, vault])
        }
    }

    package func forgetKeptEpoch(ofDisk name: String, at vault: String) throws(SiteError) {
        try write { try $0.execute(sql: "UPDATE replication SET kept_epoch = NULL, kept_group = NULL WHERE disk = ? AND vault = ?", arguments: [name, vault]) }
    }

    package func setReplication(_ state: ReplicationState, ofDisk name: String, at vault: String? = nil) throws(SiteError) {
        let signed = { (value: UInt64?) in value.map(Int64.init(bitPattern:)) }
        try write { database in
            try database.execute(
                sql: """
                    UPDATE replication SET phase = ?, kept_epoch = ?, kept_group = ?, lineage = ?, proven_sequence = ?, proven_at = ?, head_number = ?,
                        writer_epoch = ?, failures = ?, next_attempt = ?, health = ?, error = ?, remedy = ? WHERE disk = ? AND vault = ?
                    """,
                arguments: [
                    state.phase.rawValue, state.keptEpoch.map { Int64($0.epoch) }, state.keptEpoch?.group, state.lineage, signed(state.provenSequence), signed(state.provenAtNanoseconds),
                    signed(state.headNumber), signed(state.writerEpoch), state.failures, signed(state.nextAttemptNanoseconds),
                    state.health.rawValue, state.error, state.remedy, name, Self.vault(vault, ofDisk: name, database),
                ])
        }
    }
}
