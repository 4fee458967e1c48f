// `farshore policy …`: how disks are replicated. A running mount and uploader follow a change within seconds.

import ArgumentParser
import Foundation
import Site
import Vault

struct PolicyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "policy",
        abstract: "Replication policies: intervals, retention, limits, compression.",
        subcommands: [PolicyCreate.self, PolicyList.self, PolicyShow.self, PolicyEdit.self, PolicyAssign.self, PolicyDelete.self])
}

struct PolicyDocument: Encodable {
    let policy: String
    /// The policy it is the failback policy of: `reprotect` gives it to disks away from home.
    let failbackOf: String?
    let intervalSeconds: Int
    let pointSeconds: Int
    let retention: String
    let rpoSeconds: Int?
    let bandwidth: String
    let download: String
    let compression: String
    let resyncWindow: String
    let whenFull: String
    let appSeconds: Int?
    let resyncPercent: Int
    let anomaly: String
    let disks: [String]

    init(_ policy: Policy, _ catalogue: Catalogue) throws {
        self.policy = policy.name
        failbackOf = policy.parent
        intervalSeconds = policy.intervalSeconds
        pointSeconds = policy.pointSeconds
        retention = policy.retention.text
        rpoSeconds = policy.rpoSeconds
        bandwidth = policy.bandwidth.text
        download = policy.download.text
        compression = policy.compression.text
        resyncWindow = policy.resyncWindow.text
        whenFull = policy.whenFull.rawValue
        appSeconds = policy.appSeconds
        resyncPercent = policy.resyncPercent
        anomaly = policy.anomaly.rawValue
        disks = try catalogue.disks(ofPolicy: policy.name)
    }

    var use: String { (failbackOf.map { "away from home, for \($0): " } ?? "") + (disks.isEmpty ? "no disk" : disks.joined(separator: ", ")) }

    var text: String {
        var lines = ["\(policy): \(use)"]
        func add(_ name: String, _ value: String) { lines.append("  " + name.padding(toLength: 12, withPad: " ", startingAt: 0) + value) }
        add("upload", "every \(Quantity.spanText(seconds: UInt64(intervalSeconds)))")
        add("points", "every \(Quantity.spanText(seconds: UInt64(pointSeconds)))")
        if let appSeconds { add("app points", "every \(Quantity.spanText(seconds: UInt64(appSeconds)))") }
        add("retention", retention)
        add("rpo", rpoSeconds.map { "warning when the vault is more than \(Quantity.spanText(seconds: UInt64($0))) behind" } ?? "warning after three intervals and a minute")
        add("bandwidth", bandwidth)
        add("download", download)
        add("compression", compression)
        add("resync", resyncWindow + (resyncPercent > 0 ? "; marked when an unreachable vault lacks \(resyncPercent) % of the disk's size" : ""))
        add("when full", whenFull == Policy.WhenFull.refuse.rawValue ? "writes are refused" : "writes go on, the disk is resynchronised")
        add("anomaly", anomaly)
        return lines.joined(separator: "\n")
    }
}

struct PolicySettings: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("Time between uploads, 1s to 1h (default policy: 30s).", valueName: "span"))
    var interval: String?

    @Option(name: .long, help: ArgumentHelp("Time between recovery points (default: as between uploads).", valueName: "span"))
    var pointEvery: String?

    @Option(name: .long, help: ArgumentHelp("Which points are kept, such as all:2h,hourly:24h,daily:15d; or forever.", valueName: "rules"))
    var retention: String?

    @Option(name: .long, help: ArgumentHelp("Health is a warning when the vault is further behind; 0 means three intervals and a minute.", valueName: "span"))
    var rpo: String?

    @Option(name: .long, help: ArgumentHelp("Limit for sending in bytes a second, by the hour of the week: \"mon-fri 08:00-18:00 20MiB, 100MiB\"; or unlimited.", valueName: "rules"))
    var bandwidth: String?

    @Option(name: .long, help: ArgumentHelp("The same for what fills recovery disks from the vault.", valueName: "rules"))
    var download: String?

    @Option(name: .long, help: ArgumentHelp("off, on, auto, or a zstd level from 1 to 19.", valueName: "level"))
    var compression: String?

    @Option(name: .long, help: ArgumentHelp("Hours in which a resynchronisation may begin by itself: \"18:00-06:00, sat-sun\"; always or never.", valueName: "hours"))
    var resyncWindow: String?

    @Option(name: .long, help: ArgumentHelp("When the log is full and the vault cannot be reached: refuse writes, or go on and resync later.", valueName: "refuse|resync"))
    var whenFull: String?

    @Option(name: .long, help: ArgumentHelp("Time between app-consistent points, 10s to 30d; 0 for none. See `farshore machine set`.", valueName: "span"))
    var appConsistent: String?

    @Option(name: .long, help: ArgumentHelp(
        "A disk whose vault cannot be reached and lacks so many percent of its size is given up for a resync (default policy: 50; 0: never).", valueName: "percent"))
    var resyncAt: Int?

    @Option(name: .long, help: ArgumentHelp("When data is overwritten by data that looks encrypted: nothing, a warning, or also a pin of the last point from before.", valueName: "off|warn|pin"))
    var anomaly: String?

    func change() throws -> PolicyChange {
        PolicyChange(
            intervalSeconds: try Self.seconds(interval), pointSeconds: try Self.seconds(pointEvery), retention: try retention.map { try RetentionRules($0) },
            rpoSeconds: try Self.seconds(rpo), bandwidth: try bandwidth.map { try BandwidthCalendar($0) },
            compression: try compression.map { try Policy.Compression($0) }, resyncWindow: try resyncWindow.map { try WeeklyWindow($0) },
            whenFull: try whenFull.map { text in
                guard let known = Policy.WhenFull(rawValue: text) else { throw ValidationError("--when-full is refuse or resync, not \(text.debugDescription)") }
                return known
            },
            download: try download.map { try BandwidthCalendar($0) }, appSeconds: try Self.seconds(appConsistent), resyncPercent: resyncAt,
            anomaly: try anomaly.map { text in
                guard let known = Policy.Anomaly(rawValue: text) else { throw ValidationError("--anomaly is off, warn or pin, not \(text.debugDescription)") }
                return known
            })
    }

    private static func seconds(_ text: String?) throws -> Int? {
        guard let text else { return nil }
        guard let seconds = Quantity.seconds(text).flatMap({ Int(exactly: $0) }) else { throw ValidationError("\(text.debugDescription) is no span of time: write 30s, 5m, 2h or 15d") }
        return seconds
    }
}

