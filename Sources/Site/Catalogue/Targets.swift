// The targets of disks: vaults, each with its key, its policy and how far it is. A disk has at least one; the first is the one it was protected
// to, or the next when that was removed. Disks that share points have the same targets (ConsistencyGroup.swift).

import BlockIO
import GRDB

extension ProtectedDisk {
    package static let targetsMax = 8

    /// Where this is one of several targets: what it is called in events and jobs.
    package var namedVaultURL: String? { targetCount > 1 ? vaultURL : nil }

    /// For a log.
    package var laneName: String { namedVaultURL.map { "\(name) to \($0)" } ?? name }

    /// How commands are told that it is about this target.
    package var commandName: String { targetCount > 1 ? "\(name) --vault '\(vaultURL)'" : name }
}

extension Catalogue {
    /// All disks of the site at all their targets: by name, the first target first.
    package func disksAtTargets() throws(SiteError) -> [ProtectedDisk] {
        try read { try Row.fetchAll($0, sql: Self.diskQuery + " ORDER BY disk.name, target.number").map(ProtectedDisk.init(row:)) }
    }

    /// One disk at all its targets, the first one first.
    package func targets(ofDisk name: String) throws(SiteError) -> [ProtectedDisk] {
        let found = try read { try Row.fetchAll($0, sql: Self.diskQuery + " WHERE disk.name = ? ORDER BY target.number", arguments: [name]).map(ProtectedDisk.init(row:)) }
        guard !found.isEmpty else { throw SiteError(.diskNotFound, "no disk named \(name) is protected on this site (\(site.path))", remedy: "farshore status") }
        return found
    }

    /// The disk at the target with that URL; at its first where none is given.
    package func disk(named name: String, vault url: String?) throws(SiteError) -> ProtectedDisk {
        guard let url else { return try disk(named: name) }
        guard let found = try targets(ofDisk: name).first(where: { $0.vaultURL == url }) else { throw Self.noTarget(url, ofDisk: name) }
        return found
    }

    /// Gives the disks one more target, all of them or none. `resynchronised`: those that the vault has from an earlier time.
    package func addTarget(_ target: NewTarget, toDisks names: [String], resynchronised: Set<String> = []) throws(SiteError) {
        try write { database in
            try Self.refuseUnusable(target.policy, database)
            for name in names {
                let numbers = try Int.fetchAll(database, sql: "SELECT number FROM target WHERE disk = ? ORDER BY number", arguments: [name])
                guard let last = numbers.last else { throw SiteError(.diskNotFound, "no disk named \(name) is protected on this site", remedy: "farshore status") }
                guard numbers.count < ProtectedDisk.targetsMax else {
                    throw SiteError(.refused, "\(name) has \(numbers.count) targets already, which is the most there can be", remedy: "farshore target remove \(name) --vault URL")
                }
                try Self.insert(target, number: last + 1, disk: name, isPaused: false, database)
                guard resynchronised.contains(name) else { continue }
                try database.execute(
                    sql: "INSERT INTO resynchronisation (disk, vault, reason, marked, is_now) VALUES (?, ?, ?, ?, 1)",
                    arguments: [name, target.vaultID, "the vault became its target again", Int64(bitPattern: Clock.wallNanoseconds())])
            }
            try Self.checkSharing(database)
        }
    }

    /// Takes the target from the disks, with all that is known of their replication there. A disk keeps one at least.
    package func removeTarget(vault id: String, ofDisks names: [String]) throws(SiteError) {
        try write { database in
            for name in names {
                let vaults = try String.fetchAll(database, sql: "SELECT vault FROM target WHERE disk = ?", arguments: [name])
                guard vaults.count > 1 || !vaults.contains(id) else {
                    throw SiteError(.refused, "it is the only target of \(name)", remedy: "farshore target add \(name) --vault URL with another vault first, or farshore unprotect \(name)")
                }
                try database.execute(sql: "DELETE FROM target WHERE disk = ? AND vault = ?", arguments: [name, id])
            }
            try Self.checkSharing(database)
            // Sent there again one day, chunks are looked for anew.
            try database.execute(sql: "DELETE FROM chunk WHERE vault = ?1 AND NOT EXISTS (SELECT 1 FROM target WHERE vault = ?1)", arguments: [id])
        }
    }

