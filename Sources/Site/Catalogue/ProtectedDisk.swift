// A protected disk as this host knows it: its image, its change log and where it goes. Registered by `protect`, read
// by the mount and the uploader, removed by `unprotect`. Key material is named by path, never held.
// A value is the disk at one of its targets (Targets.swift): where nobody asks for another one, at its first.

import BlockIO
import GRDB

package struct ProtectedDisk: Equatable, Sendable {
    package enum State: String, Sendable {
        /// Served by the mount and replicated.
        case protected
        /// `unprotect` has begun: the mount no longer serves it, the log is being merged. Begun again after a crash.
        case releasing
    }

    package enum Role: String, Sendable {
        /// Guests of this host write it, and the uploader replicates it.
        case source
        /// Made from a point by a failover: guests write it, and nothing of it goes to the vault.
        case recovery
        /// As `recovery`, to be thrown away.
        case test
    }

    package var name: String
    /// The id of the disk in logs and vaults, 32 lowercase hex digits.
    package var id: String
    package var imagePath: String
    package var format: String
    package var sizeBytes: UInt64
    package var logFolder: String
    package var logBudgetBytes: UInt64
    /// As it is now; a change of it is seen when the disk is looked up again.
    package var policy: Policy
    package var vaultURL: String
    package var vaultID: String
    package var keyFile: String?
    package var passphraseFile: String?
    /// How many targets the disk has, and whether this is the first of them.
    package private(set) var targetCount = 1
    package private(set) var isFirstTarget = true
    /// Why nothing may be published to this target: the disk is another host's there.
    package private(set) var takenOver: String?
    /// Between points: the shortest of all its targets.
    package private(set) var pointSeconds: Int
    package private(set) var appSeconds: Int?
    package var state: State
    package var isPaused: Bool
    package var createdNanoseconds: UInt64
    /// The machine it is a disk of; a disk of no named machine is its own, of the same name.
    package var machine: String
    /// Further folders in which parents of the image may lie.
    package var parentFolders: [String]
    package var role: Role
    /// Why the mount does not serve it: it was shut down for a failover. It is replicated all the same.
    package private(set) var held: String?

    package var isToBeServed: Bool { state == .protected && held == nil }

    package init(
        name: String, id: String, imagePath: String, format: String, sizeBytes: UInt64, logFolder: String,
        logBudgetBytes: UInt64, policy: Policy = .standard, vaultURL: String, vaultID: String, keyFile: String?,
        passphraseFile: String?, machine: String? = nil, parentFolders: [String] = [], role: Role = .source
    ) {
        self.role = role
        self.parentFolders = parentFolders
        self.name = name
        self.machine = machine ?? name
        self.id = id
        self.imagePath = imagePath
        self.format = format
        self.sizeBytes = sizeBytes
        self.logFolder = logFolder
        self.logBudgetBytes = logBudgetBytes
        self.policy = policy
        (pointSeconds, appSeconds) = (policy.pointSeconds, policy.appSeconds)
        self.vaultURL = vaultURL
        self.vaultID = vaultID
        self.keyFile = keyFile
        self.passphraseFile = passphraseFile
        state = .protected
        isPaused = false
        createdNanoseconds = Clock.wallNanoseconds()
    }

    init(row: Row) throws {
        name = row["name"]
        id = row["id"]
        imagePath = row["image_path"]
        format = row["format"]
        sizeBytes = UInt64(bitPattern: row["size_bytes"])
        logFolder = row["log_folder"]
        logBudgetBytes = UInt64(bitPattern: row["log_budget_bytes"])
        policy = try Policy(row: row, name: row["policy"])
        vaultURL = row["vault_url"]
        vaultID = row["vault_id"]
        keyFile = row["key_file"]
        passphraseFile = row["passphrase_file"]
        state = try storedName(row["state"])
        isPaused = row["is_paused"]
        createdNanoseconds = UInt64(bitPattern: row["created"])
        machine = row["machine"]
        held = row["held"]
        let folders: String = row["parent_folders"]
        parentFolders = folders.split(separator: "\n").map(String.init)
        role = try storedName(row["role"])
        targetCount = row["target_count"]
        isFirstTarget = row["is_first"]
        takenOver = row["taken_over"]
        pointSeconds = row["shortest_point_seconds"]
        appSeconds = row["shortest_app_seconds"]
    }

    /// Of a log that nobody gave another one.
    package static func defaultLogBudgetBytes(diskBytes: UInt64) -> UInt64 { min(max(diskBytes / 2, 2 << 30), 64 << 30) }

    /// What the uploader has to do with.
    package var isReplicated: Bool { state == .protected && role == .source }
}

