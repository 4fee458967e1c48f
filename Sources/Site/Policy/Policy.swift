// How disks are replicated: the one place for intervals, retention, limits and compression. Kept in the catalogue
// (Sources/Site/Catalogue/Policies.swift); the mount and the uploader read it anew each second.

package struct Policy: Equatable, Sendable {
    package enum Compression: Equatable, Sendable {
        case off
        /// zstd, 1 to 19.
        case level(Int)
        /// Level 1, and more where the target takes less than the processor could compress.
        case automatic

        package init(_ text: String) throws(SiteError) {
            switch text {
            case "off": self = .off
            case "auto": self = .automatic
            case "on": self = .level(3)
            default:
                guard let level = Int(text), (1...19).contains(level) else {
                    throw SiteError(.policyWrong, "\(text.debugDescription) is no compression", remedy: "off, on, auto, or a level from 1 to 19")
                }
                self = .level(level)
            }
        }

        package var text: String {
            switch self {
            case .off: "off"
            case .level(let level): "\(level)"
            case .automatic: "auto"
            }
        }
    }

    /// What happens when the log's budget is used up by what the vault lacks and the last attempt to send it failed.
    package enum WhenFull: String, Equatable, Sendable {
        /// Writes are refused until the vault has more.
        case refuse
        /// Writes go on: the log lets go of what the vault lacks, and the disk is resynchronised.
        case resync
    }

    /// What happens when data is overwritten by data that looks encrypted.
    package enum Anomaly: String, Equatable, Sendable, CaseIterable {
        case off
        /// Event and health.
        case warn
        /// The same, and the newest point from before is pinned.
        case pin
    }

    package static let defaultName = "default"
    package static let intervalSecondsRange = 1...3_600
    package static let appSecondsRange = 10...2_592_000

    package let name: String
    /// The policy this is the failback policy of. Disks have it that are replicated away from home.
    package let parent: String?
    /// Between uploads.
    package var intervalSeconds: Int
    /// Between points.
    package var pointSeconds: Int
    package var retention: RetentionRules
    /// How far behind the vault may be before health is a warning; nil: three intervals and a minute.
    package var rpoSeconds: Int?
    /// Of sending.
    package var bandwidth: BandwidthCalendar
    /// Of what fills recovery disks from the vault.
    package var download: BandwidthCalendar
    package var compression: Compression
    /// When a resynchronisation that nobody asked for at once may begin, by the host's local time.
    package var resyncWindow: WeeklyWindow
    package var whenFull: WhenFull
    /// Between app-consistent points; nil: none are made.
    package var appSeconds: Int?
    /// A disk whose vault cannot be reached, and lacks so much of the disk's size, is given up for a resynchronisation; 0: never.
    package var resyncPercent: Int
    package var anomaly: Anomaly

    package init(
        name: String, parent: String? = nil, intervalSeconds: Int = 30, pointSeconds: Int? = nil, retention: RetentionRules = .standard, rpoSeconds: Int? = nil,
        bandwidth: BandwidthCalendar = .unlimited, compression: Compression = .automatic, resyncWindow: WeeklyWindow = .nights, whenFull: WhenFull = .refuse,
        download: BandwidthCalendar = .unlimited, appSeconds: Int? = nil, resyncPercent: Int = 50, anomaly: Anomaly = .pin
    ) {
        self.download = download
        self.appSeconds = appSeconds
        self.resyncPercent = resyncPercent
        self.anomaly = anomaly
        self.resyncWindow = resyncWindow
        self.whenFull = whenFull
        self.name = name
        self.parent = parent
        self.intervalSeconds = intervalSeconds
        self.pointSeconds = pointSeconds ?? intervalSeconds
        self.retention = retention
        self.rpoSeconds = rpoSeconds
        self.bandwidth = bandwidth
        self.compression = compression
    }

    package static let standard = Policy(name: defaultName)

    /// The same settings under another name.
    func named(_ name: String, parent: String? = nil) -> Policy {
        Policy(
            name: name, parent: parent, intervalSeconds: intervalSeconds, pointSeconds: pointSeconds, retention: retention, rpoSeconds: rpoSeconds, bandwidth: bandwidth,
            compression: compression, resyncWindow: resyncWindow, whenFull: whenFull, download: download, appSeconds: appSeconds, resyncPercent: resyncPercent, anomaly: anomaly)
    }

    /// Whatever the two are called.
    package func hasSettings(of other: Policy) -> Bool { named("") == other.named("") }

    package var failbackName: String { "\(name)-failback" }
    /// Seconds of lag from which on the vault counts as late.
    package var lateSeconds: Int { rpoSeconds ?? 3 * intervalSeconds + 60 }
}

