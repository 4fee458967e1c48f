// The handle of the process that runs a job: moves its steps on, states progress, ends it once.

import BlockIO
import GRDB

package struct RunningJob: Sendable {
    package let id: Int64
    let stepNames: [String]
    let catalogue: Catalogue

    /// Runs `work` as the named step; its error fails the step and is thrown on. `work` returns a line of detail, or nil.
    package func step(_ name: String, _ work: () throws -> String?) throws {
        try setStep(name, .running, nil)
        do {
            try setStep(name, .succeeded, try work())
        } catch {
            try setStep(name, .failed, "\(error)")
            throw error
        }
    }

    private func setStep(_ name: String, _ state: Job.Step.State, _ detail: String?) throws(SiteError) {
        guard let number = stepNames.firstIndex(of: name) else {
            throw SiteError(.jobNotFound, "job \(id) has no step \(name)", remedy: "farshore job show \(id)")
        }
        try catalogue.write {
            try $0.execute(
                sql: "UPDATE job_step SET state = ?, detail = ? WHERE job = ? AND number = ?",
                arguments: [state.rawValue, detail, id, number])
        }
    }

    package func progress(doneBytes: UInt64, totalBytes: UInt64) throws(SiteError) {
        try catalogue.write {
            try $0.execute(
                sql: "UPDATE job SET done_bytes = ?, total_bytes = ? WHERE id = ?",
                arguments: [Int64(bitPattern: doneBytes), Int64(bitPattern: totalBytes), id])
        }
    }

    package func succeed() throws(SiteError) { try end(.succeeded, error: nil, remedy: nil) }

    package func fail(_ error: String, remedy: String) throws(SiteError) { try end(.failed, error: error, remedy: remedy) }

    private func end(_ state: Job.State, error: String?, remedy: String?) throws(SiteError) {
        try catalogue.write {
            try $0.execute(
                sql: "UPDATE job SET state = ?, error = ?, remedy = ?, ended = ? WHERE id = ?",
                arguments: [state.rawValue, error, remedy, Int64(bitPattern: Clock.wallNanoseconds()), id])
        }
    }
}
