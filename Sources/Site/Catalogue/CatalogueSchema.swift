// The tables of the catalogue, one migration a version of the schema. A released migration is never edited.
// Times are nanoseconds since 1970 by the wall clock and only label; sequences are stored as their bit pattern.

import BlockIO
import GRDB

extension Catalogue {
    static func migrator() -> DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1 disks, jobs, events, presence") { try createFirstTables($0) }
        migrator.registerMigration("2 machines and groups") { try createMachines($0) }
        migrator.registerMigration("3 folders of parents") { try $0.execute(sql: "ALTER TABLE disk ADD COLUMN parent_folders TEXT NOT NULL DEFAULT ''") }
        migrator.registerMigration("4 policies") { try createPolicies($0) }
        migrator.registerMigration("5 resynchronisation") { try createResynchronisation($0) }
        migrator.registerMigration("6 standing warnings") { try createWarnings($0) }
        migrator.registerMigration("7 recovery disks") { try createRoles($0) }
        migrator.registerMigration("8 failovers") { try createFailovers($0) }
        migrator.registerMigration("9 machine settings") { try createMachineSettings($0) }
        migrator.registerMigration("10 kept epochs, resync mark, anomalies") { try addKeptEpochs($0) }
        migrator.registerMigration("11 vaults of hosts") { try createHosts($0) }
        migrator.registerMigration("12 what failovers did") { try addFailoverProgress($0) }
        migrator.registerMigration("13 targets") { try createTargets($0) }
        migrator.registerMigration("14 commands of jobs") { try $0.execute(sql: "ALTER TABLE job ADD COLUMN command TEXT") }
        migrator.registerMigration("15 how long a warning stands") { try $0.execute(sql: "ALTER TABLE warning ADD COLUMN stands_until INTEGER") }
        return migrator
    }

    private static func createFirstTables(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE disk (
                name TEXT PRIMARY KEY NOT NULL,
                id TEXT NOT NULL UNIQUE,
                image_path TEXT NOT NULL UNIQUE,
                format TEXT NOT NULL,
                size_bytes INTEGER NOT NULL,
                log_folder TEXT NOT NULL UNIQUE,
                log_budget_bytes INTEGER NOT NULL,
                interval_seconds INTEGER NOT NULL,
                vault_url TEXT NOT NULL,
                vault_id TEXT NOT NULL,
                key_file TEXT,
                passphrase_file TEXT,
                state TEXT NOT NULL,
                is_paused INTEGER NOT NULL DEFAULT 0,
                created INTEGER NOT NULL
            ) STRICT;
            CREATE TABLE replication (
                disk TEXT PRIMARY KEY NOT NULL REFERENCES disk(name) ON DELETE CASCADE,
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
                remedy TEXT
            ) STRICT;
            """)
        try createJournalTables(database)
    }

    /// A disk protected before is its own machine.
    private static func createMachines(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE replication_group (
                name TEXT PRIMARY KEY NOT NULL,
                id TEXT NOT NULL UNIQUE,
                created INTEGER NOT NULL
            ) STRICT;
            CREATE TABLE machine (
                name TEXT PRIMARY KEY NOT NULL,
                id TEXT NOT NULL UNIQUE,
                replication_group TEXT REFERENCES replication_group(name),
                created INTEGER NOT NULL
            ) STRICT;
            ALTER TABLE disk ADD COLUMN machine TEXT REFERENCES machine(name);
            INSERT INTO machine (name, id, created) SELECT name, lower(hex(randomblob(16))), created FROM disk;
            UPDATE disk SET machine = name;
            """)
    }

    /// The interval of each disk becomes a policy.
    private static func createPolicies(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE policy (
                name TEXT PRIMARY KEY NOT NULL,
                parent TEXT REFERENCES policy(name) ON DELETE CASCADE,
                interval_seconds INTEGER NOT NULL,
                point_seconds INTEGER NOT NULL,
                retention TEXT NOT NULL,
                rpo_seconds INTEGER,
                bandwidth TEXT NOT NULL,
                compression TEXT NOT NULL,
                created INTEGER NOT NULL
            ) STRICT;
            """)
        let intervals = try Int.fetchAll(database, sql: "SELECT DISTINCT interval_seconds FROM disk WHERE interval_seconds <> ?", arguments: [Policy.standard.intervalSeconds])
        for policy in [Policy.standard] + intervals.map({ Policy(name: "every-\($0)s", intervalSeconds: $0) }) {
            // What was kept for ever before goes on to be, until somebody decides otherwise.
            var kept = policy
            if try Bool.fetchOne(database, sql: "SELECT EXISTS (SELECT 1 FROM disk)") == true { kept.retention = .everything }
            for policy in [kept, Policy(name: kept.failbackName, parent: kept.name, intervalSeconds: kept.intervalSeconds, retention: kept.retention)] {
                try database.execute(
                    sql: """
                        INSERT INTO policy (name, parent, created, interval_seconds, point_seconds, retention, rpo_seconds, bandwidth, compression)
                        VALUES (?, ?, ?, ?, ?, ?, NULL, 'unlimited', 'auto')
                        """,
                    arguments: [
                        policy.name, policy.parent, Int64(bitPattern: Clock.wallNanoseconds()), policy.intervalSeconds, policy.pointSeconds, policy.retention.text,
                    ])
            }
        }
        try database.execute(sql: """
            ALTER TABLE disk ADD COLUMN policy TEXT REFERENCES policy(name);
            UPDATE disk SET policy = CASE interval_seconds WHEN \(Policy.standard.intervalSeconds) THEN '\(Policy.defaultName)' ELSE 'every-' || interval_seconds || 's' END;
            ALTER TABLE disk DROP COLUMN interval_seconds;
            """)
    }

    private static func createResynchronisation(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE resynchronisation (
                disk TEXT PRIMARY KEY NOT NULL REFERENCES disk(name) ON DELETE CASCADE,
                reason TEXT NOT NULL,
                marked INTEGER NOT NULL,
                is_now INTEGER NOT NULL
            ) STRICT;
            ALTER TABLE policy ADD COLUMN resync_window TEXT NOT NULL DEFAULT '18:00-06:00';
            ALTER TABLE policy ADD COLUMN when_full TEXT NOT NULL DEFAULT 'refuse';
            """)
    }

    private static func createWarnings(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE warning (
                disk TEXT NOT NULL REFERENCES disk(name) ON DELETE CASCADE,
                kind TEXT NOT NULL,
                text TEXT NOT NULL,
                remedy TEXT NOT NULL,
                PRIMARY KEY (disk, kind)
            ) STRICT, WITHOUT ROWID;
            """)
    }

    private static func createRoles(_ database: Database) throws {
        try database.execute(sql: """
            ALTER TABLE disk ADD COLUMN role TEXT NOT NULL DEFAULT 'source';
            ALTER TABLE policy ADD COLUMN download TEXT NOT NULL DEFAULT 'unlimited';
            """)
    }

    private static func createMachineSettings(_ database: Database) throws {
        try database.execute(sql: """
            ALTER TABLE policy ADD COLUMN app_seconds INTEGER;
            CREATE TABLE machine_settings (
                machine TEXT PRIMARY KEY NOT NULL REFERENCES machine(name) ON DELETE CASCADE,
                document TEXT NOT NULL,
                published TEXT
            ) STRICT, WITHOUT ROWID;
            """)
    }

    private static func addKeptEpochs(_ database: Database) throws {
        try database.execute(sql: """
            ALTER TABLE replication ADD COLUMN kept_epoch INTEGER;
            ALTER TABLE replication ADD COLUMN kept_group TEXT;
            ALTER TABLE policy ADD COLUMN resync_percent INTEGER NOT NULL DEFAULT 50;
            ALTER TABLE policy ADD COLUMN anomaly TEXT NOT NULL DEFAULT 'pin';
            """)
    }

    /// Jobs, events, and the presence of chunks in vaults.
    private static func createJournalTables(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE job (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                kind TEXT NOT NULL,
                disk TEXT,
                state TEXT NOT NULL,
                process INTEGER NOT NULL,
                process_start TEXT NOT NULL,
                done_bytes INTEGER NOT NULL DEFAULT 0,
                total_bytes INTEGER NOT NULL DEFAULT 0,
                error TEXT,
                remedy TEXT,
                started INTEGER NOT NULL,
                ended INTEGER
            ) STRICT;
            CREATE TABLE job_step (
                job INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
                number INTEGER NOT NULL,
                name TEXT NOT NULL,
                state TEXT NOT NULL,
                detail TEXT,
                PRIMARY KEY (job, number)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE event (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                time INTEGER NOT NULL,
                severity TEXT NOT NULL,
                disk TEXT,
                text TEXT NOT NULL
            ) STRICT;
            CREATE TABLE chunk (
                vault TEXT NOT NULL,
                id BLOB NOT NULL,
                epoch INTEGER NOT NULL,
                state INTEGER NOT NULL,
                PRIMARY KEY (vault, id)
            ) STRICT, WITHOUT ROWID;
            CREATE INDEX chunk_in_flight ON chunk(vault) WHERE state = 0;
            """)
    }
}
