// Jobs: long work with steps, progress and an end, kept so that a crash can be told from success. A job whose process
// is gone is shown as interrupted; the work itself is begun again by whoever does that work.

package import BlockIO
import Foundation
import GRDB

package struct Job: Equatable, Sendable {
    package enum Kind: String, Sendable {
        case protect, unprotect
        case initialReplication = "initial-replication"
        case resynchronisation, failover, failback
        case failoverPreparation = "failover-preparation"
        case testFailover = "test-failover"

        /// Begun by the uploader, when it is due, and not by a person's command.
        var isOfUploader: Bool { self == .initialReplication || self == .resynchronisation }
    }

    package enum State: String, Sendable { case running, succeeded, failed, interrupted, cancelled }

    /// How a person began it: the words after the program's name, and the folder that relative paths in them are meant from.
    package struct Command: Codable, Equatable, Sendable {
        package let folder: String
        package let words: [String]

        package init(folder: String, words: [String]) {
            self.folder = folder
            self.words = words
        }
    }

    package struct Step: Equatable, Sendable {
        package enum State: String, Sendable { case waiting, running, succeeded, failed }

        package var name: String
        package var state: State
        package var detail: String?
    }

    package let id: Int64
    package let kind: Kind
    package let disk: String?
    /// The URL of the target it is for, where the disk has several.
    package let vault: String?
    package let state: State
    package let steps: [Step]
    package let doneBytes: UInt64
    package let totalBytes: UInt64
    package let error: String?
    package let remedy: String?
    package let startedNanoseconds: UInt64
    package let endedNanoseconds: UInt64?
    /// Nil of what the uploader began, and of jobs of earlier releases.
    package let command: Command?
    /// Who runs it, or ran it.
    private let process: ProcessIdentity

    init(row: Row, steps: [Step]) throws {
        id = row["id"]
        kind = try storedName(row["kind"])
        disk = row["disk"]
        vault = row["vault"]
        let stored: State = try storedName(row["state"])
        process = ProcessIdentity(processID: Int32(truncatingIfNeeded: row["process"] as Int64), start: row["process_start"])
        state = stored == .running && !process.isAlive ? .interrupted : stored
        self.steps = steps
        doneBytes = UInt64(bitPattern: row["done_bytes"])
        totalBytes = UInt64(bitPattern: row["total_bytes"])
        error = row["error"]
        remedy = row["remedy"]
        startedNanoseconds = UInt64(bitPattern: row["started"])
        endedNanoseconds = (row["ended"] as Int64?).map(UInt64.init(bitPattern:))
        command = try (row["command"] as String?).map { try JSONDecoder().decode(Command.self, from: Data($0.utf8)) }
    }

    /// Tells the process that runs it to end; nothing where that is gone.
    package func endProcess() throws(SystemError) { try process.end() }

    /// Seconds left at the mean rate so far, when there is one.
    package func secondsLeft(now: UInt64 = Clock.wallNanoseconds()) -> Double? {
        guard state == .running, doneBytes > 0, totalBytes > doneBytes, now > startedNanoseconds else { return nil }
        return Double(now - startedNanoseconds) / 1e9 / Double(doneBytes) * Double(totalBytes - doneBytes)
    }
}

extension Catalogue {
    /// Newest first.
    package func jobs(limit: Int = 100) throws(SiteError) -> [Job] {
        try read { database in
            try Row.fetchAll(database, sql: "SELECT * FROM job ORDER BY id DESC LIMIT ?", arguments: [limit]).map {
                try Job(row: $0, steps: Self.steps(of: $0["id"], database))
            }
        }
    }

    package func job(_ id: Int64) throws(SiteError) -> Job {
        let found = try read { database in
            try Row.fetchOne(database, sql: "SELECT * FROM job WHERE id = ?", arguments: [id]).map {
                try Job(row: $0, steps: Self.steps(of: id, database))
            }
        }
        guard let found else { throw SiteError(.jobNotFound, "there is no job \(id)", remedy: "farshore job list") }
        return found
    }

    /// The newest attempt at the same that was begun after `job`. Tests go by their names, and each is itself.
    package func laterJob(than job: Job) throws(SiteError) -> Job? {
        guard job.kind != .testFailover else { return nil }
        return try read { database in
            try Row.fetchOne(
                database, sql: "SELECT * FROM job WHERE id > ? AND kind = ? AND disk IS ? AND vault IS ? ORDER BY id DESC LIMIT 1",
                arguments: [job.id, job.kind.rawValue, job.disk, job.vault]
            ).map { try Job(row: $0, steps: Self.steps(of: $0["id"], database)) }
        }
    }

    /// Of a job that ended otherwise.
    package func noteCancelled(job id: Int64) throws(SiteError) {
        try write {
            try $0.execute(
                sql: "UPDATE job SET state = ?, ended = coalesce(ended, ?) WHERE id = ? AND state != ?",
                arguments: [Job.State.cancelled.rawValue, Int64(bitPattern: Clock.wallNanoseconds()), id, Job.State.succeeded.rawValue])
        }
    }

    private static func steps(of job: Int64, _ database: Database) throws -> [Job.Step] {
        try Row.fetchAll(database, sql: "SELECT * FROM job_step WHERE job = ? ORDER BY number", arguments: [job]).map {
            Job.Step(name: $0["name"], state: try storedName($0["state"]), detail: $0["detail"])
        }
    }

    /// Begins a job run by this process; its steps wait.
    package func beginJob(_ kind: Job.Kind, disk: String?, vault: String? = nil, steps: [String]) throws(SiteError) -> RunningJob {
        let process = ProcessIdentity.current()
        let command = kind.isOfUploader ? nil : command
        let id = try write { database in
            let words = try command.map { String(decoding: try JSONEncoder().encode($0), as: UTF8.self) }
            try database.execute(
                sql: "INSERT INTO job (kind, disk, vault, state, process, process_start, started, command) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                arguments: [
                    kind.rawValue, disk, vault, Job.State.running.rawValue, Int64(process.processID), process.start,
                    Int64(bitPattern: Clock.wallNanoseconds()), words,
                ])
            let id = database.lastInsertedRowID
            for (number, name) in steps.enumerated() {
                try database.execute(
                    sql: "INSERT INTO job_step (job, number, name, state) VALUES (?, ?, ?, ?)",
                    arguments: [id, number, name, Job.Step.State.waiting.rawValue])
            }
            return id
        }
        return RunningJob(id: id, stepNames: steps, catalogue: self)
    }
}
