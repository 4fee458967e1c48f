// The host's catalogue: one SQLite file in the site directory, shared by the mount, the uploader and the CLI. WAL with
// synchronous FULL, so what a call stored is durable when it returns. Losing it loses no disk content: logs and vault
// carry what recovery needs. Tables are added by migrations only; a catalogue made by a newer version is refused.

import BlockIO
import Foundation
import GRDB

package final class Catalogue: Sendable {
    /// Seconds a statement waits for another process's transaction.
    private static let busySecondsMax: TimeInterval = 20

    let database: DatabaseQueue
    package let site: SiteDirectory

    /// Opens the catalogue, making the site when it is new.
    package init(site: SiteDirectory) throws(SiteError) {
        self.site = site
        do throws(SystemError) {
            try site.create()
        } catch {
            throw SiteError(.system, error.description, remedy: "choose a site directory you may write: --site DIR or FARSHORE_SITE")
        }
        var configuration = Configuration()
        configuration.journalMode = .wal
        configuration.busyMode = .timeout(Self.busySecondsMax)
        configuration.prepareDatabase { try $0.execute(sql: "PRAGMA synchronous = FULL") }
        let path = site.cataloguePath
        do {
            database = try DatabaseQueue(path: path, configuration: configuration)
            let migrator = Catalogue.migrator()
            guard try database.read({ try !migrator.hasBeenSuperseded($0) }) else {
                throw SiteError(.catalogueNewer, "\(path) was made by a newer version of farshore", remedy: "use that version, or another --site")
            }
            try migrator.migrate(database)
        } catch {
            throw Catalogue.describe(error, path: path)
        }
    }

    func read<Value>(_ query: (Database) throws -> Value) throws(SiteError) -> Value {
        do { return try database.read(query) } catch { throw Catalogue.describe(error, path: site.cataloguePath) }
    }

    func write<Value>(_ update: (Database) throws -> Value) throws(SiteError) -> Value {
        do { return try database.write(update) } catch { throw Catalogue.describe(error, path: site.cataloguePath) }
    }

    private static func describe(_ error: any Error, path: String) -> SiteError {
        if let known = error as? SiteError { return known }
        guard let failure = error as? DatabaseError else {
            return SiteError(.catalogueFailed, "\(path): \(error)", remedy: "farshore doctor")
        }
        let text = "\(path): \(failure.message ?? failure.resultCode.description)"
        switch failure.resultCode {
        case .SQLITE_CORRUPT, .SQLITE_NOTADB:
            return SiteError(.catalogueDamaged, text, remedy: "move the file away and protect the disks again: logs and vault are not touched by that")
        case .SQLITE_FULL, .SQLITE_IOERR:
            return SiteError(.catalogueFailed, text, remedy: "make room on, or repair, the filesystem of the site directory")
        case .SQLITE_BUSY:
            return SiteError(.catalogueFailed, text, remedy: "another farshore holds the catalogue; try again")
        default:
            return SiteError(.catalogueFailed, text, remedy: "farshore doctor")
        }
    }
}
