// Policies in the catalogue. Each one a person makes comes with its failback policy NAME-failback, which is changed with
// it, or by itself, and goes with it. A disk has one at each of its targets. Of disks that share points each has its own: points come as
// often, and are kept as long, as any of them says.

import BlockIO
import GRDB

extension Catalogue {
    package func policies() throws(SiteError) -> [Policy] {
        try read { try Row.fetchAll($0, sql: "SELECT * FROM policy ORDER BY name").map { try Policy(row: $0, name: $0["name"]) } }
    }

    package func policy(named name: String) throws(SiteError) -> Policy {
        guard let found = try read({ try Self.policy(name, $0) }) else { throw Self.noPolicy(name) }
        return found
    }

    /// Names of the disks that have it at any target.
    package func disks(ofPolicy name: String) throws(SiteError) -> [String] {
        try read { try String.fetchAll($0, sql: "SELECT DISTINCT disk FROM target WHERE policy = ? ORDER BY disk", arguments: [name]) }
    }

    /// Makes a policy that is like the default one but for `change`, and its failback policy.
    package func addPolicy(named name: String, _ change: PolicyChange) throws(SiteError) -> Policy {
        try write { database in
            let made = try change.applied(to: Policy(name: name))
            try change.refuseEndlessWarning(of: made)
            for name in [name, made.failbackName] where try Self.policy(name, database) != nil {
                throw SiteError(.policyExists, "there is a policy named \(name) already", remedy: "farshore policy edit \(name) with what is to change")
            }
            try Self.insert(made, database)
            try Self.insert(try change.applied(to: Policy(name: made.failbackName, parent: name)), database)
            return made
        }
    }

    /// Changes the policy and, with it, its failback policy.
    package func changePolicy(named name: String, _ change: PolicyChange) throws(SiteError) -> Policy {
        try write { database in
            guard let policy = try Self.policy(name, database) else { throw Self.noPolicy(name) }
            let changed = try change.applied(to: policy)
            try change.refuseEndlessWarning(of: changed)
            try Self.store(changed, database)
            if policy.parent == nil, let failback = try Self.policy(policy.failbackName, database) { try Self.store(try change.applied(to: failback), database) }
            return changed
        }
    }

    /// Removes the policy and its failback policy; refused while a disk has it.
    package func removePolicy(named name: String) throws(SiteError) {
        try write { database in
            guard let policy = try Self.policy(name, database) else { throw Self.noPolicy(name) }
            if let parent = policy.parent {
                throw SiteError(.refused, "\(name) is the failback policy of \(parent) and goes with it", remedy: "farshore policy delete \(parent)")
            }
            guard name != Policy.defaultName else { throw SiteError(.refused, "the policy \(name) stays", remedy: "farshore policy edit \(name) with what is to change") }
            if let disk = try String.fetchOne(database, sql: "SELECT disk FROM target WHERE policy = ?", arguments: [name]) {
                throw SiteError(.policyInUse, "the disk \(disk) has the policy \(name)", remedy: "farshore policy assign \(Policy.defaultName) \(disk)")
            }
            try database.execute(sql: "DELETE FROM policy WHERE name = ?", arguments: [name])
        }
    }

    /// Gives the policy to the disks at the target with that URL, or at all their targets; all of them or none.
    package func assignPolicy(named name: String, disks: [String], vault url: String? = nil) throws(SiteError) {
        try write { database in
            try Self.refuseUnusable(name, database)
            for disk in disks {
                try database.execute(sql: "UPDATE target SET policy = ?1 WHERE disk = ?2 AND (?3 IS NULL OR url = ?3)", arguments: [name, disk, url])
                if database.changesCount > 0 { continue }
                guard let url, try String.fetchOne(database, sql: "SELECT name FROM disk WHERE name = ?", arguments: [disk]) != nil else {
                    throw SiteError(.diskNotFound, "no disk named \(disk) is protected on this site", remedy: "farshore status")
                }
                throw Self.noTarget(url, ofDisk: disk)
            }
        }
    }

    /// Away from home a disk has the failback policy of its policy, at home again that policy.
    package func assignPolicy(ofDisk name: String, away: Bool) throws(SiteError) {
        try write { database in
            for target in try Row.fetchAll(database, sql: "SELECT vault, policy FROM target WHERE disk = ?", arguments: [name]) {
                guard let policy = try Self.policy(target["policy"], database) else { continue }
                let next = away ? policy.parent.map { _ in policy.name } ?? policy.failbackName : policy.parent ?? policy.name
                try database.execute(sql: "UPDATE target SET policy = ? WHERE disk = ? AND vault = ?", arguments: [next, name, target["vault"] as String])
            }
        }
    }

