// `farshore failback …`, on the host that a machine came from: its images follow the replica, and take over from it again.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import ObjectStore
import Replication
import Site
import Synchronization
import Vault

struct FailbackCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "failback",
        abstract: "Bring machines home that were failed over and reprotected.",
        subcommands: [FailbackStart.self, FailbackStatus.self, FailbackComplete.self, FailbackCancel.self, FailbackRelease.self])
}

/// One unit, with what counts what comes from its vault.
struct OpenedFailback {
    let opened: OpenedUnit
    let failbacks: Failbacks

    init(_ options: UnitOptions) throws {
        let stop = StopFlag()
        try onTermination { stop.stop() }
        let counted = Mutex<CountingStore?>(nil)
        let opened = try OpenedUnit(options.unit, try options.vault.place(of: options.unit, options.site.catalogue()), options.site) { store in
            let counting = CountingStore(store)
            counted.withLock { $0 = counting }
            return counting
        }
        let (progress, counting) = (Progress("failback"), counted.withLock { $0 })
        failbacks = Failbacks(
            heads: opened.heads, catalogue: opened.catalogue,
            actions: .init(
                release: { [folder = opened.site.directory] in try release($0, folder) }, serve: { [folder = opened.site.directory] in try serve($0, folder) != nil },
                refuseForeignUse: { try ProtectionChecks.refuseLoopDevice(of: $0.imagePath) }),
            ImageRefresh.Surroundings(
                fetchedBytes: { UInt64(counting?.counts.bytesReceived ?? 0) }, isOver: { stop.isStopping },
                progress: { progress.update(doneBytes: $0.doneBytes, totalBytes: $0.totalBytes) }))
        self.opened = opened
    }
}

/// What `start` and `complete` tell.
struct FailbackDocument: Encodable {
    struct Disk: Encodable {
        let disk: String
        let image: String
        /// Up to where the image is what the replica held; absent before the first pass has ended.
        let sequence: UInt64?
        let writtenBytes: UInt64
        let fetchedBytes: UInt64
        let sides: Sides
    }

    /// Where home and replica parted, and what each has since.
    struct Sides: Encodable {
        let common: UInt64?
        /// Where the replica went on; below `common` after a failover to an older point.
        let parted: UInt64?
        let homeWrites: UInt64
        let homeBytes: UInt64
        let homeFirst: String?
        let homeLast: String?
        let replicaLineage: String
        let replicaSequence: UInt64
        let replicaRecords: UInt64?
        let replicaNewest: String?
        /// Why the whole image is compared.
        let obstacle: String?

        init(_ parted: PartedDisk) {
            common = parted.common?.sequence
            self.parted = parted.partedSequence
            homeWrites = parted.unsent.records
            homeBytes = parted.unsent.bytes
            homeFirst = parted.unsent.records > 0 ? timeText(nanoseconds: parted.unsent.firstNanoseconds) : nil
            homeLast = parted.unsent.records > 0 ? timeText(nanoseconds: parted.unsent.lastNanoseconds) : nil
            replicaLineage = parted.lineage.description
            replicaSequence = parted.newestSequence
            replicaRecords = parted.replicaRecords
            replicaNewest = pointTime(micros: parted.newestMicros)
            obstacle = parted.obstacle
        }

        var text: String {
            var beyond = ""
            if let common, let parted, parted < common { beyond = "what came up to #\(common), which the vault has and the replica does not; " }
            let home = beyond + (homeWrites == 0 ? "nothing that the vault lacks" : "\(homeWrites) writes (\(bytesText(homeBytes))) that the vault never got, from \(homeFirst ?? "?") to \(homeLast ?? "?")")
            let replica = (replicaRecords.map { "\($0) records" } ?? "an unknown number of records") + " up to #\(replicaSequence)" + (replicaNewest.map { ", \($0)" } ?? "")
            return "parted at \(parted.map { "#\($0)" } ?? "an unknown state")\(obstacle.map { " (\($0))" } ?? "")\n    home: \(home)\n    replica: \(replica)"
        }
    }

    let unit: String
    let state: String
    let passes: Int
    let disks: [Disk]
    let isServed: Bool

    init(_ report: FailbackReport) {
        unit = report.unit
        state = report.state.rawValue
        passes = report.passes
        isServed = !report.unserved
        disks = report.disks.map {
            Disk(
                disk: $0.parted.disk.name, image: $0.parted.image, sequence: $0.mark?.base?.sequence, writtenBytes: $0.mark?.writtenBytes ?? 0, fetchedBytes: $0.mark?.fetchedBytes ?? 0,
                sides: Sides($0.parted))
        }
    }

    var text: String {
        disks.map { "\($0.disk): \($0.image) is as the replica at #\($0.sequence ?? 0); \(bytesText($0.fetchedBytes)) fetched, \(bytesText($0.writtenBytes)) written" }.joined(separator: "\n")
    }
}

