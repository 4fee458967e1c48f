// Failovers, preparations and tests of this site: what a killed command needs to go on. Where a failover stands is in the vault's head;
// here is what only this host knows of it: which vault and key, where its disks lie, and which of them were made.

import BlockIO
import GRDB

package struct FailoverRecord: Equatable, Sendable {
    package enum Kind: String, Sendable { case preparation, failover, test }

    /// A recovery disk that was made, and the state it began with.
    package struct Disk: Equatable, Sendable {
        /// As the site's catalogue has it.
        package let name: String
        /// In vaults, 32 hex digits.
        package let id: String
        package let lineage: String
        package let sequence: UInt64

        package init(name: String, id: String, lineage: String, sequence: UInt64) {
            self.name = name
            self.id = id
            self.lineage = lineage
            self.sequence = sequence
        }
    }

    /// Random, 32 hex digits: `run` in heads, and in the names of pins.
    package let run: String
    package let kind: Kind
    /// Of a test, else the unit's.
    package let name: String
    package let unit: String
    /// The group in the vault.
    package let group: String
    package let vaultURL: String
    package let vaultID: String
    package let keyFile: String?
    package let passphraseFile: String?
    /// As it was asked for.
    package let point: String
    package let isPlanned: Bool
    /// Where its disks, or its site, lie.
    package let folder: String
    package let createdNanoseconds: UInt64
    package var endedNanoseconds: UInt64?
    /// How it ended; the notes of whoever cleaned up.
    package var note: String?
    /// Of a test; nil while it is being made, or was killed in that.
    package private(set) var verdict: Verdict?
    /// What was wrong with a bad one.
    package private(set) var finding: String?

    package enum Verdict: String, Sendable { case good, bad }

    package init(
        run: String, kind: Kind, name: String, unit: String, group: String, vaultURL: String, vaultID: String, keyFile: String?, passphraseFile: String?,
        point: String, isPlanned: Bool, folder: String
    ) {
        self.run = run
        self.kind = kind
        self.name = name
        self.unit = unit
        self.group = group
        self.vaultURL = vaultURL
        self.vaultID = vaultID
        self.keyFile = keyFile
        self.passphraseFile = passphraseFile
        self.point = point
        self.isPlanned = isPlanned
        self.folder = folder
        createdNanoseconds = Clock.wallNanoseconds()
    }

    /// Of a recovery disk.
    package static func imagePath(ofDisk name: String, in folder: String) -> String { "\(folder)/\(name).raw" }

    init(row: Row) throws {
        run = row["run"]
        kind = try storedName(row["kind"])
        name = row["name"]
        unit = row["unit"]
        group = row["group_id"]
        vaultURL = row["vault_url"]
        vaultID = row["vault_id"]
        keyFile = row["key_file"]
        passphraseFile = row["passphrase_file"]
        point = row["point"]
        isPlanned = row["is_planned"]
        folder = row["folder"]
        createdNanoseconds = UInt64(bitPattern: row["created"])
        endedNanoseconds = (row["ended"] as Int64?).map(UInt64.init(bitPattern:))
        note = row["note"]
        verdict = try (row["verdict"] as String?).map { try storedName($0) }
        finding = row["finding"]
    }
}

