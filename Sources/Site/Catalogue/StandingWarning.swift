// What is wrong with a disk's replication for a while, though no attempt need have failed: set and taken away by the
// running uploader, shown by `status` while one runs.

import BlockIO
import GRDB

package struct StandingWarning: Equatable, Sendable {
    package enum Kind: String, Sendable {
        /// The vault is proven to be further behind than the policy allows.
        case lag
        /// Too many of the last hour's cycles did not bring the vault up to date.
        case missedCycles = "missed-cycles"
        /// Data is being overwritten by data that looks encrypted. It stands over restarts.
        case anomaly
    }

    package let kind: Kind
    package let text: String
    package let remedy: String
    /// Of an anomaly, by the wall clock: how long at least, for whoever watches after a restart.
    package let standsUntilNanoseconds: UInt64?

    package init(kind: Kind, text: String, remedy: String, standsUntilNanoseconds: UInt64? = nil) {
        self.kind = kind
        self.text = text
        self.remedy = remedy
        self.standsUntilNanoseconds = standsUntilNanoseconds
    }

    /// In the remedy of an anomaly, until that pin is taken away.
    package static func pinned(_ name: String) -> String { "pinned as \(name);" }
}

extension Catalogue {
    /// None named means the first target.
    package func warnings(ofDisk name: String, at vault: String? = nil) throws(SiteError) -> [StandingWarning] {
        try read { database in
            try Row.fetchAll(
                database, sql: "SELECT * FROM warning WHERE disk = ? AND vault = ? ORDER BY kind", arguments: [name, Self.vault(vault, ofDisk: name, database)]
            ).map {
                StandingWarning(
                    kind: try storedName($0["kind"]), text: $0["text"], remedy: $0["remedy"],
                    standsUntilNanoseconds: ($0["stands_until"] as Int64?).map(UInt64.init(bitPattern:)))
            }
        }
    }

    /// Sets the warning of the disk at that target, and records it as an event.
    package func set(_ warning: StandingWarning, of disk: ProtectedDisk) throws(SiteError) {
        try write {
            try $0.execute(
                sql: """
                    INSERT INTO warning (disk, vault, kind, text, remedy) SELECT disk, vault, ?, ?, ? FROM target WHERE disk = ? AND vault = ?
                    ON CONFLICT (disk, vault, kind) DO UPDATE SET text = excluded.text, remedy = excluded.remedy
                    """,
                arguments: [warning.kind.rawValue, warning.text, warning.remedy, disk.name, disk.vaultID])
        }
        try record(.warning, of: disk, "\(warning.text); \(warning.remedy)")
    }

    package func note(_ kind: StandingWarning.Kind, standsUntil nanoseconds: UInt64, of disk: ProtectedDisk) throws(SiteError) {
        try write {
            try $0.execute(
                sql: "UPDATE warning SET stands_until = ? WHERE disk = ? AND vault = ? AND kind = ?",
                arguments: [Int64(bitPattern: nanoseconds), disk.name, disk.vaultID, kind.rawValue])
        }
    }

    /// The pin that an alarm left is not there any more: nobody is told to take it away.
    package func notePinGone(_ name: String, ofDiskID id: String, vault: String) throws(SiteError) {
        try write {
            try $0.execute(
                sql: """
                    UPDATE warning SET remedy = ? WHERE kind = ? AND vault = ? AND disk IN (SELECT name FROM disk WHERE id = ?) AND instr(remedy, ?) > 0
                    """,
                arguments: ["look at the guest; the point from before is pinned no more", StandingWarning.Kind.anomaly.rawValue, vault, id, StandingWarning.pinned(name)])
        }
    }

    /// True when it stood.
    @discardableResult
    package func takeAway(_ kind: StandingWarning.Kind, of disk: ProtectedDisk) throws(SiteError) -> Bool {
        try write {
            try $0.execute(sql: "DELETE FROM warning WHERE disk = ? AND vault = ? AND kind = ?", arguments: [disk.name, disk.vaultID, kind.rawValue])
            return $0.changesCount > 0
        }
    }

    /// Those of an uploader that ended: the next one judges anew what it can see anew.
    package func takeAwayAllWarnings() throws(SiteError) {
        try write { try $0.execute(sql: "DELETE FROM warning WHERE kind <> ?", arguments: [StandingWarning.Kind.anomaly.rawValue]) }
    }
}
