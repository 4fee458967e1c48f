// The host's catalogue: one SQLite file in the site directory, shared by the mount, the uploader and the CLI. WAL with
// synchronous FULL, so what a call stored is durable when it returns. Losing it loses no disk content: logs and vault
// carry what recovery needs. Tables are added by migrations only; a catalogue made by a newer version is refused.

import BlockIO
import Foundation
import GRDB
import Glibc
import Synchronization

package final class Catalogue: Sendable {
    /// Seconds a statement waits for another process's transaction.
    private static let busySecondsMax: TimeInterval = 20

    /// Nil after a failure that a connection may not get over: SQLite keeps on read-only what it could not open for writing, and
    /// pages it could not read. The next call opens it again.
    private let connection: Mutex<DatabaseQueue?>
    package let site: SiteDirectory
    /// Kept with the jobs that are begun here.
    let command: Job.Command?

    /// Opens the catalogue, making the site when it is new.
    package init(site: SiteDirectory, command: Job.Command? = nil) throws(SiteError) {
        self.site = site
        self.command = command
        do throws(SystemError) {
            try site.create()
        } catch {
            let mayWrite = error.errno != EACCES && error.errno != EPERM && error.errno != EROFS
            throw SiteError(
                error.errno == ENOSPC || error.errno == EDQUOT ? .noSpace : .system, error.description,
                remedy: mayWrite ? Self.mendRemedy : "choose a site directory you may write: --site DIR or FARSHORE_SITE")
        }
        let path = site.cataloguePath
        do {
            let database = try Self.open(path)
            connection = Mutex(database)
            try Self.migrate(database, path)
        } catch {
            throw Catalogue.describe(error, path: path)
        }
    }

    /// What is to be done is asked before it is begun. Another process that makes the same catalogue may come between: then the schema has changed,
    /// and this one goes on from there.
    private static func migrate(_ database: DatabaseQueue, _ path: String) throws {
        let migrator = Catalogue.migrator()
        while true {
            let version = try schemaVersion(database)
            do {
                guard try database.read({ try !migrator.hasBeenSuperseded($0) }) else {
                    throw SiteError(.catalogueNewer, "\(path) was made by a newer version of farshore", remedy: "use that version, or another --site")
                }
                return try migrator.migrate(database)
            } catch let failure as DatabaseError {
                guard try schemaVersion(database) != version else { throw failure }
            }
        }
    }

    private static func schemaVersion(_ database: DatabaseQueue) throws -> Int? { try database.read { try Int.fetchOne($0, sql: "PRAGMA schema_version") } }

    private static func open(_ path: String) throws -> DatabaseQueue {
        var configuration = Configuration()
        configuration.journalMode = .wal
        configuration.busyMode = .timeout(busySecondsMax)
        configuration.prepareDatabase { try $0.execute(sql: "PRAGMA synchronous = FULL") }
        // Who turns a new file into one with a WAL is waited for by nobody in SQLite.
        let deadline = ContinuousClock.now + .seconds(busySecondsMax)
        while true {
            do { return try DatabaseQueue(path: path, configuration: configuration) } catch let failure as DatabaseError where failure.resultCode == .SQLITE_BUSY {
                guard ContinuousClock.now < deadline else { throw failure }
                usleep(20_000)
            }
        }
    }

    func read<Value>(_ query: (Database) throws -> Value) throws(SiteError) -> Value { try use { try $0.read(query) } }

    func write<Value>(_ update: (Database) throws -> Value) throws(SiteError) -> Value { try use { try $0.write(update) } }

    private func use<Value>(_ body: (DatabaseQueue) throws -> Value) throws(SiteError) -> Value {
        do {
            let database = try connection.withLock { connection in
                if let open = connection { return open }
                let open = try Self.open(site.cataloguePath)
                connection = open
                return open
            }
            do { return try body(database) } catch let failure as DatabaseError where Self.outlivesItsCause(failure) {
                connection.withLock { if $0 === database { $0 = nil } }
                throw failure
            }
        } catch { throw Catalogue.describe(error, path: site.cataloguePath) }
    }

    private static func outlivesItsCause(_ failure: DatabaseError) -> Bool {
        switch failure.resultCode {
        case .SQLITE_READONLY, .SQLITE_IOERR, .SQLITE_CANTOPEN, .SQLITE_CORRUPT, .SQLITE_NOTADB: true
        default: false
        }
    }

    private static let mendRemedy = "make room on, or repair, the filesystem of the site directory"

    private static func describe(_ error: any Error, path: String) -> SiteError {
        if let known = error as? SiteError { return known }
        guard let failure = error as? DatabaseError else {
            return SiteError(.catalogueFailed, "\(path): \(error)", remedy: "farshore doctor")
        }
        let text = "\(path): \(failure.message ?? failure.resultCode.description)"
        switch failure.resultCode {
        case .SQLITE_CORRUPT, .SQLITE_NOTADB:
            return SiteError(.catalogueDamaged, text, remedy: "dmesg says whether the storage fails, then mend that; else move the file away, with those beside it that end in -wal and -shm, and farshore site rebuild --vault URL")
        case .SQLITE_FULL: return SiteError(.noSpace, text, remedy: mendRemedy)
        case .SQLITE_IOERR, .SQLITE_CANTOPEN, .SQLITE_READONLY: return SiteError(.catalogueFailed, text, remedy: mendRemedy)
        case .SQLITE_BUSY:
            return SiteError(.catalogueFailed, text, remedy: "another farshore holds the catalogue; try again")
        default:
            return SiteError(.catalogueFailed, text, remedy: "farshore doctor")
        }
    }
}