    /// Why nothing may be published to that target: while it stands, this host sends nothing of the disk to any other either.
    package func setTakenOver(_ reason: String?, of disk: ProtectedDisk) throws(SiteError) {
        try write { try $0.execute(sql: "UPDATE target SET taken_over = ? WHERE disk = ? AND vault = ?", arguments: [reason, disk.name, disk.vaultID]) }
    }

    /// At all targets, or at the one with that URL.
    package func setPaused(_ isPaused: Bool, disk name: String, vault url: String? = nil) throws(SiteError) {
        try write { database in
            try database.execute(sql: "UPDATE target SET is_paused = ?1 WHERE disk = ?2 AND (?3 IS NULL OR url = ?3)", arguments: [isPaused, name, url])
            if let url, database.changesCount == 0 { throw Self.noTarget(url, ofDisk: name) }
        }
    }

    /// The vault is at another place now. Which chunks are there is learnt anew: some that no head of the vault names may be missing.
    package func retarget(vault id: String, url: String, keyFile: String?, passphraseFile: String?) throws(SiteError) {
        try write { database in
            try database.execute(sql: "UPDATE target SET url = ?, key_file = ?, passphrase_file = ? WHERE vault = ?", arguments: [url, keyFile, passphraseFile, id])
            // Units of a failover are named without a URL, too.
            try database.execute(
                sql: "UPDATE failover SET vault_url = ?, key_file = ?, passphrase_file = ? WHERE vault_id = ? AND ended IS NULL", arguments: [url, keyFile, passphraseFile, id])
            try database.execute(sql: "UPDATE joined_vault SET url = ?, key_file = ?, passphrase_file = ? WHERE id = ?", arguments: [url, keyFile, passphraseFile, id])
            try database.execute(sql: "DELETE FROM chunk WHERE vault = ?", arguments: [id])
        }
    }

    /// Of a disk that is being added.
    static func insertTarget(of disk: ProtectedDisk, _ database: Database) throws {
        try insert(
            NewTarget(url: disk.vaultURL, vaultID: disk.vaultID, keyFile: disk.keyFile, passphraseFile: disk.passphraseFile, policy: disk.policy.name), number: 0, disk: disk.name,
            isPaused: disk.isPaused, database)
    }