struct PolicyCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Make a policy, and with it its failback policy NAME-failback.",
        discussion: """
            What is not given is as in a new default policy: 30 seconds, all:1d,hourly:3d,daily:15d, no limit, compression auto,
            resynchronisation from 18:00 to 06:00, and writes refused when the log is full.
            The failback policy is changed with it, or by itself, and is that of disks away from home:
            `farshore reprotect` there gives it to them, and at home the other one again.

            Example:
              farshore policy create office --interval 5m --retention all:2h,hourly:24h,daily:15d --bandwidth "mon-fri 08:00-18:00 20MiB"
            """)

    @Argument(help: "The policy's name: 1 to 50 of letters, digits, . _ -")
    var policy: String

    @OptionGroup var settings: PolicySettings
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard Catalog.isValidName(policy), policy.count <= 50 else {
            throw ValidationError("\(policy.debugDescription) cannot name a policy: use 1 to 50 of letters, digits, . _ -, not starting with . or -")
        }
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let made = try catalogue.addPolicy(named: policy, try settings.change())
        try catalogue.record(.information, disk: nil, "policy \(policy) made")
        try output.print(try PolicyDocument(made, catalogue), text: \.text)
    }
}

struct PolicyList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the policies of this site.", discussion: "Example:\n  farshore policy list")

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        try output.print(try catalogue.policies().map { try PolicyDocument($0, catalogue) }) { policies in
            tableText([["POLICY", "UPLOAD", "POINTS", "RETENTION", "BANDWIDTH", "USED BY"]] + policies.map {
                [$0.policy, Quantity.spanText(seconds: UInt64($0.intervalSeconds)), Quantity.spanText(seconds: UInt64($0.pointSeconds)), $0.retention, $0.bandwidth, $0.use]
            })
        }
    }
}

struct PolicyShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show one policy and the disks that have it.", discussion: "Example:\n  farshore policy show default")

    @Argument(help: "The policy.")
    var policy: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        try output.print(try PolicyDocument(try catalogue.policy(named: policy), catalogue), text: \.text)
    }
}

struct PolicyEdit: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "edit",
        abstract: "Change a policy; a running mount and uploader follow within seconds.",
        discussion: """
            What is not given stays. The same is changed in its failback policy. Points that the new retention does not keep are
            dropped when the next ones were uploaded, and that cannot be undone.

            Example:
              farshore policy edit default --interval 5s --rpo 1m
            """)

    @Argument(help: "The policy.")
    var policy: String

    @OptionGroup var settings: PolicySettings
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        let change = try settings.change()
        guard change != PolicyChange() else { throw ValidationError("nothing to change is given") }
        let changed = try PolicyDocument(try catalogue.changePolicy(named: policy, change), catalogue)
        try catalogue.record(.information, disk: nil, "policy \(policy) changed: \(changed.text.split(separator: "\n").dropFirst().map { $0.split(separator: " ").joined(separator: " ") }.joined(separator: "; "))")
        try output.print(changed, text: \.text)
    }
}

struct PolicyAssign: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "assign",
        abstract: "Give disks another policy.",
        discussion: """
            Of disks that share points, points come as often and are kept as long as the policy of any of them says.

            Example:
              farshore policy assign office web1 web2
            """)

    @Argument(help: "The policy.")
    var policy: String

    @Argument(help: "Disks of this site.")
    var disks: [String]

    @Option(name: .long, help: ArgumentHelp("Only at this target (farshore target list); default: at all of them.", valueName: "url"))
    var vault: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        try catalogue.assignPolicy(named: policy, disks: disks, vault: vault)
        for disk in disks { try catalogue.record(.information, disk: disk, vault: vault, "policy \(policy) from now on") }
        try output.print(try PolicyDocument(try catalogue.policy(named: policy), catalogue), text: \.text)
    }
}

struct PolicyDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete",
        abstract: "Remove a policy that no disk has, and its failback policy.",
        discussion: "Example:\n  farshore policy delete office")

    @Argument(help: "The policy.")
    var policy: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        let document = try PolicyDocument(try catalogue.policy(named: policy), catalogue)
        try catalogue.removePolicy(named: policy)
        try catalogue.record(.information, disk: nil, "policy \(policy) removed")
        try output.print(document) { "\($0.policy): removed" }
    }
}
