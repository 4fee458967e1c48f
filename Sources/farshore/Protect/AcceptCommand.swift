// `farshore accept`: the way back for an image whose owner, mode, name or times changed while nothing served it.

import ArgumentParser
import BlockIO
import ChangeLog
import DiskImage
import Replication
import Site
import Vault
import VirtualDisk

struct AcceptCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "accept",
        abstract: "Take a disk's image for what Farshore left, after it was refused as changed.",
        discussion: """
            An image whose time of change moved while nothing served it is refused, because the log over it may no longer fit. chmod, chown,
            a rename or a hard link move that time too. If only such things happened, this keeps the image and its log.
            If the content changed, blocks of two states would be mixed: then the image as it is can be kept only without its log.
            --discard-log does that: the writes that only the log holds are lost, a new log begins, and the disk is marked for
            resynchronisation, in which the vault gets what differs. It is also the way on when the log is lost or damaged, or when an older
            copy of image and log was put back. Copy both aside first. Points from before stay in the vault.

            Example:
              farshore accept db1
            """)

    @Argument(help: "The disk.")
    var disk: String

    @Flag(name: .long, help: "Take the image as it is and begin a new log: the writes that only the old one holds are lost.")
    var discardLog = false

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let disk: String
        let image: String
        let discarded: DiscardedLog?
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let protected = try catalogue.disk(named: disk)
        if discardLog { return try beginAnew(protected, catalogue) }
        do {
            let locks = try DiskLocks.take(protected, site: site.directory)
            let image = try protected.openImageFile(locked: locks.image, access: .readOnly)
            try VirtualDisk.acceptImage(image, folder: LogFolder(protected.logFolder), lock: locks.log)
        }
        try catalogue.requestAttempt(ofDisk: disk)
        try catalogue.record(.warning, disk: disk, "the administrator says that the content of \(protected.imagePath) was not changed")
        serveWhereMounted()
        try output.print(Document(disk: disk, image: protected.imagePath, discarded: nil)) { "\($0.disk): \($0.image) is taken as it is" }
    }

    /// The mark comes first: what is left after a kill at any place is ended by the same command. The new log's numbers are above all that
    /// this host, or the vault, knows of the disk.
    private func beginAnew(_ protected: ProtectedDisk, _ catalogue: Catalogue) throws {
        let folder = LogFolder(protected.logFolder)
        let targets = try catalogue.targets(ofDisk: disk)
        let proven = try catalogue.newestProven(ofDisk: disk)
        guard protected.state == .protected else { throw protected.releasingFailure }
        try protected.refuseWhileFilled()
        guard let id = LogID(hex: protected.id) else { throw Failure(.failed, "impossible disk id", try: "farshore doctor") }
        let newest = max(targets.map(newestInVault).max() ?? 0, proven ?? 0)
        do throws(SystemError) { try Directory.create(folder.path, mode: 0o700) } catch { throw LogError.system(error) }
        let discarded = DiscardedLog(protected, newestProven: proven)
        do {
            let locks = try DiskLocks.take(protected, site: site.directory)
            let image = try protected.openImage(locked: locks.image, access: .readOnly)
            guard image.sizeBytes == protected.sizeBytes else {
                throw Failure(
                    .badImage, "\(protected.imagePath) has \(image.sizeBytes) bytes, but the disk has \(protected.sizeBytes)",
                    try: "farshore unprotect \(disk) --discard-log, and protect the image under a new name")
            }
            for target in targets {
                try catalogue.markResynchronisation(ofDisk: disk, at: target.vaultID, reason: "the image was taken as it is, without its log")
                // What this host remembers of the vault may be as old, or as wrong, as what was refused.
                try catalogue.doubtChunks(vault: target.vaultID)
            }
            try folder.discard(locks.log)
            let sequencer = try Sequencer(path: site.directory.sequencePath)
            try sequencer.raise(above: newest)
            try ChangeLog.create(
                folder, diskID: id, diskBytes: image.sizeBytes, targets: targets.map(\.vaultID),
                segmentBytes: SegmentGeometry.segmentBytes(forBudgetBytes: protected.logBudgetBytes), budgetBytes: protected.logBudgetBytes, startSequence: try sequencer.next())
            // One without any state holds nothing back, as before.
            for target in targets where try !target.isFirstTarget && catalogue.replication(ofDisk: disk, at: target.vaultID).provenSequence == nil {
                try folder.release(target: target.vaultID)
            }
        }
        try catalogue.requestAttempt(ofDisk: disk)
        try catalogue.record(.warning, disk: disk, "the administrator takes \(protected.imagePath) as it is; \(discarded.text)")
        serveWhereMounted()
        try output.print(Document(disk: disk, image: protected.imagePath, discarded: discarded)) {
            "\($0.disk): \($0.image) is taken as it is.\n\(discarded.text)\nA new log begins; the vault is brought up to date by a resynchronisation (farshore resync \(protected.targetCount == 1 ? $0.disk : "\($0.disk) --vault URL") --now)."
        }
    }

    /// A mount that left the disk out serves it now.
    private func serveWhereMounted() {
        do { _ = try serve(disk, site.directory) } catch {
            printError("farshore: warning: the running mount does not serve \(disk) yet: \(error)")
        }
    }

    /// Another host may have gone further than this one.
    private func newestInVault(_ protected: ProtectedDisk) -> UInt64 {
        do {
            let vault = try site.openVault(of: protected)
            return try DiskHistory.newest(vault, try vault.disk(protected.id))?.state.highestSequence ?? 0
        } catch {
            printError("farshore: warning: the vault \(protected.vaultURL) cannot be asked how far it has the disk: \(error)")
            return 0
        }
    }
}
