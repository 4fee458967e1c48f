// One target of a disk in `farshore status` and `farshore target list`: how far it is, and what is wrong with it.

import BlockIO
import ChangeLog
import Replication
import Site

struct TargetReport: Encodable {
    let vault: String
    let vaultID: String
    let policy: String
    let isPaused: Bool
    let health: String
    let reason: String?
    let remedy: String?
    let phase: String
    let replicatedSequence: UInt64?
    let replicatedAt: String?
    let lagSeconds: Double?
    let lagBytes: UInt64?
    let nextAttempt: String?
    let resynchronisation: ResynchronisationDocument?
    let anomaly: Anomaly?

    /// The alarm on data that looks encrypted. It is shown whatever else is wrong.
    struct Anomaly: Encodable {
        let text: String
        let remedy: String

        init?(_ warnings: [StandingWarning]) {
            guard let raised = warnings.first(where: { $0.kind == .anomaly }) else { return nil }
            (text, remedy) = (raised.text, raised.remedy)
        }

        var finding: Finding { Finding(rank: 1, text: text, remedy: remedy) }
    }

    /// The worst of what is wrong; `rank` 0 is nothing.
    struct Finding {
        let rank: Int
        let text: String?
        let remedy: String?

        static let healthy = Finding(rank: 0, text: nil, remedy: nil)
        /// Of those that are as bad as each other the first.
        static func worst(_ found: [Finding]) -> Finding { found.max { $0.rank < $1.rank }.flatMap { $0.rank > 0 ? $0 : nil } ?? .healthy }

        var health: String { ["normal", "warning", "resynchronisation-required", "critical"][rank] }
    }

    /// The first target first; the worst of them all but for anomalies, which names its target where there are several.
    static func all(
        ofDisk name: String, _ sharing: ConsistencyGroup, _ catalogue: Catalogue, isUploading: Bool
    ) throws -> (reports: [TargetReport], worst: Finding) {
        var worst = Finding.healthy
        let reports = try catalogue.targets(ofDisk: name).map { disk in
            let (report, finding) = try make(disk, sharing, catalogue, isUploading: isUploading)
            if finding.rank > worst.rank {
                worst = Finding(rank: finding.rank, text: finding.text.map { (disk.namedVaultURL.map { "\($0): " } ?? "") + $0 }, remedy: finding.remedy)
            }
            return report
        }
        return (reports, worst)
    }

    private static func make(_ disk: ProtectedDisk, _ sharing: ConsistencyGroup, _ catalogue: Catalogue, isUploading: Bool) throws -> (TargetReport, Finding) {
        let replication = try catalogue.replication(ofDisk: disk.name, at: disk.vaultID)
        let mark = try catalogue.resynchronisation(ofDisk: disk.name, at: disk.vaultID)
        let lag = lag(disk, replication.provenSequence)
        let warnings = try catalogue.warnings(ofDisk: disk.name, at: disk.vaultID)
        let anomaly = Anomaly(warnings)
        var found: [Finding] = []
        // While it is paused nothing is tried, and what may pass may have passed.
        if !disk.isPaused || replication.health == .critical {
            found.append(Finding(rank: replication.health.rank, text: replication.error.map { "replication failed: \($0)" }, remedy: replication.remedy))
        }
        if let mark {
            found.append(Finding(
                rank: 2, text: "resynchronisation required: \(mark.reason)", remedy: mark.isNow ? "farshore job list shows how far it is" : "farshore resync \(disk.commandName) --now"))
        }
        if let behind = try behind(disk, replication, lag, isUploading: isUploading) ?? awaited(disk, sharing, catalogue) { found.append(behind) }
        if isUploading { found += warnings.filter { $0.kind != .anomaly }.map { Finding(rank: 1, text: $0.text, remedy: $0.remedy) } }
        let worst = Finding.worst(found)
        return (TargetReport(disk, replication, mark, lag, anomaly, Finding.worst([anomaly?.finding ?? .healthy] + found)), worst)
    }

    private init(_ disk: ProtectedDisk, _ replication: ReplicationState, _ mark: Resynchronisation?, _ lag: ReplicationLag?, _ anomaly: Anomaly?, _ finding: Finding) {
        self.anomaly = anomaly
        vault = disk.vaultURL
        vaultID = disk.vaultID
        policy = disk.policy.name
        isPaused = disk.isPaused
        (health, reason, remedy) = (finding.health, finding.text, finding.remedy)
        phase = replication.phase.rawValue
        replicatedSequence = replication.provenSequence
        replicatedAt = replication.provenAtNanoseconds.map(timeText(nanoseconds:))
        resynchronisation = mark.map { ResynchronisationDocument($0, disk) }
        // What the log has let go of it cannot count: then it is the time since the vault was proven to have everything up to some write.
        let isUncounted = resynchronisation?.isLogReleased == true
        lagSeconds = isUncounted ? replication.provenAtNanoseconds.map { Double(Clock.wallNanoseconds() - min($0, Clock.wallNanoseconds())) / 1e9 } : lag?.seconds
        lagBytes = isUncounted ? nil : lag?.bytes
        nextAttempt = disk.isPaused ? nil : replication.nextAttemptNanoseconds.map(timeText(nanoseconds:))
    }

