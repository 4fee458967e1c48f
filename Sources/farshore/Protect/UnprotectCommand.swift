// `farshore unprotect`: ends protection. The log is merged, the image is complete and stands alone.

import ArgumentParser
import BlockIO
import ChangeLog
import DiskImage
import Failover
import Foundation
import Glibc
import Replication
import Site
import Vault
import VirtualDisk

struct UnprotectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unprotect",
        abstract: "End protection: merge the log, so that the image is current and needs no Farshore.",
        discussion: """
            A running mount lets the disk go, unless somebody has its files open. An image or a log that is refused is left as
            it is, and so is the protection. What is in the vault stays there, with all its points, until `farshore vault forget`.

            Where the log can never be merged, because the image was changed or the log is damaged, --discard-log ends protection
            with the image as it is. What only the log holds is lost then; copy both aside first.

            Example:
              farshore unprotect db1
            """)

    @Argument(help: "The disk.")
    var disk: String

    @Flag(name: .long, help: "Drop the log without merging it: the writes that only it holds are lost.")
    var discardLog = false

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let disk: String
        let image: String
        /// The image is read through its parents.
        let isChain: Bool
        let vault: String
        /// All targets.
        let vaults: [String]
        let job: Int64
        let discarded: DiscardedLog?
        /// Collections of the vault wait for this disk until it is named there.
        let holdsUpCollections: Bool
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let protected = try catalogue.disk(named: disk)
        try protected.refuseWhileFilled()
        let targets = try catalogue.targets(ofDisk: disk)
        let epochs = try targets.map { try catalogue.replication(ofDisk: disk, at: $0.vaultID).writerEpoch }
        let job = try catalogue.beginJob(.unprotect, disk: disk, steps: ["release", discardLog ? "discard" : "merge", "forget"])
        var discarded: DiscardedLog?
        do {
            var wasServed = false
            try job.step("release") {
                wasServed = try release()
                return wasServed ? "the mount let go of it" : "not mounted"
            }
            do {
                if discardLog { discarded = try discard(protected, catalogue, job) } else { try merge(protected, catalogue, job) }
            } catch {
                if wasServed, try catalogue.disk(named: disk).state == .protected { serveAgain() }
                throw error
            }
            try job.succeed()
        } catch {
            let failure = Failure.explaining(error) ?? Failure(.failed, "\(error)", try: "farshore doctor")
            try job.fail(failure.message, remedy: failure.remedy)
            throw error
        }
        let end = discarded?.text ?? "\(protected.imagePath) is complete"
        try catalogue.record(discarded == nil ? .information : .warning, disk: disk, "no longer protected; \(end)")
        let document = Document(
            disk: disk, image: protected.imagePath, isChain: protected.format == ImageFormat.vhdDifferencing.rawValue, vault: protected.vaultURL, vaults: targets.map(\.vaultURL), job: job.id,
            discarded: discarded, holdsUpCollections: !(try zip(targets, epochs).map { try site.letGo(of: $0, writerEpoch: $1, catalogue) }.allSatisfy { $0 }))
        try output.print(document, text: Self.text)
    }

    private static func text(_ document: Document) -> String {
        var lines = ["\(document.disk): no longer protected. \(document.image) is current\(document.isChain ? "; it needs its parents, as before" : " and stands alone")."]
        if let discarded = document.discarded { lines = ["\(document.disk): no longer protected. \(document.image) stays as it is.", discarded.text] }
        lines.append("Its points stay in \(document.vaults.joined(separator: " and ")).")
        if document.holdsUpCollections {
            lines.append("The vault could not be told: collections wait for this disk until farshore vault collect \(document.vaults.count == 1 ? document.vault : "URL") --retire \(document.disk)")
        }
        return lines.joined(separator: "\n")
    }

    /// Whether a mount served it.
    private func release() throws -> Bool {
        do {
            _ = try ControlClient(site: site.directory).demand(.release(disk: disk), timeoutSeconds: 120)
            return true
        } catch {
            switch error.code {
            case .mountAway, .diskNotFound: return false
            case .refused: throw Failure(.inUse, "\(disk) is mounted: \(error.message)", try: "\(error.remedy), then farshore unprotect \(disk)")
            default: throw error
            }
        }
    }

    private func serveAgain() {
        do { _ = try ControlClient(site: site.directory).demand(.add(disk: disk)) } catch {
            printError("farshore: the running mount does not serve \(disk) any more: \(error.message)")
        }
    }

    /// All that can fail for what is in log or image comes before the state changes; from then on a crash is mended by
    /// running the command again.
    private func merge(_ protected: ProtectedDisk, _ catalogue: Catalogue, _ job: RunningJob) throws {
        var found: OwnedDisk?
        try job.step("merge") {
            found = try open(protected)
            guard let opened = found else { return "the log is gone already" }
            try Self.orAbandoned(opened) {
                try opened.disk.unfreeze()
                try opened.disk.mergeAll()
            }
            return nil
        }
        try job.step("forget") {
            if let opened = found {
                try Self.orAbandoned(opened) {
                    try catalogue.setState(.releasing, ofDisk: disk)
                    try opened.disk.mergeAndRemoveLog()
                }
            }
            try catalogue.remove(disk: disk)
            return nil
        }
    }

    /// Nil when an earlier run removed the log already: its state file went last.
    private func open(_ protected: ProtectedDisk) throws -> OwnedDisk? {
        do throws(LogError) { _ = try LogFolder(protected.logFolder).readState() } catch {
            if case .notALog = error, protected.state == .releasing { return nil }
            throw error
        }
        return try waitingForUploader(of: site.directory) { try OwnedDisk.open(protected, site: site.directory) }
    }

    private static func orAbandoned(_ opened: OwnedDisk, _ work: () throws -> Void) throws {
        do { try work() } catch {
            opened.disk.abandon()
            throw error
        }
    }

    private func discard(_ protected: ProtectedDisk, _ catalogue: Catalogue, _ job: RunningJob) throws -> DiscardedLog {
        let folder = LogFolder(protected.logFolder)
        let discarded = DiscardedLog(protected, newestProven: try catalogue.newestProven(ofDisk: disk))
        try job.step("discard") {
            guard access(folder.path, F_OK) == 0 else { return "the log is gone already" }
            let lock = try waitingForUploader(of: site.directory) { try OwnerLock.acquire(folder) }
            // Before the state: a disk that is refused here stays one of this site.
            try folder.refuseDuringFailback()
            try catalogue.setState(.releasing, ofDisk: disk)
            try folder.discard(lock)
            return discarded.text
        }
        try job.step("forget") {
            try catalogue.remove(disk: disk)
            return nil
        }
        return discarded
    }
}
