// Disks that are marked "Resynchronisation required": their vault is to be compared with the image, for the log cannot bring it up to date
// or an administrator wants it so. The mark is set by whoever finds that and taken away by the uploader when it is done.

import BlockIO
import GRDB

package struct Resynchronisation: Equatable, Sendable {
    package let reason: String
    package let markedNanoseconds: UInt64
    /// At any hour; else in the window of the disk's policy.
    package let isNow: Bool

    init(row: Row) {
        reason = row["reason"]
        markedNanoseconds = UInt64(bitPattern: row["marked"])
        isNow = row["is_now"]
    }
}

extension Catalogue {
    /// Nil for a disk that is not marked.
    package func resynchronisation(ofDisk name: String) throws(SiteError) -> Resynchronisation? {
        try read { try Row.fetchOne($0, sql: "SELECT * FROM resynchronisation WHERE disk = ?", arguments: [name]).map(Resynchronisation.init(row:)) }
    }

    /// A disk that is marked already keeps its reason; asked for at once it stays so.
    @discardableResult
    package func markResynchronisation(ofDisk name: String, reason: String, isNow: Bool = false) throws(SiteError) -> Resynchronisation {
        let marked = try write { database in
            try Self.markResynchronisation(name, reason: reason, isNow: isNow, database)
            return try Row.fetchOne(database, sql: "SELECT * FROM resynchronisation WHERE disk = ?", arguments: [name]).map(Resynchronisation.init(row:))
        }
        guard let marked else { throw SiteError(.diskNotFound, "no disk named \(name) is protected on this site", remedy: "farshore status") }
        return marked
    }

    static func markResynchronisation(_ name: String, reason: String, isNow: Bool, _ database: Database) throws {
        try database.execute(
            sql: """
                INSERT INTO resynchronisation (disk, reason, marked, is_now) SELECT name, ?, ?, ? FROM disk WHERE name = ?
                ON CONFLICT (disk) DO UPDATE SET is_now = max(is_now, excluded.is_now)
                """,
            arguments: [reason, Int64(bitPattern: Clock.wallNanoseconds()), isNow, name])
    }

    package func endResynchronisation(ofDisk name: String) throws(SiteError) {
        try write { try $0.execute(sql: "DELETE FROM resynchronisation WHERE disk = ?", arguments: [name]) }
    }
}
