// The settings of machines as the JSON text that vaults keep too (Sources/Vault/Metadata/MachineSettings.swift says what stands in it),
// and which text the vault was given last: only a change is published, so that two sites never undo each other's.

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
                    SELECT machine, document FROM machine_settings WHERE (published IS NULL OR published <> document)
                    AND machine IN (SELECT machine FROM disk WHERE vault_id = ?) ORDER BY machine
                    """,
                arguments: [vaultID]
            ).map { ($0["machine"], $0["document"]) }
        }
    }

    package func notePublished(_ document: String, ofMachine name: String) throws(SiteError) {
        try write { try $0.execute(sql: "UPDATE machine_settings SET published = ? WHERE machine = ?", arguments: [document, name]) }
    }
}
