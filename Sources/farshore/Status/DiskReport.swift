// One disk in `farshore status`: what the catalogue, the running mount and the log folder say, put together.

import BlockIO
import ChangeLog
import Foundation
import Glibc
import RecoveryPoints
import Replication
import Site

struct DiskReport: Encodable {
    struct Point: Encodable {
        let sequence: UInt64
        let time: String
        let tag: String?
        let isReplicated: Bool
    }

    /// Of the sequences after `after` up to `through` only the last one can be had.
    struct Merged: Encodable {
        let after: UInt64
        let through: UInt64
    }

    let disk: String
    /// In the vault: its objects lie under it.
    let id: String
    let machine: String
    /// Of its machine.
    let group: String?
    let state: String
    let role: String
    let health: String
    let reason: String?
    let remedy: String?
    let image: String
    let sizeBytes: UInt64
    /// Of the first target, as all that follows about replication.
    let vault: String
    let policy: String
    let isServed: Bool
    let isPaused: Bool
    let phase: String
    let replicatedSequence: UInt64?
    let replicatedAt: String?
    let lagSeconds: Double?
    let lagBytes: UInt64?
    let logBytes: UInt64
    let logBudgetBytes: UInt64
    let undestagedBytes: UInt64?
    let merged: [Merged]?
    let frozenSequence: UInt64?
    let lastPoint: Point?
    let nextAttempt: String?
    let resynchronisation: ResynchronisationDocument?
    let targets: [TargetReport]
    let job: JobDocument?
    let filling: Filling?

    /// The image of a recovery disk, while it is filled from its point.
    struct Filling: Encodable {
        let sequence: UInt64
        let doneBytes: UInt64?
        let totalBytes: UInt64?
        let localBytes: UInt64?
        private let isTest: Bool

        enum CodingKeys: CodingKey { case sequence, doneBytes, totalBytes, localBytes }

        /// `status`: from the mount; nil where nothing serves the disk, and so nothing fills it.
        init?(_ disk: ProtectedDisk, _ status: FillingStatus?) throws {
            guard let base = try RecoveryBase.load(LogFolder(disk.logFolder).baseFile) else { return nil }
            (sequence, doneBytes, totalBytes, localBytes) = (base.sequence, status?.doneBytes, status?.totalBytes, status?.localBytes)
            isTest = disk.role == .test
        }

        var text: String {
            if isTest { return "only what is read, from #\(sequence)\(localBytes.map { ", \(bytesText($0)) local" } ?? "")" }
            guard let doneBytes, let localBytes else { return "image not filled from #\(sequence) yet, which the mount does" }
            return "\(bytesText(doneBytes)) of \(totalBytes.map(bytesText) ?? "…") from #\(sequence), \(bytesText(localBytes)) local"
        }
    }

    init(_ disk: ProtectedDisk, in sharing: ConsistencyGroup, catalogue: Catalogue, served: ServedDiskStatus?, refused: RefusedDisk?, isUploading: Bool, mountDied: Bool) throws {
        let (targets, worst) = try TargetReport.all(ofDisk: disk.name, sharing, catalogue, isUploading: isUploading)
        let folder = LogFolder(disk.logFolder)
        let log = LogView(folder, provenSequence: targets.map { $0.replicatedSequence ?? 0 }.min())
        self.targets = targets
        self.disk = disk.name
        id = disk.id
        machine = disk.machine
        group = sharing.kind == .group ? sharing.name : nil
        state = disk.state.rawValue
        role = disk.role.rawValue
        filling = try Filling(disk, served?.filling)
        let unit = sharing.kind == .group ? sharing.name : disk.machine
        let unprotected = try Self.unprotected(disk, of: unit, catalogue)
        job = try catalogue.jobs(limit: 20).first { $0.disk == disk.name && $0.state == .running }.map(JobDocument.init)
        if disk.state == .protected, access(folder.failbackFile, F_OK) == 0 {
            // What the uploader said before it no longer holds.
            (health, reason, remedy) = ("warning", "a failback brings its image to what guests write on another host; nothing else uses it until that is complete", "farshore failback status \(unit)")
        } else if let ended = Self.notServed(disk, refused, mountDied: mountDied, isBeingEnded: job?.kind == Job.Kind.unprotect.rawValue) {
            (health, reason, remedy) = ("critical", ended.text, ended.remedy)
        } else {
            (health, reason, remedy) = Self.judge(disk, served, log, worst, unprotected, targets, isUploading: isUploading)
        }
        image = disk.imagePath
        sizeBytes = disk.sizeBytes
        vault = disk.vaultURL
        policy = disk.policy.name
        isServed = served != nil
        isPaused = targets.allSatisfy(\.isPaused)
        let first = targets.first
        phase = first?.phase ?? ReplicationState.Phase.waiting.rawValue
        replicatedSequence = first?.replicatedSequence
        replicatedAt = first?.replicatedAt
        (lagSeconds, lagBytes, resynchronisation, nextAttempt) = (first?.lagSeconds, first?.lagBytes, first?.resynchronisation, first?.nextAttempt)
        logBytes = served?.logBytes ?? log.bytes
        logBudgetBytes = served?.logBudgetBytes ?? disk.logBudgetBytes
        undestagedBytes = served?.undestagedBytes
        merged = log.merged.isEmpty ? nil : log.merged.map { Merged(after: $0.after, through: $0.through) }
        frozenSequence = log.frozenSequence
        lastPoint = log.lastPoint.map { point in
            Point(
                sequence: point.sequence, time: timeText(nanoseconds: point.wallNanoseconds), tag: point.tag.isEmpty ? nil : point.tag,
                isReplicated: targets.contains { point.sequence <= $0.replicatedSequence ?? 0 })
        }
    }