/// What a person wants changed; what is nil stays.
package struct PolicyChange: Equatable, Sendable {
    package var intervalSeconds: Int?
    package var pointSeconds: Int?
    package var retention: RetentionRules?
    /// 0 takes the threshold away.
    package var rpoSeconds: Int?
    package var bandwidth: BandwidthCalendar?
    package var compression: Policy.Compression?
    package var resyncWindow: WeeklyWindow?
    package var whenFull: Policy.WhenFull?
    package var download: BandwidthCalendar?
    /// 0: none are made any more.
    package var appSeconds: Int?
    package var resyncPercent: Int?
    package var anomaly: Policy.Anomaly?

    package init(
        intervalSeconds: Int? = nil, pointSeconds: Int? = nil, retention: RetentionRules? = nil, rpoSeconds: Int? = nil, bandwidth: BandwidthCalendar? = nil,
        compression: Policy.Compression? = nil, resyncWindow: WeeklyWindow? = nil, whenFull: Policy.WhenFull? = nil,
        download: BandwidthCalendar? = nil, appSeconds: Int? = nil, resyncPercent: Int? = nil, anomaly: Policy.Anomaly? = nil
    ) {
        self.download = download
        self.appSeconds = appSeconds
        self.resyncPercent = resyncPercent
        self.anomaly = anomaly
        self.resyncWindow = resyncWindow
        self.whenFull = whenFull
        self.intervalSeconds = intervalSeconds
        self.pointSeconds = pointSeconds
        self.retention = retention
        self.rpoSeconds = rpoSeconds
        self.bandwidth = bandwidth
        self.compression = compression
    }

    package func applied(to policy: Policy) throws(SiteError) -> Policy {
        var changed = policy
        // Points that were cut at each upload still are.
        if let intervalSeconds, policy.pointSeconds == policy.intervalSeconds { changed.pointSeconds = intervalSeconds }
        changed.intervalSeconds = intervalSeconds ?? changed.intervalSeconds
        changed.pointSeconds = pointSeconds ?? changed.pointSeconds
        changed.retention = retention ?? changed.retention
        if let rpoSeconds { changed.rpoSeconds = rpoSeconds == 0 ? nil : rpoSeconds }
        changed.bandwidth = bandwidth ?? changed.bandwidth
        changed.compression = compression ?? changed.compression
        changed.resyncWindow = resyncWindow ?? changed.resyncWindow
        changed.whenFull = whenFull ?? changed.whenFull
        changed.download = download ?? changed.download
        if let appSeconds { changed.appSeconds = appSeconds == 0 ? nil : appSeconds }
        guard changed.appSeconds.map({ Policy.appSecondsRange.contains($0) }) ?? true else {
            throw SiteError(.policyWrong, "app-consistent points every \(changed.appSeconds ?? 0) s are refused", remedy: "10s to 30d, or 0 for none")
        }
        changed.resyncPercent = resyncPercent ?? changed.resyncPercent
        changed.anomaly = anomaly ?? changed.anomaly
        guard Policy.intervalSecondsRange.contains(changed.intervalSeconds) else {
            throw SiteError(.policyWrong, "an interval of \(changed.intervalSeconds) s is refused", remedy: "1s to 1h")
        }
        guard changed.pointSeconds >= 1, changed.pointSeconds <= 86_400 else {
            throw SiteError(.policyWrong, "points every \(changed.pointSeconds) s are refused", remedy: "1s to 1d")
        }
        guard (0...100).contains(changed.resyncPercent) else {
            throw SiteError(.policyWrong, "a resynchronisation at \(changed.resyncPercent) % of the disk's size is refused", remedy: "0 to 100")
        }
        return changed
    }
    /// Of the policy that a person named: one that warns all the time was not meant.
    func refuseEndlessWarning(of changed: Policy) throws(SiteError) {
        guard rpoSeconds != nil || intervalSeconds != nil, let rpo = changed.rpoSeconds, rpo < changed.intervalSeconds else { return }
        let interval = Quantity.spanText(seconds: UInt64(changed.intervalSeconds))
        throw SiteError(
            .policyWrong, "the policy \(changed.name) would upload every \(interval), and warn when the vault is more than \(Quantity.spanText(seconds: UInt64(rpo))) behind: all the time",
            remedy: "--rpo of \(interval) or more, a shorter --interval, or --rpo 0: three intervals and a minute")
    }
}
