import Foundation
import GRDB
import Site
import Testing

/// What makes a catalogue one of the version before targets.
let undoTargets = """
    PRAGMA foreign_keys = OFF;
    ALTER TABLE disk ADD COLUMN vault_url TEXT NOT NULL DEFAULT '';
    ALTER TABLE disk ADD COLUMN vault_id TEXT NOT NULL DEFAULT '';
    ALTER TABLE disk ADD COLUMN key_file TEXT;
    ALTER TABLE disk ADD COLUMN passphrase_file TEXT;
    ALTER TABLE disk ADD COLUMN policy TEXT REFERENCES policy(name);
    ALTER TABLE disk ADD COLUMN is_paused INTEGER NOT NULL DEFAULT 0;
    UPDATE disk SET (vault_url, vault_id, key_file, passphrase_file, policy, is_paused) =
        (SELECT url, vault, key_file, passphrase_file, policy, is_paused FROM target WHERE target.disk = disk.name);
    CREATE TABLE replication_before (disk TEXT PRIMARY KEY NOT NULL REFERENCES disk(name) ON DELETE CASCADE, phase TEXT NOT NULL, lineage TEXT, proven_sequence INTEGER,
        proven_at INTEGER, head_number INTEGER, writer_epoch INTEGER, failures INTEGER NOT NULL DEFAULT 0, next_attempt INTEGER, health TEXT NOT NULL, error TEXT, remedy TEXT,
        kept_epoch INTEGER, kept_group TEXT) STRICT;
    INSERT INTO replication_before SELECT disk, phase, lineage, proven_sequence, proven_at, head_number, writer_epoch, failures, next_attempt, health, error, remedy, kept_epoch, kept_group
        FROM replication;
    DROP TABLE replication;
    ALTER TABLE replication_before RENAME TO replication;
    CREATE TABLE resynchronisation_before (disk TEXT PRIMARY KEY NOT NULL REFERENCES disk(name) ON DELETE CASCADE, reason TEXT NOT NULL, marked INTEGER NOT NULL,
        is_now INTEGER NOT NULL) STRICT;
    INSERT INTO resynchronisation_before SELECT disk, reason, marked, is_now FROM resynchronisation;
    DROP TABLE resynchronisation;
    ALTER TABLE resynchronisation_before RENAME TO resynchronisation;
    DROP TABLE warning;
    CREATE TABLE warning (disk TEXT NOT NULL REFERENCES disk(name) ON DELETE CASCADE, kind TEXT NOT NULL, text TEXT NOT NULL, remedy TEXT NOT NULL,
        PRIMARY KEY (disk, kind)) STRICT, WITHOUT ROWID;
    ALTER TABLE machine_settings ADD COLUMN published TEXT;
    UPDATE machine_settings SET published = (SELECT document FROM published_settings AS known WHERE known.machine = machine_settings.machine);
    DROP TABLE published_settings;
    ALTER TABLE event DROP COLUMN vault;
    ALTER TABLE job DROP COLUMN vault;
    DROP TABLE target;
    DELETE FROM grdb_migrations WHERE identifier = '13 targets';
    """

@Suite struct TargetTests {
    private let second = NewTarget(url: "s3://b/v", vaultID: "w", keyFile: nil, passphraseFile: "/keys/p", policy: "hourly")

    private func catalogue() throws -> Catalogue {
        let catalogue = try TemporarySite().catalogue()
        _ = try catalogue.addPolicy(named: "hourly", PolicyChange(intervalSeconds: 3_600, pointSeconds: 10))
        for name in ["a", "b"] { try catalogue.add(makeDisk(name)) }
        return catalogue
    }

