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
    /// Nil for a disk that is not marked at that target; none named means the first, here and below.
    package func resynchronisation(ofDisk name: String, at vault: String? = nil) throws(SiteError) -> Resynchronisation? {
        try read { try Self.resynchronisation(name, Self.vault(vault, ofDisk: name, $0), $0) }
    }

    private static func resynchronisation(_ disk: String, _ vault: String?, _ database: Database) throws -> Resynchronisation? {
        try Row.fetchOne(database, sql: "SELECT * FROM resynchronisation WHERE disk = ? AND vault = ?", arguments: [disk, vault]).map(Resynchronisation.init(row:))
    }

    /// A disk that is marked already keeps its reason; asked for at once it stays so.
    @discardableResult
    package func markResynchronisation(ofDisk name: String, at vault: String? = nil, reason: String, isNow: Bool = false) throws(SiteError) -> Resynchronisation {
        let marked = try write { database in
            let vault = try Self.vault(vault, ofDisk: name, database)
            if let vault { try Self.markResynchronisation(name, vault, reason: reason, isNow: isNow, database) }
            return try Self.resynchronisation(name, vault, database)
        }
        guard let marked else { throw SiteError(.diskNotFound, "no disk named \(name) is protected on this site", remedy: "farshore status") }
        return marked
    }

    static func markResynchronisation(_ name: String, _ vault: String, reason: String, isNow: Bool, _ database: Database) throws {
        try database.execute(
            sql: """
                INSERT INTO resynchronisation (disk, vault, reason, marked, is_now) SELECT disk, vault, ?, ?, ? FROM target WHERE disk = ? AND vault = ?
                ON CONFLICT (disk, vault) DO UPDATE SET is_now = max(is_now, excluded.is_now)
                """,
            arguments: [reason, Int64(bitPattern: Clock.wallNanoseconds()), isNow, name, vault])
    }

    package func endResynchronisation(ofDisk name: String, at vault: String) throws(SiteError) {
        try write { try $0.execute(sql: "DELETE FROM resynchronisation WHERE disk = ? AND vault = ?", arguments: [name, vault]) }
    }
}
