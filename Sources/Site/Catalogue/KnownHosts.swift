// Vaults that this site has to do with though none of its disks may go there, and which of their other hosts are silent.

import BlockIO
import GRDB

package struct VaultPlace: Equatable, Hashable, Sendable {
    package let id: String
    package let url: String
    package let keyFile: String?
    package let passphraseFile: String?

    package init(id: String, url: String, keyFile: String?, passphraseFile: String?) {
        (self.id, self.url, self.keyFile, self.passphraseFile) = (id, url, keyFile, passphraseFile)
    }
}

package struct SilentHost: Equatable, Sendable {
    package let vault: String
    /// 32 hex digits.
    package let host: String
    package let name: String
    /// Of its last contact.
    package let number: UInt64
    package let sinceNanoseconds: UInt64

    package init(vault: String, host: String, name: String, number: UInt64, sinceNanoseconds: UInt64) {
        (self.vault, self.host, self.name, self.number, self.sinceNanoseconds) = (vault, host, name, number, sinceNanoseconds)
    }
}

extension Catalogue {
    static func createHosts(_ database: Database) throws {
        try database.execute(sql: """
            CREATE TABLE joined_vault (
                id TEXT PRIMARY KEY NOT NULL,
                url TEXT NOT NULL,
                key_file TEXT,
                passphrase_file TEXT
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE silent_host (
                vault TEXT NOT NULL,
                host TEXT NOT NULL,
                name TEXT NOT NULL,
                number INTEGER NOT NULL,
                since INTEGER NOT NULL,
                PRIMARY KEY (vault, host)
            ) STRICT, WITHOUT ROWID;
            """)
    }

    /// From now on this site is a host of that vault, whatever becomes of its disks.
    package func join(_ vault: VaultPlace) throws(SiteError) {
        try write {
            try $0.execute(
                sql: "INSERT OR REPLACE INTO joined_vault (id, url, key_file, passphrase_file) VALUES (?, ?, ?, ?)",
                arguments: [vault.id, vault.url, vault.keyFile, vault.passphraseFile])
        }
    }

    /// Each vault once: where its disks go, else as it was joined.
    package func vaultPlaces() throws(SiteError) -> [VaultPlace] {
        var places: [String: VaultPlace] = [:]
        for disk in try disksAtTargets() where disk.role != .test && places[disk.vaultID] == nil {
            places[disk.vaultID] = VaultPlace(id: disk.vaultID, url: disk.vaultURL, keyFile: disk.keyFile, passphraseFile: disk.passphraseFile)
        }
        let joined = try read { try Row.fetchAll($0, sql: "SELECT * FROM joined_vault") }
        for row in joined where places[row["id"]] == nil {
            places[row["id"]] = VaultPlace(id: row["id"], url: row["url"], keyFile: row["key_file"], passphraseFile: row["passphrase_file"])
        }
        return places.values.sorted { $0.id < $1.id }
    }

    /// The vault at that URL with what opens it here; nil where this site does not know it.
    package func vaultPlace(at url: String) throws(SiteError) -> VaultPlace? {
        if let disk = try disksAtTargets().first(where: { $0.vaultURL == url && $0.role != .test }) {
            return VaultPlace(id: disk.vaultID, url: url, keyFile: disk.keyFile, passphraseFile: disk.passphraseFile)
        }
        return try vaultPlaces().first { $0.url == url }
    }

    package func silentHosts() throws(SiteError) -> [SilentHost] {
        try read {
            try Row.fetchAll($0, sql: "SELECT * FROM silent_host ORDER BY name, host").map {
                SilentHost(
                    vault: $0["vault"], host: $0["host"], name: $0["name"], number: UInt64(bitPattern: $0["number"]), sinceNanoseconds: UInt64(bitPattern: $0["since"]))
            }
        }
    }

    /// Notes it, and records it as an event.
    package func note(silent host: SilentHost, _ text: String) throws(SiteError) {
        try write {
            try $0.execute(
                sql: "INSERT OR REPLACE INTO silent_host (vault, host, name, number, since) VALUES (?, ?, ?, ?, ?)",
                arguments: [host.vault, host.host, host.name, Int64(bitPattern: host.number), Int64(bitPattern: host.sinceNanoseconds)])
        }
        try record(.warning, disk: nil, text)
    }

    package func takeAway(silentHost host: String, vault: String) throws(SiteError) {
        try write { try $0.execute(sql: "DELETE FROM silent_host WHERE vault = ? AND host = ?", arguments: [vault, host]) }
    }
}
