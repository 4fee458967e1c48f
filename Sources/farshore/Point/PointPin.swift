// `farshore point pin` and `unpin`: states that retention keeps whatever the policy says.

import ArgumentParser
import BlockIO
import Foundation
import Glibc
import RecoveryPoints
import Site
import Vault

/// The vault named, or that of a disk of this site.
struct DiskVaultOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("The vault (default: that of the disk, when this site protects it).", valueName: "url"))
    var vault: String?

    @OptionGroup var key: KeyOptions

    func validate() throws {
        guard vault != nil || !key.isGiven else { throw ValidationError("a key is of use only with --vault") }
    }

    func open(of disk: String, _ site: SiteOptions) throws -> Vault {
        if let vault { return try openKnownVault(url: vault, key: key, site: site) }
        return try site.openVault(of: try site.catalogue().disk(named: disk))
    }
}

struct PinDocument: Encodable {
    let name: String
    let sequence: UInt64
    let time: String
    let reason: String?
    let until: String?
    let disks: [String]

    /// `untilMicros` by the wall clock: the pin itself holds counted time.
    init?(_ pinned: [PinnedState], untilMicros: UInt64? = nil) {
        guard let pin = pinned.first?.pin else { return nil }
        name = pin.name
        sequence = pin.sequence
        time = pointTimeText(nanoseconds: pin.timeMicros.multipliedReportingOverflow(by: 1000).partialValue)
        reason = pin.reason.isEmpty ? nil : pin.reason
        until = untilMicros.map { timeText(nanoseconds: $0.multipliedReportingOverflow(by: 1000).partialValue) }
        disks = pinned.map(\.disk.name).sorted()
    }
}

struct PointPin: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pin",
        abstract: "Keep a point whatever the policy's retention says.",
        discussion: """
            Disks that share the point are pinned with it. Any state that opens can be pinned: a point, a flush boundary, `latest`. With --until it
            is kept so long, counted along the points as retention counts time; a clock that jumps ends no pin early.

            Example:
              farshore point pin db1/before-upgrade --name release-7 --until 90d --reason "last one with the old schema"
            """)

    @Argument(help: ArgumentHelp("The disk and the point, which is given as to --at.", valueName: "disk/point"))
    var point: String

    @Option(name: .long, help: "The pin's name: 1 to 64 of letters, digits, . _ -")
    var name: String

    @Option(name: .long, help: ArgumentHelp("How long: an RFC 3339 time, or a span such as 90d (default: until it is unpinned).", valueName: "time"))
    var until: String?

    @Option(name: .long, help: "Why, for whoever finds it.")
    var reason = ""

    @OptionGroup var vault: DiskVaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    private func parts() throws -> (disk: String, point: PointName) {
        let words = point.split(separator: "/", maxSplits: 1).map(String.init)
        guard words.count == 2, let name = PointName(words[1]) else { throw ValidationError("\(point.debugDescription) is no point: write DISK/POINT with a point of \(PointName.choices)") }
        return (words[0], name)
    }

    private func untilMicros() throws -> UInt64? {
        guard let until else { return nil }
        if case .time(let micros)? = PointName(until) { return micros }
        guard let seconds = Quantity.seconds(until), seconds < 1 << 40 else { throw ValidationError("\(until.debugDescription) is neither an RFC 3339 time nor a span such as 90d") }
        return Clock.wallNanoseconds() / 1_000 + seconds * 1_000_000
    }

    func validate() throws {
        _ = try parts()
        guard try untilMicros() ?? .max > Clock.wallNanoseconds() / 1_000 else { throw ValidationError("--until is in the past") }
    }

    func run() throws {
        let (diskName, pointName) = try parts()
        let opened = try vault.open(of: diskName, site)
        let disk = try opened.disk(diskName)
        guard let sequence = try SharedPoints(opened, of: disk).resolve(pointName, on: disk) else { throw VaultError.notFound("nothing of the disk \(disk.name) is in the vault yet") }
        let (now, until) = (Vault.nowMicros(), try untilMicros())
        let pinned = try opened.pin(disk, sequence: sequence, name: name, reason: reason, spanMicros: until.map { $0 - min($0, now) }, nowMicros: now)
        try output.print(PinDocument(pinned, untilMicros: until)) { document in
            document.map { "\($0.name): #\($0.sequence) of \($0.disks.joined(separator: ", ")) is kept" + ($0.until.map { " until \($0)" } ?? "") } ?? ""
        }
    }
}

struct PointUnpin: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unpin",
        abstract: "Let the policy's retention decide on a pinned point again.",
        discussion: "Example:\n  farshore point unpin db1 --name release-7")

    @Argument(help: "The disk.")
    var disk: String

    @Option(name: .long, help: "The pin's name.")
    var name: String

    @OptionGroup var vault: DiskVaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let opened = try vault.open(of: disk, site)
        let removed = try opened.unpin(try opened.disk(disk), name: name)
        // Without a catalogue (a rescue) no alarm of it stands here.
        if access(site.directory.cataloguePath, F_OK) == 0 {
            for pinned in removed { try site.catalogue().notePinGone(name, ofDiskID: pinned.disk.id.description, vault: opened.id.description) }
        }
        try output.print(PinDocument(removed)) { document in document.map { "\($0.name): #\($0.sequence) of \($0.disks.joined(separator: ", ")) is pinned no more" } ?? "" }
    }
}
