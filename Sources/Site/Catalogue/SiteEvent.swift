// Events: what happened on this site that an administrator may want to know, kept to the newest `eventsMax`.

import BlockIO
import GRDB

package struct SiteEvent: Equatable, Sendable {
    package enum Severity: String, Sendable { case information, warning, critical }

    package let id: Int64
    package let timeNanoseconds: UInt64
    package let severity: Severity
    package let disk: String?
    /// The URL of the target it is about, where the disk has several.
    package let vault: String?
    package let text: String

    init(row: Row) throws {
        id = row["id"]
        timeNanoseconds = UInt64(bitPattern: row["time"])
        severity = try storedName(row["severity"])
        disk = row["disk"]
        vault = row["vault"]
        text = row["text"]
    }
}

extension Catalogue {
    package static let eventsMax = 10_000

    /// About the disk at that target.
    package func record(_ severity: SiteEvent.Severity, of disk: ProtectedDisk, _ text: String) throws(SiteError) {
        try record(severity, disk: disk.name, vault: disk.namedVaultURL, text)
    }

    package func record(_ severity: SiteEvent.Severity, disk: String?, vault: String? = nil, _ text: String) throws(SiteError) {
        try write {
            try $0.execute(
                sql: "INSERT INTO event (time, severity, disk, vault, text) VALUES (?, ?, ?, ?, ?)",
                arguments: [Int64(bitPattern: Clock.wallNanoseconds()), severity.rawValue, disk, vault, text])
            try $0.execute(sql: "DELETE FROM event WHERE id <= ?", arguments: [$0.lastInsertedRowID - Int64(Self.eventsMax)])
        }
    }

    /// The newest `limit` events, oldest first.
    package func events(limit: Int, disk: String? = nil) throws(SiteError) -> [SiteEvent] {
        try read {
            try Row.fetchAll(
                $0, sql: "SELECT * FROM event WHERE ?1 IS NULL OR disk = ?1 ORDER BY id DESC LIMIT ?2", arguments: [disk, limit]
            ).map(SiteEvent.init(row:)).reversed()
        }
    }
}