    /// Why nobody can use the disk now, which comes before all else that is wrong with it.
    private static func notServed(_ disk: ProtectedDisk, _ refused: RefusedDisk?, mountDied: Bool, isBeingEnded: Bool) -> (text: String, remedy: String)? {
        if disk.state == .releasing, !isBeingEnded { return (disk.releasingFailure.message, disk.releasingFailure.remedy) }
        if mountDied, disk.state == .protected { return ("the mount died; nothing serves the disk", "farshore mount DIR") }
        return refused.map { ("the mount does not serve it: \($0.reason)", $0.remedy) }
    }

    /// Guests write where nothing is replicated.
    private static func unprotected(_ disk: ProtectedDisk, of unit: String, _ catalogue: Catalogue) throws -> TargetReport.Finding? {
        guard disk.role == .recovery else { return nil }
        let isOpen = try catalogue.openFailovers(.failover).contains { run in try catalogue.disks(ofFailover: run.run).contains { $0.id == disk.id } }
        return TargetReport.Finding(
            rank: 1, text: "it was failed over to this host and is not replicated: no vault gets what is written here until it is reprotected",
            remedy: (isOpen ? "farshore failover commit \(unit), then " : "") + "farshore reprotect \(unit)")
    }

    /// The worst of what they say. An alarm comes before what is no worse.
    private static func judge(
        _ disk: ProtectedDisk, _ served: ServedDiskStatus?, _ log: LogView, _ replication: TargetReport.Finding, _ unprotected: TargetReport.Finding?, _ targets: [TargetReport],
        isUploading: Bool
    ) -> (String, String?, String?) {
        var found = targets.compactMap(\.anomaly?.finding)
        if let served { found.append(mounted(disk, served, replication, targets, isUploading: isUploading)) }
        found.append(replication)
        if let problem = log.problem { found.append(TargetReport.Finding(rank: 3, text: problem, remedy: "mend the volume of \(disk.logFolder)")) }
        if let held = disk.held { found.append(TargetReport.Finding(rank: 1, text: "the mount does not serve it: \(held)", remedy: nil)) }
        if let unprotected { found.append(unprotected) }
        if !log.merged.isEmpty {
            found.append(TargetReport.Finding(
                rank: 1, text: "to keep the log within its budget what the vault lacks was merged: of \(log.merged.map(\.description).joined(separator: ", ")) only the end can be had",
                remedy: "farshore upload; farshore events \(disk.name) says why the vault does not get it"))
        }
        let worst = TargetReport.Finding.worst(found)
        return (worst.health, worst.text, worst.remedy)
    }