    @Test func aDiskIsKnownAtEachOfItsTargets() throws {
        let catalogue = try catalogue()
        try catalogue.addTarget(second, toDisks: ["a"], resynchronised: ["a"])
        let targets = try catalogue.targets(ofDisk: "a")
        #expect(targets.map(\.vaultURL) == ["file:///vault", "s3://b/v"])
        #expect(targets.map(\.isFirstTarget) == [true, false])
        #expect(targets.map(\.policy.name) == ["default", "hourly"])
        #expect(targets[1].passphraseFile == "/keys/p")
        // Points are cut as often as any of them says.
        #expect(try catalogue.disk(named: "a").pointSeconds == 10)
        #expect(try catalogue.consistencyGroup(ofDisk: "a").pointSeconds == 10)
        #expect(try catalogue.disksAtTargets().map { $0.name + $0.vaultID } == ["av", "aw", "bv"])
        #expect(try catalogue.vaultPlaces().map(\.id) == ["v", "w"])
        #expect(try catalogue.vaultPlace(at: "s3://b/v")?.passphraseFile == "/keys/p" && catalogue.vaultPlace(at: "s3://b/other") == nil)
        try catalogue.join(VaultPlace(id: "j", url: "file:///j", keyFile: "/j.key", passphraseFile: nil))
        #expect(try catalogue.vaultPlace(at: "file:///j")?.keyFile == "/j.key")
        #expect(try catalogue.resynchronisation(ofDisk: "a") == nil)
        #expect(try catalogue.resynchronisation(ofDisk: "a", at: "w")?.isNow == true)

        var state = try catalogue.replication(ofDisk: "a", at: "w")
        (state.phase, state.provenSequence, state.failures) = (.delta, 9, 2)
        try catalogue.setReplication(state, ofDisk: "a", at: "w")
        #expect(try catalogue.replication(ofDisk: "a").provenSequence == nil)
        #expect(try catalogue.newestProven(ofDisk: "a") == 9)
        try catalogue.setPaused(true, disk: "a", vault: "s3://b/v")
        try catalogue.assignPolicy(named: "default", disks: ["a"], vault: "s3://b/v")
        try catalogue.set(StandingWarning(kind: .lag, text: "t", remedy: "r"), of: targets[1])
        #expect(try catalogue.targets(ofDisk: "a").map(\.isPaused) == [false, true])
        #expect(try catalogue.disk(named: "a", at: "w").policy.name == "default")
        #expect(try catalogue.warnings(ofDisk: "a").isEmpty)
        #expect(try catalogue.events(limit: 1).first?.vault == "s3://b/v")
        #expect { try catalogue.disk(named: "a", vault: "s3://c") } throws: { ($0 as? SiteError)?.code == .targetNotFound }
        #expect { try catalogue.setPaused(true, disk: "b", vault: "s3://b/v") } throws: { ($0 as? SiteError)?.code == .targetNotFound }
        #expect { try catalogue.assignPolicy(named: "default", disks: ["b"], vault: "s3://b/v") } throws: { ($0 as? SiteError)?.code == .targetNotFound }

        // The next one becomes the first; the last one stays.
        try catalogue.removeTarget(vault: "v", ofDisks: ["a"])
        #expect(try catalogue.disk(named: "a").vaultID == "w")
        #expect(try catalogue.replication(ofDisk: "a").provenSequence == 9)
        #expect { try catalogue.removeTarget(vault: "w", ofDisks: ["a"]) } throws: { ($0 as? SiteError)?.code == .refused }
        try catalogue.remove(disk: "a")
        #expect(try catalogue.disksAtTargets().map(\.name) == ["b"])
    }

    @Test func disksThatSharePointsHaveTheSameTargets() throws {
        let catalogue = try catalogue()
        try catalogue.addGroup(named: "g", machines: ["a", "b"])
        #expect { try catalogue.addTarget(second, toDisks: ["a"]) } throws: { ($0 as? SiteError)?.code == .refused }
        #expect(try catalogue.targets(ofDisk: "a").count == 1)
        try catalogue.addTarget(second, toDisks: ["a", "b"])
        #expect { try catalogue.removeTarget(vault: "v", ofDisks: ["b"]) } throws: { ($0 as? SiteError)?.code == .refused }
        try catalogue.add(makeDisk("c"))
        #expect { try catalogue.put(machines: ["c"], inGroup: "g") } throws: { ($0 as? SiteError)?.code == .refused }
        try catalogue.addTarget(second, toDisks: ["c"])
        try catalogue.put(machines: ["c"], inGroup: "g")
    }

    @Test func aDiskHasEightTargetsAtMost() throws {
        let catalogue = try catalogue()
        func target(_ number: Int) -> NewTarget { NewTarget(url: "s3://\(number)", vaultID: "\(number)", keyFile: nil, passphraseFile: nil, policy: "default") }
        for number in 1..<ProtectedDisk.targetsMax { try catalogue.addTarget(target(number), toDisks: ["a"]) }
        #expect { try catalogue.addTarget(target(8), toDisks: ["a"]) } throws: { ($0 as? SiteError)?.code == .refused }
    }

    @Test func settingsOfAMachineGoToEachVault() throws {
        let catalogue = try catalogue()
        try catalogue.addTarget(second, toDisks: ["a"])
        try catalogue.setSettingsDocument("{}", ofMachine: "a")
        try catalogue.notePublished("{}", ofMachine: "a", vaultID: "v")
        #expect(try catalogue.unpublishedSettings(vaultID: "v").isEmpty)
        #expect(try catalogue.unpublishedSettings(vaultID: "w").map(\.machine) == ["a"])
    }

    @Test func theVaultOfAnOlderCatalogueBecomesTheFirstTarget() throws {
        let site = try TemporarySite()
        let (before, state): (ProtectedDisk, ReplicationState)
        do {
            let catalogue = try site.catalogue()
            try catalogue.add(makeDisk("a"))
            try catalogue.setPaused(true, disk: "a")
            var known = try catalogue.replication(ofDisk: "a")
            (known.phase, known.provenSequence, known.keptEpoch) = (.resynchronisation, 7, ReplicationState.KeptEpoch(epoch: 3, group: "g"))
            try catalogue.setReplication(known, ofDisk: "a")
            try catalogue.markResynchronisation(ofDisk: "a", reason: "test")
            try catalogue.setSettingsDocument("{}", ofMachine: "a")
            try catalogue.notePublished("{}", ofMachine: "a", vaultID: "v")
            (before, state) = (try catalogue.disk(named: "a"), known)
        }
        let raw = try DatabaseQueue(path: site.directory.cataloguePath)
        try raw.writeWithoutTransaction { try $0.execute(sql: undoTargets) }
        try raw.close()
        let catalogue = try site.catalogue()
        #expect(try catalogue.disksAtTargets() == [before])
        #expect(try catalogue.replication(ofDisk: "a") == state)
        #expect(try catalogue.resynchronisation(ofDisk: "a")?.reason == "test")
        #expect(try catalogue.unpublishedSettings(vaultID: "v").isEmpty)
    }
}
