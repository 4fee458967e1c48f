// `farshore unprotect`: ends protection. The log is merged, the image is complete and stands alone.

import ArgumentParser
import ChangeLog
import Site
import VirtualDisk

struct UnprotectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unprotect",
        abstract: "End protection: merge the log, so that the image is current and needs no Farshore.",
        discussion: """
            Not while the disk is mounted. What is in the vault stays there, with all its points, until `farshore vault forget`.

            Example:
              farshore unprotect db1
            """)

    @Argument(help: "The disk.")
    var disk: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let disk: String
        let image: String
        let vault: String
        let job: Int64
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let protected = try catalogue.disk(named: disk)
        let job = try catalogue.beginJob(.unprotect, disk: disk, steps: ["release", "merge", "forget"])
        do {
            try job.step("release") { try release() }
            // From here on a crash is mended by running the command again.
            try catalogue.setState(.releasing, ofDisk: disk)
            try job.step("merge") { try merge(protected) }
            try job.step("forget") {
                try catalogue.remove(disk: disk)
                return nil
            }
            try job.succeed()
        } catch {
            let failure = Failure.explaining(error) ?? Failure(.failed, "\(error)", try: "farshore doctor")
            try job.fail(failure.message, remedy: failure.remedy)
            throw error
        }
        try catalogue.record(.information, disk: disk, "no longer protected; \(protected.imagePath) is complete")
        let document = Document(disk: disk, image: protected.imagePath, vault: protected.vaultURL, job: job.id)
        try output.print(document) { "\($0.disk): no longer protected. \($0.image) is current and stands alone.\nIts points stay in \($0.vault)." }
    }

    private func release() throws -> String? {
        do {
            _ = try ControlClient(site: site.directory).demand(.release(disk: disk), timeoutSeconds: 120)
            return "the mount let go of it"
        } catch {
            switch error.code {
            case .mountAway, .diskNotFound: return "not mounted"
            case .refused: throw Failure(.inUse, "\(disk) is mounted: \(error.message)", try: "farshore unmount DIR, then farshore unprotect \(disk)")
            default: throw error
            }
        }
    }

    private func merge(_ protected: ProtectedDisk) throws -> String? {
        // An earlier run that removed the log already: its state file went last.
        do throws(LogError) { _ = try LogFolder(protected.logFolder).readState() } catch .notALog { return "the log is gone already" }
        let opened = try OwnedDisk.open(protected, site: site.directory)
        do {
            try opened.disk.mergeAndRemoveLog()
        } catch {
            opened.disk.abandon()
            throw error
        }
        return nil
    }
}