    /// What the mount says. Where writes are refused until the vault has more, the uploader's side says why it has not.
    private static func mounted(
        _ disk: ProtectedDisk, _ served: ServedDiskStatus, _ replication: TargetReport.Finding, _ targets: [TargetReport], isUploading: Bool
    ) -> TargetReport.Finding {
        guard served.waitsForVault == true else { return TargetReport.Finding(rank: served.health.rank, text: served.reason, remedy: served.remedy) }
        let upload = isUploading ? "the uploader sends it: farshore job list, farshore events \(disk.name)" : "farshore upload"
        let room = targets.count == 1 ? "; farshore resync \(disk.name) --release-log makes room at once, at the price of a resynchronisation" : ""
        return TargetReport.Finding(
            rank: served.health.rank, text: [served.reason, replication.text].compactMap(\.self).joined(separator: "; "), remedy: (replication.remedy ?? upload) + room)
    }

    var text: String {
        var lines = ["\(disk): \(health)" + (reason.map { ": \($0)" } ?? "")]
        func add(_ name: String, _ value: String) { lines.append("  " + name.padding(toLength: 12, withPad: " ", startingAt: 0) + value) }
        if let remedy, health != "normal" { add("try", remedy) }
        if machine != disk || group != nil { add("machine", machine + (group.map { ", group \($0)" } ?? "")) }
        add("image", "\(image), \(bytesText(sizeBytes))" + (isServed ? ", mounted" : ""))
        if targets.count == 1 {
            add("vault", "\(vault), policy \(policy)")
            add("replication", replicationText)
        } else {
            for line in targets.flatMap(\.lines) { add(line.hasPrefix(" ") ? "" : "target", line) }
        }
        if targets.count == 1, let anomaly = targets[0].anomaly, reason != anomaly.text {
            add("anomaly", anomaly.text)
            add("try", anomaly.remedy)
        }
        if let filling { add("filling", filling.text) }
        if targets.count == 1, let lag = targets[0].lagText { add("lag", lag) }
        let waiting = undestagedBytes.map { ", \(bytesText($0)) not merged yet" } ?? ""
        add("log", "\(bytesText(logBytes)) of \(bytesText(logBudgetBytes))\(waiting)" + (frozenSequence.map { ", image held at #\($0)" } ?? ""))
        if let merged { add("merged", merged.map { "#\($0.after) to #\($0.through)" }.joined(separator: ", ") + ": only the end can be had") }
        if let lastPoint { add("last point", "#\(lastPoint.sequence)  \(lastPoint.time)\(lastPoint.tag.map { "  \($0)" } ?? "")  \(lastPoint.isReplicated ? "replicated" : "local")") }
        if targets.count == 1, let nextAttempt { add("next try", nextAttempt) }
        if targets.count == 1, let resync = targets[0].resyncText { add("resync", resync) }
        if let job { add("job \(job.id)", "\(job.kind)\(job.vault.map { " to \($0)" } ?? ""): \(job.progressText)") }
        return lines.joined(separator: "\n")
    }

    private var replicationText: String {
        if role != ProtectedDisk.Role.source.rawValue { return "none: \(role == ProtectedDisk.Role.test.rawValue ? "a test" : "a recovery") disk" }
        return targets[0].replicationText
    }
}

/// What the log folder says, read without owning it.
private struct LogView {
    private(set) var bytes: UInt64 = 0
    private(set) var lastPoint: LocalPoint?
    private(set) var frozenSequence: UInt64?
    /// What the vault lacks and gets the end of only.
    private(set) var merged: [MergedInterval] = []
    private(set) var problem: String?

    /// `provenSequence`: by every target.
    init(_ folder: LogFolder, provenSequence: UInt64?) {
        do {
            for name in try Directory.list(folder.path) where name.hasPrefix("segment-") { bytes += try Self.allocatedBytes(folder.path + "/" + name) }
            frozenSequence = try folder.readFreeze()
            let reader = try LogReader(folder)
            lastPoint = try reader.points().last
            merged = try reader.merged(after: provenSequence ?? 0)
        } catch {
            problem = "the change log cannot be read: \(error)"
        }
    }

    /// 0 when the log's owner removed it meanwhile.
    private static func allocatedBytes(_ path: String) throws(SystemError) -> UInt64 {
        do throws(SystemError) { return try Descriptor.open(path, 0).status().allocatedBytes } catch where error.errno == ENOENT { return 0 }
    }

}

extension ServedDiskStatus.Health {
    fileprivate var rank: Int { self == .normal ? 0 : self == .warning ? 1 : 3 }
}