    private static func insert(_ target: NewTarget, number: Int, disk: String, isPaused: Bool, _ database: Database) throws {
        try database.execute(
            sql: "INSERT INTO target (disk, vault, number, url, key_file, passphrase_file, policy, is_paused) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            arguments: [disk, target.vaultID, number, target.url, target.keyFile, target.passphraseFile, target.policy, isPaused])
        try database.execute(
            sql: "INSERT INTO replication (disk, vault, phase, health) VALUES (?, ?, ?, ?)",
            arguments: [disk, target.vaultID, ReplicationState.Phase.waiting.rawValue, ReplicationState.Health.normal.rawValue])
    }

    /// `vault`, or the first target's; nil for a disk that there is not.
    static func vault(_ vault: String?, ofDisk name: String, _ database: Database) throws -> String? {
        if let vault { return vault }
        return try String.fetchOne(database, sql: "SELECT vault FROM target WHERE disk = ? ORDER BY number LIMIT 1", arguments: [name])
    }

    static func noTarget(_ url: String, ofDisk name: String) -> SiteError {
        SiteError(.targetNotFound, "\(name) has no target \(url)", remedy: "farshore target list \(name)")
    }
}

/// A vault that disks are to be replicated to. Key material is named by path.
package struct NewTarget: Sendable {
    package let url: String
    package let vaultID: String
    package let keyFile: String?
    package let passphraseFile: String?
    package let policy: String

    package init(url: String, vaultID: String, keyFile: String?, passphraseFile: String?, policy: String) {
        self.url = url
        self.vaultID = vaultID
        self.keyFile = keyFile
        self.passphraseFile = passphraseFile
        self.policy = policy
    }
}

extension Catalogue {
    /// The vault of each disk becomes its first target; what was known of the disk's replication is known of it there.
    static func createTargets(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE target (
                disk TEXT NOT NULL REFERENCES disk(name) ON DELETE CASCADE,
                vault TEXT NOT NULL,
                number INTEGER NOT NULL,
                url TEXT NOT NULL,
                key_file TEXT,
                passphrase_file TEXT,
                policy TEXT NOT NULL REFERENCES policy(name),
                is_paused INTEGER NOT NULL,
                taken_over TEXT,
                PRIMARY KEY (disk, vault)
            ) STRICT, WITHOUT ROWID;
            INSERT INTO target (disk, vault, number, url, key_file, passphrase_file, policy, is_paused)
                SELECT name, vault_id, 0, vault_url, key_file, passphrase_file, policy, is_paused FROM disk;
            ALTER TABLE disk DROP COLUMN vault_id;
            ALTER TABLE disk DROP COLUMN vault_url;
            ALTER TABLE disk DROP COLUMN key_file;
            ALTER TABLE disk DROP COLUMN passphrase_file;
            ALTER TABLE disk DROP COLUMN policy;
            ALTER TABLE disk DROP COLUMN is_paused;
            CREATE TABLE published_settings (
                machine TEXT NOT NULL REFERENCES machine_settings(machine) ON DELETE CASCADE,
                vault TEXT NOT NULL,
                document TEXT NOT NULL,
                PRIMARY KEY (machine, vault)
            ) STRICT, WITHOUT ROWID;
            INSERT INTO published_settings SELECT DISTINCT machine_settings.machine, target.vault, published
                FROM machine_settings JOIN disk ON disk.machine = machine_settings.machine JOIN target ON target.disk = disk.name WHERE published IS NOT NULL;
            ALTER TABLE machine_settings DROP COLUMN published;
            ALTER TABLE event ADD COLUMN vault TEXT;
            ALTER TABLE job ADD COLUMN vault TEXT;
            """)
        try database.execute(sql: stateByTarget)
    }

    private static let stateByTarget = """
        CREATE TABLE replication_at (
            disk TEXT NOT NULL,
            vault TEXT NOT NULL,
            phase TEXT NOT NULL,
            lineage TEXT,
            proven_sequence INTEGER,
            proven_at INTEGER,
            head_number INTEGER,
            writer_epoch INTEGER,
            failures INTEGER NOT NULL DEFAULT 0,
            next_attempt INTEGER,
            health TEXT NOT NULL,
            error TEXT,
            remedy TEXT,
            kept_epoch INTEGER,
            kept_group TEXT,
            PRIMARY KEY (disk, vault),
            FOREIGN KEY (disk, vault) REFERENCES target(disk, vault) ON DELETE CASCADE
        ) STRICT, WITHOUT ROWID;
        INSERT INTO replication_at SELECT replication.disk, target.vault, phase, lineage, proven_sequence, proven_at, head_number, writer_epoch, failures, next_attempt,
            health, error, remedy, kept_epoch, kept_group FROM replication JOIN target ON target.disk = replication.disk;
        DROP TABLE replication;
        ALTER TABLE replication_at RENAME TO replication;
        CREATE TABLE resynchronisation_at (
            disk TEXT NOT NULL,
            vault TEXT NOT NULL,
            reason TEXT NOT NULL,
            marked INTEGER NOT NULL,
            is_now INTEGER NOT NULL,
            PRIMARY KEY (disk, vault),
            FOREIGN KEY (disk, vault) REFERENCES target(disk, vault) ON DELETE CASCADE
        ) STRICT, WITHOUT ROWID;
        INSERT INTO resynchronisation_at SELECT resynchronisation.disk, target.vault, reason, marked, is_now
            FROM resynchronisation JOIN target ON target.disk = resynchronisation.disk;
        DROP TABLE resynchronisation;
        ALTER TABLE resynchronisation_at RENAME TO resynchronisation;
        CREATE TABLE warning_at (
            disk TEXT NOT NULL,
            vault TEXT NOT NULL,
            kind TEXT NOT NULL,
            text TEXT NOT NULL,
            remedy TEXT NOT NULL,
            PRIMARY KEY (disk, vault, kind),
            FOREIGN KEY (disk, vault) REFERENCES target(disk, vault) ON DELETE CASCADE
        ) STRICT, WITHOUT ROWID;
        INSERT INTO warning_at SELECT warning.disk, target.vault, kind, text, remedy FROM warning JOIN target ON target.disk = warning.disk;
        DROP TABLE warning;
        ALTER TABLE warning_at RENAME TO warning;
        """
}
