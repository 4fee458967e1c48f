// `farshore resync`: marks a disk for resynchronisation; the uploader does the work.

import ArgumentParser
import ChangeLog
import Replication
import Site

struct ResyncCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resync",
        abstract: "Compare a disk with what the vault has of it, and send what differs.",
        discussion: """
            The uploader does it in the hours that the disk's policy names (--resync-window), with --now at once; farshore job list shows
            how far it is. Only chunks of 1 MiB that differ are sent. Points from before stay; between the newest of them and the first one
            afterwards there are none. Until it begins deltas go on as usual.

            With --release-log they do not: the log lets go at once of what the vault lacks, so that a disk whose log is full can be written
            again while its target is away. Nothing is lost on this host, but the vault gets nothing more of the disk until the resynchronisation.

            Example:
              farshore resync db1 --now
            """)

    @Argument(help: "The disk.")
    var disk: String

    @Option(name: .long, help: ArgumentHelp("With this target; needed where the disk has several (farshore target list).", valueName: "url"))
    var vault: String?

    @Flag(name: .long, help: "At once, whatever the hour.")
    var now = false

    @Flag(name: .long, help: "Let the log go of what the vault lacks, to make room for writes.")
    var releaseLog = false

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let disk: String
        let resynchronisation: ResynchronisationDocument
        /// By `--release-log`.
        let released: Released?
    }

    /// What the log held for the target.
    struct Released: Encodable {
        let after: UInt64
        let bytes: UInt64?

        var text: String {
            "the log lets go of what came after #\(after)\(bytes.map { " (\(bytesText($0)) of writes)" } ?? ""); this host has it still, the vault gets nothing more until the resynchronisation, and no point between"
        }
    }

    /// Nil where the target has nothing yet, or it was let go of before.
    private func release(of disk: ProtectedDisk, _ folder: LogFolder, _ catalogue: Catalogue) throws -> Released? {
        guard !folder.isReleased(target: disk.vaultID), let proven = try catalogue.replication(ofDisk: disk.name, at: disk.vaultID).provenSequence else { return nil }
        return Released(after: proven, bytes: TargetReport.lag(disk, proven)?.bytes)
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let protected = try catalogue.disk(named: disk, vault: vault)
        guard vault != nil || protected.targetCount == 1 else {
            throw Failure(.usage, "\(disk) has \(protected.targetCount) targets", try: "--vault with one of them: farshore target list \(disk)")
        }
        guard protected.state == .protected else { throw protected.releasingFailure }
        guard protected.role == .source else {
            throw Failure(.failed, "\(disk) is a recovery disk, which is not replicated", try: "farshore status \(disk)")
        }
        let folder = LogFolder(protected.logFolder)
        let reason = "the administrator asked for it"
        let released = releaseLog ? try release(of: protected, folder, catalogue) : nil
        if releaseLog {
            try markResynchronisation(protected, folder, catalogue, reason: reason, isNow: now)
        } else {
            try catalogue.markResynchronisation(ofDisk: disk, at: protected.vaultID, reason: reason, isNow: now)
        }
        // One that waits because an attempt failed is tried again.
        try catalogue.requestAttempt(ofDisk: disk, at: protected.vaultID)
        guard let mark = try catalogue.resynchronisation(ofDisk: disk, at: protected.vaultID) else {
            throw Failure(.failed, "the uploader has just ended a resynchronisation of \(disk)", try: "farshore status \(disk)")
        }
        try catalogue.record(.information, of: protected, "resynchronisation asked for by the administrator" + (mark.isNow ? ", at once" : "") + (released.map { "; \($0.text)" } ?? ""))
        let document = Document(disk: disk, resynchronisation: ResynchronisationDocument(mark, protected), released: released)
        try output.print(document) { "\($0.disk): \($0.resynchronisation.text)" + ($0.released.map { "\n  \($0.text)" } ?? "") + (protected.isPaused ? "; the disk is paused: farshore resume \(protected.commandName)" : "") }
    }
}

/// A disk's mark, in `resync` and `status`.
struct ResynchronisationDocument: Encodable {
    let reason: String
    let marked: String
    let isNow: Bool
    /// Of the policy.
    let window: String
    /// The log no longer holds for the vault what it lacks.
    let isLogReleased: Bool

    init(_ mark: Resynchronisation, _ disk: ProtectedDisk) {
        reason = mark.reason
        marked = timeText(nanoseconds: mark.markedNanoseconds)
        isNow = mark.isNow
        window = disk.policy.resyncWindow.text
        isLogReleased = LogFolder(disk.logFolder).isReleased(target: disk.vaultID)
    }

    var text: String { "resynchronisation required (\(reason)); the uploader begins it " + (isNow ? "at once" : "in the hours of its policy: \(window)") }
}