/// The case a stored word names; a word of no case means the catalogue was edited by hand.
func storedName<Name: RawRepresentable<String>>(_ word: String) throws(SiteError) -> Name {
    guard let name = Name(rawValue: word) else {
        throw SiteError(.catalogueDamaged, "the catalogue holds the unknown word \(word.debugDescription)", remedy: "restore catalogue.sqlite, or protect the disk again")
    }
    return name
}

extension Catalogue {
    private static let otherTargets = "target AS other WHERE other.disk = disk.name"
    private static let otherPolicies = "target AS other JOIN policy AS further ON further.name = other.policy WHERE other.disk = disk.name"

    /// Each disk at each of its targets, with the settings of its policy there.
    static let diskQuery = """
        SELECT disk.*, target.vault AS vault_id, target.url AS vault_url, target.key_file, target.passphrase_file, target.policy, target.is_paused, target.taken_over,
            (SELECT count(*) FROM \(otherTargets)) AS target_count, target.number = (SELECT min(other.number) FROM \(otherTargets)) AS is_first,
            (SELECT min(further.point_seconds) FROM \(otherPolicies)) AS shortest_point_seconds, (SELECT min(further.app_seconds) FROM \(otherPolicies)) AS shortest_app_seconds,
            policy.parent, policy.interval_seconds, policy.point_seconds, policy.retention, policy.rpo_seconds, policy.bandwidth, policy.compression,
            policy.resync_window, policy.when_full, policy.download, policy.app_seconds,
            policy.resync_percent, policy.anomaly
        FROM disk JOIN target ON target.disk = disk.name JOIN policy ON policy.name = target.policy
        """

    /// All disks of the site, by name.
    package func disks() throws(SiteError) -> [ProtectedDisk] {
        try read { try Row.fetchAll($0, sql: Self.diskQuery + " WHERE is_first ORDER BY disk.name").map(ProtectedDisk.init(row:)) }
    }

    /// `vault`: the id of the target; nil means the first.
    package func disk(named name: String, at vault: String? = nil) throws(SiteError) -> ProtectedDisk {
        if let found = try findDisk(name, at: vault) { return found }
        if vault != nil, try disks().contains(where: { $0.name == name }) {
            throw SiteError(.targetNotFound, "\(name) is not replicated to that vault", remedy: "farshore target list \(name)")
        }
        throw SiteError(.diskNotFound, "no disk named \(name) is protected on this site (\(site.path))", remedy: "farshore status")
    }

    /// Nil where the disk is not protected, or not replicated to that target.
    package func findDisk(_ name: String, at vault: String? = nil) throws(SiteError) -> ProtectedDisk? {
        try read { database in
            try Row.fetchOne(
                database, sql: Self.diskQuery + " WHERE disk.name = ?1 AND (target.vault = ?2 OR (?2 IS NULL AND is_first))", arguments: [name, vault]
            ).map(ProtectedDisk.init(row:))
        }
    }

    /// Registers the disk; its name, image and log folder must be new to the site. Its machine is made when there is none,
    /// and put into `group`.
    package func add(_ disk: ProtectedDisk, group: String? = nil) throws(SiteError) {
        try write { database in
            try Self.insert(disk, group: group, database)
            try Self.checkSharing(database)
        }
    }

    /// Registers disks that a vault has, all of them or none, in machines and a group that have the ids they have there.
    package func add(_ disks: [ProtectedDisk], machineIDs: [String: String], group: (name: String, id: String)?) throws(SiteError) {
        try write { try Self.insert(disks, machineIDs: machineIDs, group: group, $0) }
    }

