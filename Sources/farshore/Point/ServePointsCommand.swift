// The hidden worker command of `farshore point mount`: opens the vault and serves its points on the descriptors it
// inherits. It may die at any moment; its successor opens the vault again and goes on with the same slots.

import ArgumentParser
import FuseExport
import RecoveryPoints
import Site
import Vault

struct ServePointsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve-points", abstract: "The worker of `point mount`; started by it, never by hand.", shouldDisplay: false)

    @Argument var directory: String
    @OptionGroup var selection: PointSelection
    @Flag(name: .long) var allowOther = false
    @Option(name: .long, parsing: .remaining) var held: [String] = []
    @OptionGroup var site: SiteOptions

    func run() throws {
        guard let locks = InheritedLocks(held) else {
            throw Failure(.usage, "serve-points is started by `farshore point mount`, not by hand", try: "farshore point mount DIR --vault URL")
        }
        let process = try WorkerProcess(locks: locks) { serviceLog($0) }
        do {
            let vault = try selection.vault.open(site)
            let points = try PointTree(vault: vault, selection: selection, isPublic: allowOther)
            points.follow()
            defer { points.stop() }
            let end = try process.serve(points.tree, directory: directory)
            if case .failed(let error) = end { throw error }
        } catch {
            let failure = Failure.explaining(error) ?? Failure(.failed, "\(error)", try: "farshore doctor")
            process.refuse(WorkerRefusal(status: failure.status.rawValue, message: failure.message, remedy: failure.remedy))
            throw failure
        }
    }
}