    /// Nil where nothing is proven; a log that cannot be read is told of the disk. The owner may know of more than the catalogue
    /// does, and goes on meanwhile: what it has recycled was verified in the vault.
    static func lag(_ disk: ProtectedDisk, _ provenSequence: UInt64?) -> ReplicationLag? {
        guard let provenSequence, let reader = try? LogReader(LogFolder(disk.logFolder)) else { return nil }
        var (from, triesLeft) = (provenSequence, 20)
        while true {
            do { return try ReplicationLag.measure(reader, provenSequence: from) } catch LogError.recycled(_, _, let oldest) where triesLeft > 0 {
                from = max(from, oldest)
                triesLeft -= 1
            } catch { return nil }
        }
    }

    /// Why the vault will not get what it lacks, or gets it too late, though no attempt failed.
    private static func behind(_ disk: ProtectedDisk, _ replication: ReplicationState, _ lag: ReplicationLag?, isUploading: Bool) -> Finding? {
        let isComplete = replication.provenSequence != nil && lag?.records == 0
        guard disk.isReplicated, !isComplete else { return nil }
        if disk.isPaused { return Finding(rank: 1, text: "upload is paused; the vault does not have everything", remedy: "farshore resume \(disk.commandName)") }
        let isLate = lag.map { $0.seconds > Double(disk.policy.lateSeconds) } ?? true
        guard isLate else { return nil }
        if !isUploading { return Finding(rank: 1, text: "no uploader is running; the vault does not have everything", remedy: "farshore upload") }
        return lag.map {
            Finding(
                rank: 1, text: "the vault is \(durationText(seconds: $0.seconds)) behind, more than \(Quantity.spanText(seconds: UInt64(disk.policy.lateSeconds)))", remedy: "farshore events")
        }
    }

    /// A disk of its group that the vault gets nothing of, so that the points they share are not listed there.
    private static func awaited(_ disk: ProtectedDisk, _ sharing: ConsistencyGroup, _ catalogue: Catalogue) throws -> Finding? {
        for member in sharing.disks where member.name != disk.name && !disk.isPaused {
            let other = try catalogue.disk(named: member.name, at: disk.vaultID)
            let replication = try catalogue.replication(ofDisk: other.name, at: disk.vaultID)
            if let mark = try catalogue.resynchronisation(ofDisk: other.name, at: disk.vaultID), LogFolder(other.logFolder).isReleased(target: other.vaultID) {
                return Finding(
                    rank: 1, text: "points it shares with \(other.name) do not reach the vault: resynchronisation required (\(mark.reason))", remedy: "farshore resync \(other.commandName) --now")
            }
            guard let error = replication.error else { continue }
            return Finding(rank: 1, text: "points it shares with \(other.name) do not reach the vault: \(error)", remedy: replication.remedy ?? "farshore status \(other.name)")
        }
        return nil
    }

    var lagText: String? {
        guard let lagSeconds else { return nil }
        return lagBytes == 0 && lagSeconds == 0 ? "none" : ([durationText(seconds: lagSeconds)] + [lagBytes.map(bytesText)].compactMap(\.self)).joined(separator: ", ")
    }

    var replicationText: String {
        if isPaused { return "paused" + (replicatedSequence.map { " at #\($0)" } ?? "") }
        guard let replicatedSequence, let replicatedAt else { return phase == "initial" ? "initial replication" : "not yet replicated" }
        return "#\(replicatedSequence) verified in the vault at \(replicatedAt)"
    }

    var resyncText: String? {
        guard let resynchronisation else { return nil }
        let released = replicatedSequence.map { "; the log has let go of what came after #\($0), and until then the vault gets nothing" } ?? ""
        return (resynchronisation.isNow ? "at once" : "in its hours, \(resynchronisation.window)") + (resynchronisation.isLogReleased ? released : "")
    }

    /// Of several, in `status`.
    var lines: [String] {
        var lines = ["\(vault), policy \(policy): \(health)" + (reason.map { ": \($0)" } ?? "")]
        if health != "normal", let remedy { lines.append("  try  \(remedy)") }
        if let anomaly, reason != anomaly.text { lines += ["  anomaly  \(anomaly.text)", "  try  \(anomaly.remedy)"] }
        lines.append("  \(replicationText)" + (lagText.map { "; lag \($0)" } ?? "") + (nextAttempt.map { "; next try \($0)" } ?? ""))
        if let resyncText { lines.append("  resync \(resyncText)") }
        return lines
    }
}

extension ReplicationState.Health {
    fileprivate var rank: Int { self == .normal ? 0 : self == .warning ? 1 : 3 }
}
