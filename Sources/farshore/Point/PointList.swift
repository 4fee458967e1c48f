// `farshore point list`: the recovery points of a disk, as the vault has them (then no site, log or image is needed) or
// as this host's change log has them.

import ArgumentParser
import ChangeLog
import RecoveryPoints
import Site
import Vault

struct PointList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the recovery points of a disk.",
        discussion: """
            With --vault, what the vault has, on any host that has the key; `latest`, the newest sequence in the vault, is
            mostly newer than the last point. Without --vault, the points that are still in this host's change log, each
            `local`, or `replicated` when it is verified in the vault. Disks of a machine or replication group share points: the
            same number on each is the same moment, and one that is not in the vault for all of them is not listed.

            With --flushes also the flush boundaries: every flush a guest was answered, so any moment can be picked, not only
            cut points. There may be millions: the newest --limit of the range are shown, or one in --every seconds. A time names the
            newest at or before it, so it need not be looked up here first.

            Example:
              farshore point list db1 --vault file:///backup/vault --key-file /etc/farshore/vault.key
              farshore point list db1 --vault file:///backup/vault --key-file /etc/farshore/vault.key --flushes --to 2026-11-21T14:03:07Z --limit 10
            """)

    struct Document: Encodable {
        let disk: String
        let sequence: UInt64
        let time: String
        /// `crash`, `app` or `flush`.
        let kind: String
        let tag: String?
        /// `local` or `replicated`.
        let state: String
        /// Those that have this point; others of the group came later, or left. Not looked up with --flushes.
        let disks: [String]?
        let machines: [String]?
        /// What the disks it shares points with are called together; absent for a disk on its own.
        let group: String?
        /// Names of the pins that keep it.
        let pins: [String]?
        /// What checks said of it, each as `good fsck` or `bad boot`.
        let verdicts: [String]?

        init(_ point: RecoveryPoint, disk: String, shared: [Catalog.Disk]? = nil, group: String? = nil, pins: [String]? = nil, verdicts: [Head.Verdict] = []) {
            self.pins = pins
            self.verdicts = verdicts.isEmpty ? nil : verdicts.map { "\($0.isGood ? "good" : "bad") \($0.check)" }
            self.disk = disk
            disks = shared?.map(\.name)
            machines = shared.map { Set($0.map(\.machineName)).sorted() }
            self.group = group
            sequence = point.sequence
            time = pointTimeText(nanoseconds: point.timeMicros.multipliedReportingOverflow(by: 1000).partialValue)
            kind = point.kind.rawValue
            tag = point.tag
            state = "replicated"
        }

        init(_ point: LocalPoint, disk: String, shared: [ProtectedDisk]? = nil, group: String? = nil, replicatedSequence: UInt64) {
            (pins, verdicts) = (nil, nil)
            self.disk = disk
            disks = shared?.map(\.name)
            machines = shared.map { Set($0.map(\.machine)).sorted() }
            self.group = group
            sequence = point.sequence
            time = pointTimeText(nanoseconds: point.wallNanoseconds)
            kind = (point.isAppConsistent ? RecoveryPoint.Kind.app : .crash).rawValue
            tag = point.tag.isEmpty ? nil : point.tag
            state = point.sequence <= replicatedSequence ? "replicated" : "local"
        }

        /// A pinned state that was never cut as a point.
        init(_ pin: Head.Pin, disk: String, pins: [String]) {
            self.pins = pins
            verdicts = nil
            self.disk = disk
            sequence = pin.sequence
            time = pointTimeText(nanoseconds: pin.timeMicros.multipliedReportingOverflow(by: 1000).partialValue)
            kind = "flush"
            tag = nil
            (disks, machines, group) = (nil, nil, nil)
            state = "replicated"
        }

        init(_ boundary: FlushBoundary, disk: String, replicatedSequence: UInt64) {
            (pins, verdicts) = (nil, nil)
            self.disk = disk
            sequence = boundary.sequence
            time = pointTimeText(nanoseconds: boundary.wallNanoseconds)
            kind = "flush"
            tag = nil
            (disks, machines, group) = (nil, nil, nil)
            state = boundary.sequence <= replicatedSequence ? "replicated" : "local"
        }

        static func table(_ points: [Document]) -> String {
            var columns: [(title: String, cell: (Document) -> String)] = [("POINT", { "#\($0.sequence)" }), ("TIME", \.time), ("KIND", \.kind), ("STATE", \.state)]
            if points.contains(where: { $0.group != nil }) { columns.append(("DISKS", { ($0.disks ?? []).joined(separator: ",") })) }
            if points.contains(where: { $0.verdicts != nil }) { columns.append(("VERDICTS", { ($0.verdicts ?? []).joined(separator: ",") })) }
            if points.contains(where: { $0.pins != nil }) { columns.append(("PINS", { ($0.pins ?? []).joined(separator: ",") })) }
            columns.append(("TAG", { $0.tag ?? "" }))
            return tableText([columns.map(\.title)] + points.map { point in columns.map { $0.cell(point) } })
        }
    }

    @Argument(help: "The disk's name.")
    var disk: String

    @Option(name: .long, help: ArgumentHelp("The vault; without it, this host's change log is read.", valueName: "url"))
    var vault: String?

    @OptionGroup var flushOptions: FlushOptions
    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard vault != nil || (key.keyFile == nil && key.passphraseFile == nil) else { throw ValidationError("a key is of use only with --vault") }
    }

    func run() throws {
        if let query = try flushOptions.query {
            try output.print(try vault.map { try vaultFlushes($0, query) } ?? localFlushes(query)) { $0.text }
            return
        }
        let (points, damage) = try vault.map { try vaultPoints($0) } ?? (localPoints(), [])
        try output.print(points) { points in
            guard !points.isEmpty else { return "no point of \(disk) is \(vault == nil ? "in this host's change log; --vault shows those in the vault" : "in the vault yet")" }
            return Document.table(points)
        }
        try Self.refuse(damage)
    }

    /// What is intact was printed; what is not is the error.
    static func refuse(_ damage: [VaultError]) throws {
        guard !damage.isEmpty else { return }
        throw Failure(
            .integrityDamage, "points are missing in this list: " + damage.map(\.description).joined(separator: "; "),
            try: "run `farshore vault check URL` to see which points are affected")
    }

    private func vaultPoints(_ url: String) throws -> (points: [Document], damage: [VaultError]) {
        let vault = try openVault(url: url, key: key, site: site)
        let found = try vault.disk(disk)
        let shared = try SharedPoints(vault, of: found)
        var points: [VaultID: [RecoveryPoint]] = [:]
        var damage: [VaultError] = []
        var incomplete: Set<VaultID> = []
        for member in shared.members {
            let intact = try member.history.intactPoints()
            points[member.disk.id] = intact.points
            damage += intact.damage
            if !intact.damage.isEmpty { incomplete.insert(member.disk.id) }
        }
        let pins = Dictionary(grouping: shared.pins.filter { $0.disk == found.id }, by: \.sequence)
        var listed = shared.points(of: found.id, among: points, incomplete: incomplete).map {
            Document($0.point, disk: found.name, shared: $0.disks, group: shared.name, pins: pins[$0.point.sequence]?.map(\.name),
                verdicts: shared.verdicts(on: found.id, at: $0.point.sequence))
        }
        let known = Set(listed.map(\.sequence))
        listed += pins.values.compactMap { same in same.first { !known.contains($0.sequence) }.map { Document($0, disk: found.name, pins: same.map(\.name)) } }
        return (listed.sorted { $0.sequence < $1.sequence }, damage)
    }

    /// A point is replicated when a target has it of all disks that share it.
    private func localPoints() throws -> [Document] {
        let group = try site.catalogue().consistencyGroup(ofDisk: disk)
        var holders: [LocalPoint: [ProtectedDisk]] = [:]
        var own: [LocalPoint] = []
        /// By disk and target.
        var replicated: [String: [String: UInt64]] = [:]
        var merged: [MergedInterval] = []
        for member in group.disks {
            do {
                let folder = LogFolder(member.logFolder)
                let reader = try LogReader(folder)
                let points = try reader.points()
                merged += try reader.merged()
                if member.name == disk { own = points }
                for point in points { holders[point, default: []].append(member) }
                for target in reader.state.targets { replicated[member.name, default: [:]][target] = try folder.readMark(target: target)?.sequence(in: reader.state.lineages) ?? 0 }
            } catch {
                guard member.name != disk else { throw error }
                printError("farshore: \(member.name), which shares points with \(disk), is left out: \(error)")
            }
        }
        // What one of them has lost is a point of none.
        return own.filter { !merged.hides($0.sequence) }.map { point in
            let shared = holders[point] ?? []
            let marks = shared.compactMap { replicated[$0.name] }
            let sequences = Set(marks.flatMap(\.keys)).map { target in marks.map { $0[target] ?? 0 }.min() ?? 0 }
            return Document(
                point, disk: disk, shared: shared, group: group.kind == .disk ? nil : group.name,
                replicatedSequence: sequences.max() ?? 0)
        }
    }
}