extension Catalogue {
    static func createFailovers(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE failover (
                run TEXT PRIMARY KEY NOT NULL,
                kind TEXT NOT NULL,
                name TEXT NOT NULL,
                unit TEXT NOT NULL,
                group_id TEXT NOT NULL,
                vault_url TEXT NOT NULL,
                vault_id TEXT NOT NULL,
                key_file TEXT,
                passphrase_file TEXT,
                point TEXT NOT NULL,
                is_planned INTEGER NOT NULL,
                folder TEXT NOT NULL,
                created INTEGER NOT NULL,
                ended INTEGER,
                note TEXT
            ) STRICT;
            CREATE UNIQUE INDEX failover_open ON failover(kind, name) WHERE ended IS NULL;
            CREATE TABLE failover_disk (
                run TEXT NOT NULL REFERENCES failover(run) ON DELETE CASCADE,
                name TEXT NOT NULL,
                id TEXT NOT NULL,
                lineage TEXT NOT NULL,
                sequence INTEGER NOT NULL,
                PRIMARY KEY (run, id)
            ) STRICT, WITHOUT ROWID;
            ALTER TABLE disk ADD COLUMN held TEXT;
            """)
    }

    static func addFailoverProgress(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE failover_started (
                run TEXT NOT NULL REFERENCES failover(run) ON DELETE CASCADE,
                machine TEXT NOT NULL,
                PRIMARY KEY (run, machine)
            ) STRICT, WITHOUT ROWID;
            ALTER TABLE failover ADD COLUMN verdict TEXT;
            ALTER TABLE failover ADD COLUMN finding TEXT;
            ALTER TABLE disk ADD COLUMN left_image TEXT;
            ALTER TABLE disk ADD COLUMN left_log TEXT;
            """)
    }

    /// One of a kind and name at a time is open.
    package func begin(_ record: FailoverRecord) throws(SiteError) { try write { try Self.begin(record, $0) } }

    static func begin(_ record: FailoverRecord, _ database: Database) throws {
        guard try String.fetchOne(database, sql: "SELECT run FROM failover WHERE kind = ? AND name = ? AND ended IS NULL", arguments: [record.kind.rawValue, record.name]) == nil else {
            throw SiteError(.refused, "there is a \(record.kind.rawValue) named \(record.name) on this site already", remedy: "farshore failover tests, or farshore failover show \(record.unit)")
        }
        try database.execute(
            sql: """
                INSERT OR REPLACE INTO failover (run, kind, name, unit, group_id, vault_url, vault_id, key_file, passphrase_file, point, is_planned, folder, created)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
            arguments: [
                record.run, record.kind.rawValue, record.name, record.unit, record.group, record.vaultURL, record.vaultID, record.keyFile, record.passphraseFile,
                record.point, record.isPlanned, record.folder, Int64(bitPattern: record.createdNanoseconds),
            ])
    }

    /// Those that have not ended, oldest first.
    package func openFailovers(_ kind: FailoverRecord.Kind) throws(SiteError) -> [FailoverRecord] {
        try read {
            try Row.fetchAll($0, sql: "SELECT * FROM failover WHERE kind = ? AND ended IS NULL ORDER BY created", arguments: [kind.rawValue]).map(FailoverRecord.init(row:))
        }
    }

    /// Whether a test of the group was ever cleaned up on this site.
    package func wasTested(group: String) throws(SiteError) -> Bool {
        try read { try Bool.fetchOne($0, sql: "SELECT EXISTS (SELECT 1 FROM failover WHERE kind = 'test' AND group_id = ?)", arguments: [group]) ?? false }
    }

    /// Another point was chosen.
    package func setPoint(_ point: String, ofFailover run: String) throws(SiteError) {
        try write { try $0.execute(sql: "UPDATE failover SET point = ? WHERE run = ?", arguments: [point, run]) }
    }

    /// Machines whose start command has succeeded, so that a repeated run does not start them again.
    package func startedMachines(ofFailover run: String) throws(SiteError) -> Set<String> {
        try read { try String.fetchSet($0, sql: "SELECT machine FROM failover_started WHERE run = ?", arguments: [run]) }
    }

    package func noteStarted(_ machine: String, ofFailover run: String) throws(SiteError) {
        try write { try $0.execute(sql: "INSERT OR IGNORE INTO failover_started (run, machine) VALUES (?, ?)", arguments: [run, machine]) }
    }

    /// Their guests were stopped.
    package func forgetStarted(ofFailover run: String) throws(SiteError) {
        try write { try $0.execute(sql: "DELETE FROM failover_started WHERE run = ?", arguments: [run]) }
    }

    package func setVerdict(_ verdict: FailoverRecord.Verdict?, finding: String?, ofTest run: String) throws(SiteError) {
        try write { try $0.execute(sql: "UPDATE failover SET verdict = ?, finding = ? WHERE run = ?", arguments: [verdict?.rawValue, finding, run]) }
    }

    package func end(failover run: String, note: String?) throws(SiteError) {
        try write {
            try $0.execute(
                sql: "UPDATE failover SET ended = ?, note = ? WHERE run = ? AND ended IS NULL", arguments: [Int64(bitPattern: Clock.wallNanoseconds()), note, run])
        }
    }

    package func disks(ofFailover run: String) throws(SiteError) -> [FailoverRecord.Disk] {
        try read {
            try Row.fetchAll($0, sql: "SELECT * FROM failover_disk WHERE run = ? ORDER BY name", arguments: [run]).map {
                FailoverRecord.Disk(name: $0["name"], id: $0["id"], lineage: $0["lineage"], sequence: UInt64(bitPattern: $0["sequence"]))
            }
        }
    }

    /// Its image is one that a failover made: the name alone would be that of another disk too, the id that of its home.
    package func wasMadeByFailover(_ disk: ProtectedDisk) throws(SiteError) -> Bool {
        try read {
            try Row.fetchAll(
                $0, sql: "SELECT failover_disk.name AS name, folder FROM failover_disk JOIN failover USING (run) WHERE kind = 'failover' AND failover_disk.id = ?", arguments: [disk.id]
            ).contains { FailoverRecord.imagePath(ofDisk: $0["name"], in: $0["folder"]) == disk.imagePath }
        }
    }

    /// All of them or none: some alone would pass for the whole unit.
    package func note(_ disks: [FailoverRecord.Disk], ofFailover run: String) throws(SiteError) {
        try write { database in for disk in disks { try Self.note(disk, ofFailover: run, database) } }
    }

    static func note(_ disk: FailoverRecord.Disk, ofFailover run: String, _ database: Database) throws {
        try database.execute(
            sql: "INSERT OR REPLACE INTO failover_disk (run, name, id, lineage, sequence) VALUES (?, ?, ?, ?, ?)",
            arguments: [run, disk.name, disk.id, disk.lineage, Int64(bitPattern: disk.sequence)])
    }

    package func forget(_ disk: FailoverRecord.Disk, ofFailover run: String) throws(SiteError) {
        try write { try $0.execute(sql: "DELETE FROM failover_disk WHERE run = ? AND id = ?", arguments: [run, disk.id]) }
    }

    /// Tests that were not cleaned up for `days`; each is an event once.
    package func forgottenTests(days: UInt64 = 7) throws(SiteError) -> [FailoverRecord] {
        let now = Clock.wallNanoseconds()
        let old = try openFailovers(.test).filter { now - min(now, $0.createdNanoseconds) > days * 86_400_000_000_000 }
        for test in old where test.note == nil {
            try write { try $0.execute(sql: "UPDATE failover SET note = 'forgotten' WHERE run = ?", arguments: [test.run]) }
            try record(.warning, disk: nil, "the test failover \(test.name) of \(test.unit) is older than \(days) days and pins a point: farshore failover cleanup \(test.name)")
        }
        return old
    }

    /// Why the mount does not serve the disk; nil: it does.
    package func hold(disk name: String, reason: String?) throws(SiteError) {
        try write { try $0.execute(sql: "UPDATE disk SET held = ? WHERE name = ?", arguments: [reason, name]) }
    }
}
