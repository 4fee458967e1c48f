// Jobs: long work with steps, progress and an end, kept so that a crash can be told from success. A job whose process
// is gone is shown as interrupted; the work itself is begun again by whoever does that work.

import BlockIO
import GRDB

package struct Job: Equatable, Sendable {
    package enum Kind: String, Sendable {
        case protect, unprotect
        case initialReplication = "initial-replication"
        case resynchronisation, failover, failback
        case failoverPreparation = "failover-preparation"
        case testFailover = "test-failover"
    }

    package enum State: String, Sendable { case running, succeeded, failed, interrupted }

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

    init(row: Row, steps: [Step]) throws {
        id = row["id"]
        kind = try storedName(row["kind"])
        disk = row["disk"]
        vault = row["vault"]
        let stored: State = try storedName(row["state"])
        let isAlive = ProcessIdentity.isAlive(Int32(truncatingIfNeeded: row["process"] as Int64), start: row["process_start"])
        state = stored == .running && !isAlive ? .interrupted : stored
        self.steps = steps
        doneBytes = UInt64(bitPattern: row["done_bytes"])
        totalBytes = UInt64(bitPattern: row["total_bytes"])
        error = row["error"]
        remedy = row["remedy"]
        startedNanoseconds = UInt64(bitPattern: row["started"])
        endedNanoseconds = (row["ended"] as Int64?).map(UInt64.init(bitPattern:))
    }

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

    private static func steps(of job: Int64, _ database: Database) throws -> [Job.Step] {
        try Row.fetchAll(database, sql: "SELECT * FROM job_step WHERE job = ? ORDER BY number", arguments: [job]).map {
            Job.Step(name: $0["name"], state: try storedName($0["state"]), detail: $0["detail"])
        }
    }

    /// Begins a job run by this process; its steps wait.
    package func beginJob(_ kind: Job.Kind, disk: String?, vault: String? = nil, steps: [String]) throws(SiteError) -> RunningJob {
        let process = ProcessIdentity.current()
        let id = try write { database in
            try database.execute(
                sql: "INSERT INTO job (kind, disk, vault, state, process, process_start, started) VALUES (?, ?, ?, ?, ?, ?, ?)",
                arguments: [
                    kind.rawValue, disk, vault, Job.State.running.rawValue, Int64(process.processID), process.start,
                    Int64(bitPattern: Clock.wallNanoseconds()),
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