    static func insert(_ disks: [ProtectedDisk], machineIDs: [String: String], group: (name: String, id: String)?, _ database: Database) throws {
        for machine in Set(disks.map(\.machine)) { try refuseMachine(machine, database) }
        // The first disk of a machine makes it, and may have its name.
        for disk in disks.sorted(by: { ($0.name == $0.machine ? 0 : 1, $0.name) < ($1.name == $1.machine ? 0 : 1, $1.name) }) {
            try insert(disk, group: nil, database)
        }
        for (machine, id) in machineIDs { try database.execute(sql: "UPDATE machine SET id = ? WHERE name = ?", arguments: [id, machine]) }
        if let group { try makeGroup(group.name, id: group.id, machines: Set(disks.map(\.machine)).sorted(), database) }
        try checkSharing(database)
    }

    static func insert(_ disk: ProtectedDisk, group: String?, _ database: Database) throws {
        let taken = try String.fetchOne(
            database, sql: "SELECT name FROM disk WHERE name = ? OR id = ? OR image_path = ? OR log_folder = ?",
            arguments: [disk.name, disk.id, disk.imagePath, disk.logFolder])
        if let taken {
            throw SiteError(.diskExists, "the disk \(taken) of this site already has that name, id, image or log folder", remedy: "farshore status \(taken)")
        }
        try Self.refuseUnusable(disk.policy.name, database)
        try Self.makeMachine(of: disk, group: group, database)
        try database.execute(
            sql: """
                INSERT INTO disk (name, id, image_path, format, size_bytes, log_folder, log_budget_bytes, state, created, machine, parent_folders, role)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
            arguments: [
                disk.name, disk.id, disk.imagePath, disk.format, Int64(bitPattern: disk.sizeBytes), disk.logFolder,
                Int64(bitPattern: disk.logBudgetBytes), disk.state.rawValue, Int64(bitPattern: disk.createdNanoseconds), disk.machine,
                disk.parentFolders.joined(separator: "\n"), disk.role.rawValue,
            ])
        try Self.insertTarget(of: disk, database)
    }

    /// All of them or none.
    package func setRole(_ role: ProtectedDisk.Role, ofDisks names: [String]) throws(SiteError) {
        try write { database in
            for name in names {
                try database.execute(sql: "UPDATE disk SET role = ? WHERE name = ?", arguments: [role.rawValue, name])
                guard database.changesCount == 1 else { throw SiteError(.diskNotFound, "no disk named \(name) is protected on this site", remedy: "farshore status") }
            }
        }
    }

    package func setState(_ state: ProtectedDisk.State, ofDisk name: String) throws(SiteError) {
        try write { try $0.execute(sql: "UPDATE disk SET state = ? WHERE name = ?", arguments: [state.rawValue, name]) }
    }

    /// Image and log lie elsewhere from now on. Where they were is remembered until `settleMove`.
    package func move(disk name: String, imagePath: String, logFolder: String) throws(SiteError) {
        try write {
            try $0.execute(
                sql: "UPDATE disk SET left_image = image_path, left_log = log_folder, image_path = ?, log_folder = ? WHERE name = ?", arguments: [imagePath, logFolder, name])
        }
    }

    /// Where the disk was before it was moved; nil where it was not, or that was settled.
    package func placeLeft(ofDisk name: String) throws(SiteError) -> (imagePath: String, logFolder: String)? {
        try read {
            try Row.fetchOne($0, sql: "SELECT left_image, left_log FROM disk WHERE name = ? AND left_image IS NOT NULL", arguments: [name]).map { ($0["left_image"], $0["left_log"]) }
        }
    }

    /// It stays where it is; `goingBack`: where it was.
    package func settleMove(ofDisk name: String, goingBack: Bool) throws(SiteError) {
        let place = goingBack ? "image_path = coalesce(left_image, image_path), log_folder = coalesce(left_log, log_folder), " : ""
        try write { try $0.execute(sql: "UPDATE disk SET \(place)left_image = NULL, left_log = NULL WHERE name = ?", arguments: [name]) }
    }

    /// The disk has grown.
    package func setSize(_ bytes: UInt64, ofDisk name: String) throws(SiteError) {
        try write { try $0.execute(sql: "UPDATE disk SET size_bytes = ? WHERE name = ?", arguments: [Int64(bitPattern: bytes), name]) }
    }

    /// Forgets the disk on this host; the vault is not touched.
    package func remove(disk name: String) throws(SiteError) {
        try write { database in
            try database.execute(sql: "DELETE FROM disk WHERE name = ?", arguments: [name])
            try Self.removeEmptyMachines(database)
        }
    }
}
