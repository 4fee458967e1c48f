// The settings of machines as the JSON text that vaults keep too (Sources/Vault/Metadata/MachineSettings.swift says what stands in it),
// and which text each vault was given last: only a change is published, so that two sites never undo each other's.

import BlockIO
import GRDB

extension Catalogue {
    /// Nil for a machine without settings.
    package func settingsDocument(ofMachine name: String) throws(SiteError) -> String? {
        try read { try String.fetchOne($0, sql: "SELECT document FROM machine_settings WHERE machine = ?", arguments: [name]) }
    }

    package func setSettingsDocument(_ document: String, ofMachine name: String) throws(SiteError) {
        _ = try machine(named: name)
        try write {
            try $0.execute(
                sql: "INSERT INTO machine_settings (machine, document) VALUES (?, ?) ON CONFLICT (machine) DO UPDATE SET document = excluded.document",
                arguments: [name, document])
        }
    }

    /// Settings that the vault of the machine's disks was not given yet.
    package func unpublishedSettings(vaultID: String) throws(SiteError) -> [(machine: String, document: String)] {
        try read { database in
            try Row.fetchAll(
                database,
                sql: """
                    SELECT machine, document FROM machine_settings
                    WHERE machine IN (SELECT machine FROM disk JOIN target ON target.disk = disk.name WHERE target.vault = ?1)
                    AND NOT EXISTS (SELECT 1 FROM published_settings AS known WHERE known.machine = machine_settings.machine AND known.vault = ?1 AND known.document = machine_settings.document)
                    ORDER BY machine
                    """,
                arguments: [vaultID]
            ).map { ($0["machine"], $0["document"]) }
        }
    }

    package func notePublished(_ document: String, ofMachine name: String, vaultID: String) throws(SiteError) {
        try write {
            try $0.execute(sql: "INSERT OR REPLACE INTO published_settings (machine, vault, document) VALUES (?, ?, ?)", arguments: [name, vaultID, document])
        }
    }
}
