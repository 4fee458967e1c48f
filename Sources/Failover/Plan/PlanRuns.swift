// Runs of recovery plans on this host: one JSON file each in the site's folder `plans`, replaced at every change of a step, with a lock
// that its process holds. The site's events name the ends.

package import BlockIO
import Foundation
import Glibc
package import Site

package struct PlanRuns: Sendable {
    private static let fileBytesMax = 16 << 20
    private let folder: String

    package init(folder: String) { self.folder = folder }

    package func save(_ run: PlanRun) throws {
        try Directory.create(folder, mode: 0o700)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        try DurableFile.replace(path(run.id), with: Array(try encoder.encode(run)))
    }

    package func run(_ id: String) throws -> PlanRun {
        guard Self.isID(id), let bytes = try DurableFile.read(path(id), limitBytes: Self.fileBytesMax) else {
            throw SiteError(.jobNotFound, "this site has no run \(id) of a plan", remedy: "farshore plan runs")
        }
        guard let run = try? JSONDecoder().decode(PlanRun.self, from: Data(bytes)), run.id == id else {
            throw SiteError(.catalogueDamaged, "\(path(id)) cannot be read", remedy: "run the plan again: what came up already stays up")
        }
        return run
    }

    /// Newest last.
    package func all() throws -> [PlanRun] {
        try names().filter { $0.hasSuffix(".json") }.map { try run(String($0.dropLast(5))) }.sorted { ($0.startedMicros, $0.id) < ($1.startedMicros, $1.id) }
    }

    /// A run of the plan in earnest that is not over: machines that two runs bring up would be started by both.
    package func unfinished(_ plan: String) throws -> PlanRun? {
        try all().last { $0.plan == plan && $0.kind != .test && $0.state != .succeeded && $0.state != .failed }
    }

    private func names() throws(SystemError) -> [String] {
        do throws(SystemError) { return try Directory.list(folder) } catch where error.errno == ENOENT { return [] }
    }

    /// One process goes on with a run.
    package func lock(_ id: String) throws -> SiteLock {
        try Directory.create(folder, mode: 0o700)
        guard let lock = try SiteLock.tryTake(folder + "/\(id).lock") else {
            throw SiteError(.lockHeld, "another process runs \(id) now", remedy: "farshore plan report \(id) shows how far it is")
        }
        return lock
    }

    package func isRunning(_ id: String) throws(SystemError) -> Bool { try SiteLock.isTaken(folder + "/\(id).lock") }

    private func path(_ id: String) -> String { "\(folder)/\(id).json" }

    /// NAME-NUMBER.
    private static func isID(_ id: String) -> Bool { !id.contains("/") && !id.hasPrefix(".") && id.utf8.count <= 80 }

    /// The name of the next run of the plan.
    package func newID(_ plan: String) throws -> String {
        let known = Set(try all().map(\.id))
        return (1...).lazy.map { "\(plan)-\($0)" }.first { !known.contains($0) } ?? plan
    }
}