struct FailbackStart: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "start",
        abstract: "Bring the images on this host to what the replica holds, while guests run on there.",
        discussion: """
            Only what differs is fetched and written, in the image's own format. Killed, the command goes on when it is run again; run again later, it brings the
            images closer, so that `failback complete` is short. Meanwhile nothing else may use the images. Where home and replica were both written to, both are shown,
            and nothing is dropped without --drop-home-writes. With --to or --image-folder new images are made and the old ones stay as they are.

            Example:
              farshore failback start db1 --to /srv/new/db1.vhd
            """)

    @OptionGroup var options: UnitOptions

    @Option(
        name: .long,
        help: ArgumentHelp("The image to bring back to: the disk's own (the default), or a new one in the same format, where nothing is yet. Of several disks: --image-folder.", valueName: "image"))
    var to: String?

    @Option(name: .long, help: ArgumentHelp("Make new images in this folder; the old ones stay.", valueName: "dir"))
    var imageFolder: String?

    @Option(name: .long, help: ArgumentHelp("Where the logs go then (default: beside the images).", valueName: "dir"))
    var logFolder: String?

    /// How the images become what the replica holds.
    enum Mode: String, ExpressibleByArgument, CaseIterable {
        case minimiseDowntime = "minimise-downtime"
        case fullDownload = "full-download"
    }

    @Option(name: .long, help: "minimise-downtime: fetch what differs. full-download: empty the images first and fetch all, for images that are not to be trusted.")
    var mode = Mode.minimiseDowntime

    @Flag(name: .long, help: "Give up the writes on this host that the vault never got. What it did get stays readable as points.")
    var dropHomeWrites = false

    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard to == nil || imageFolder == nil else { throw ValidationError("give --to or --image-folder, not both") }
    }

    func run() throws {
        let image = try to.map(newPath)
        let failback = try OpenedFailback(options)
        let report = try failback.failbacks.start(
            .init(
                unit: options.unit, image: image, imageFolder: imageFolder.map(absolutePath), logFolder: logFolder.map(absolutePath), isFull: mode == .fullDownload, dropsHomeWrites: dropHomeWrites),
            show: { for parted in $0 { printError("\(parted.disk.name): " + FailbackDocument.Sides(parted).text) } })
        try output.print(FailbackDocument(report)) {
            "\($0.text)\nNext: farshore failover prepare \(options.unit) on the active host, then farshore failback complete \(options.unit) here"
        }
    }
}

struct FailbackStatus: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show how far the images on this host are.",
        discussion: "Example:\n  farshore failback status db1")

    @OptionGroup var options: UnitOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let unit: String
        let state: String
        let disks: [Disk]
    }

    struct Disk: Encodable {
        let disk: String
        let image: String
        /// A failback has changed the image, and nothing else may use it.
        let isBegun: Bool
        let sequence: UInt64?
        /// Of the pass under way, or interrupted.
        let target: UInt64?
        let doneBytes: UInt64?
        let replicaSequence: UInt64
        let writtenBytes: UInt64
        let fetchedBytes: UInt64

        var text: String {
            guard isBegun else { return "not begun; the replica is at #\(replicaSequence)" }
            let held = sequence.map { "as the replica at #\($0)" } ?? "not whole"
            return held + (target.map { ", on its way to #\($0) (\(bytesText(doneBytes ?? 0)) done)" } ?? "")
                + "; the replica is at #\(replicaSequence); \(bytesText(fetchedBytes)) fetched, \(bytesText(writtenBytes)) written"
        }
    }

    func run() throws {
        let failback = try OpenedFailback(options)
        let (standing, disks) = try failback.failbacks.status(options.unit)
        let document = Document(unit: options.unit, state: standing.state.rawValue, disks: disks.map {
            Disk(
                disk: $0.disk.name, image: $0.disk.imagePath, isBegun: $0.mark != nil, sequence: $0.mark?.base?.sequence, target: $0.mark?.pass?.target.sequence,
                doneBytes: $0.mark?.pass.map { $0.doneBlocks * 4096 }, replicaSequence: $0.newestSequence, writtenBytes: $0.mark?.writtenBytes ?? 0,
                fetchedBytes: $0.mark?.fetchedBytes ?? 0)
        })
        try output.print(document) { document in
            "\(document.unit): \(document.state)\n" + tableText(document.disks.map { [$0.disk, $0.image, $0.text] })
        }
    }
}

struct FailbackComplete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "complete",
        abstract: "Take over from the replica that was shut down: the last writes, and guests can start here.",
        discussion: """
            On the active host `farshore failover prepare` comes first: it stops the guests and sends everything. Not one write is lost. Afterwards `farshore failover commit` and
            `farshore reprotect` on this host; `farshore failover release` on the other one removes what is left there.

            Example:
              farshore failback complete db1
            """)

    @OptionGroup var options: UnitOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let failback = try OpenedFailback(options)
        let report = try failback.failbacks.complete(options.unit)
        let opened = failback.opened
        // It is complete whatever this says.
        let before = (try? opened.failovers.pointsBefore(opened.heads.standing(of: options.unit)).count) ?? 0
        let points = before > 0 ? " (lets the \(before) points from before go; with --keep-points they stay)" : ""
        try output.print(FailbackDocument(report)) {
            ($0.text.isEmpty ? "" : $0.text + "\n") + "\(options.unit) is back on this host\($0.isServed ? "" : "; no mount runs: farshore mount DIR serves it")\n"
                + "Next: farshore failover commit \(options.unit)\(points), then farshore reprotect \(options.unit)"
        }
    }
}

struct FailbackCancel: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel",
        abstract: "Give a failback up; guests run on where they are.",
        discussion: """
            The vault no longer keeps states for it. New images made by --to or --image-folder are removed, and the old ones are the disks' again. Images that were
            changed in their place stay refused: `failback start` goes on with them, or compares them as a whole, and `failover release` takes them out of this site.

            Example:
              farshore failback cancel db1
            """)

    @OptionGroup var options: UnitOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let unit: String
        /// Images that are neither what they were nor what the replica holds.
        let changed: [String]
        let untouched: [String]
    }

    func run() throws {
        let failback = try OpenedFailback(options)
        let (begun, untouched) = try failback.failbacks.cancel(options.unit)
        try output.print(Document(unit: options.unit, changed: begun.map(\.imagePath), untouched: untouched.map(\.imagePath))) { document in
            "\(document.unit): no failback is under way" + document.changed.map { "\n\($0) was changed and stays refused: farshore failback start \(document.unit) goes on with it" }.joined()
        }
    }
}
