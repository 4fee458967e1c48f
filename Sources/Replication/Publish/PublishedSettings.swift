// The settings of machines on their way: JSON in the catalogue of the site, the same in the catalog of the vault, where a host finds them
// that knows nothing else. Published with the uploader's rounds, and only when they changed.

import BlockIO
import Foundation
package import Site
package import Vault

extension Catalogue {
    /// Those of a machine without any are empty.
    package func settings(ofMachine name: String) throws -> MachineSettings {
        guard let document = try settingsDocument(ofMachine: name) else { return MachineSettings(name: name) }
        return try decode(document, name)
    }

    /// What a vault has of a machine that this site replicates from now on, so that what is changed here begins with it.
    package func adopt(_ settings: MachineSettings, from vaultID: String) throws {
        try set(settings)
        guard let document = try settingsDocument(ofMachine: settings.name) else { return }
        try notePublished(document, ofMachine: settings.name, vaultID: vaultID)
    }

    package func set(_ settings: MachineSettings) throws {
        if let flaw = settings.flaw { throw SiteError(.refused, "the settings of \(settings.name) would have \(flaw)", remedy: "farshore machine set \(settings.name) --help") }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        try setSettingsDocument(String(decoding: try encoder.encode(settings), as: UTF8.self), ofMachine: settings.name)
    }

    /// Gives the vault what it lacks of the settings of machines of this site.
    package func publishSettings(to vault: Vault) throws {
        let new = try unpublishedSettings(vaultID: vault.id.description)
        guard !new.isEmpty else { return }
        let settings = try new.map { try decode($0.document, $0.machine) }
        try vault.updateCatalog { catalog in for one in settings { catalog.set(one) } }
        for (machine, document) in new { try notePublished(document, ofMachine: machine, vaultID: vault.id.description) }
    }

    private func decode(_ document: String, _ name: String) throws -> MachineSettings {
        guard let settings = try? JSONDecoder().decode(MachineSettings.self, from: Data(document.utf8)), settings.name == name, settings.flaw == nil else {
            throw SiteError(.catalogueDamaged, "the settings of \(name) in the catalogue cannot be read", remedy: "farshore machine set \(name) --reset, then give them again")
        }
        return settings
    }
}