    /// Gives a disk that came from another host the policy it had there; the one it gets away from home follows from it. Under its own name where the
    /// site has none of that name or the same, else as NAME-of-HOST, which is as that host has it and changes with it.
    package func adopt(_ policy: Policy, failback: Policy?, ofDisk disk: String, atVault vault: String, from host: String) throws(SiteError) {
        try write { database in
            let wanted = (policy, failback ?? policy)
            let known = (try Self.policy(policy.name, database), try Self.policy(policy.failbackName, database))
            let isFree = known.0 == nil && known.1 == nil
            let isSame = known.0?.parent == nil && known.0?.hasSettings(of: wanted.0) == true && known.1?.hasSettings(of: wanted.1) == true
            let name = isFree || isSame ? policy.name : Self.name(of: policy, from: host)
            let home = policy.named(name)
            for made in [home, wanted.1.named(home.failbackName, parent: name)] {
                if try Self.policy(made.name, database) == nil { try Self.insert(made, database) } else { try Self.store(made, database) }
            }
            try database.execute(sql: "UPDATE target SET policy = ? WHERE disk = ? AND vault = ?", arguments: [name, disk, vault])
        }
    }

    private static func name(of policy: Policy, from host: String) -> String {
        let letters = host.unicodeScalars.prefix(16).map { scalar in
            scalar.isASCII && (scalar.properties.isAlphabetic || scalar.properties.numericType != nil || "._-".unicodeScalars.contains(scalar)) ? Character(scalar) : "-"
        }
        let plain = "\(policy.name.prefix(30))-of-\(String(letters))"
        guard policy.name.count > 30 || host.unicodeScalars.count > 16 else { return plain }
        // Shortened, two would be one: the FNV-1a of both tells them apart.
        let sum = "\(policy.name)/\(host)".utf8.reduce(0x811c_9dc5 as UInt32) { ($0 ^ UInt32($1)) &* 16_777_619 }
        return "\(policy.name.prefix(30))-of-\(String(letters.prefix(7)))-\(String(sum, radix: 16))"
    }

    static func refuseUnusable(_ name: String, _ database: Database) throws {
        guard let policy = try policy(name, database) else { throw noPolicy(name) }
        guard let parent = policy.parent else { return }
        throw SiteError(.refused, "\(name) is the failback policy of \(parent): reprotect gives it to disks away from home", remedy: "farshore policy list")
    }

    static func policy(_ name: String, _ database: Database) throws -> Policy? {
        try Row.fetchOne(database, sql: "SELECT * FROM policy WHERE name = ?", arguments: [name]).map { try Policy(row: $0, name: name) }
    }

    static func insert(_ policy: Policy, _ database: Database) throws {
        try database.execute(
            sql: """
                INSERT INTO policy (name, parent, created, interval_seconds, point_seconds, retention, rpo_seconds, bandwidth, compression, resync_window, when_full,
                    download, app_seconds, resync_percent, anomaly)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
            arguments: [policy.name, policy.parent, Int64(bitPattern: Clock.wallNanoseconds())] + policy.settings)
    }

    static func store(_ policy: Policy, _ database: Database) throws {
        try database.execute(
            sql: """
                UPDATE policy SET interval_seconds = ?, point_seconds = ?, retention = ?, rpo_seconds = ?, bandwidth = ?, compression = ?, resync_window = ?, when_full = ?,
                    download = ?, app_seconds = ?, resync_percent = ?, anomaly = ?
                WHERE name = ?
                """,
            arguments: policy.settings + [policy.name])
    }

    private static func noPolicy(_ name: String) -> SiteError {
        SiteError(.policyNotFound, "there is no policy named \(name) on this site", remedy: "farshore policy list")
    }
}

extension Policy {
    init(row: Row, name: String) throws {
        self.init(
            name: name, parent: row["parent"], intervalSeconds: row["interval_seconds"], pointSeconds: row["point_seconds"],
            retention: try RetentionRules(row["retention"] as String), rpoSeconds: row["rpo_seconds"], bandwidth: try BandwidthCalendar(row["bandwidth"] as String),
            compression: try Compression(row["compression"] as String), resyncWindow: try WeeklyWindow(row["resync_window"] as String),
            whenFull: try storedName(row["when_full"]), download: try BandwidthCalendar(row["download"] as String), appSeconds: row["app_seconds"],
            resyncPercent: row["resync_percent"], anomaly: try storedName(row["anomaly"]))
    }

    fileprivate var settings: StatementArguments {
        [
            intervalSeconds, pointSeconds, retention.text, rpoSeconds, bandwidth.text, compression.text, resyncWindow.text, whenFull.rawValue, download.text, appSeconds,
            resyncPercent, anomaly.rawValue,
        ]
    }
}
