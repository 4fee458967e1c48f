// Makes the catalogue of a site anew: which disks, machines, groups and settings there are the vault says; where their logs are is looked for; the
// folder of a log says where its image is and which policy it had. Each disk is held against the vault and the log before it is registered, and
// what does not fit is named, never guessed. The caller holds the locks of mount and uploader. Nothing is written to the vault.

import BlockIO
import ChangeLog
package import DiskImage
import Foundation
import RecoveryPoints
import Replication
package import Site
package import Vault

package struct SiteRebuild {
    package struct Request {
        package var vaultURL: String
        package var keyFile: String?
        package var passphraseFile: String?
        /// Where a person says that the image of a disk is, by the disk's name.
        package var images: [String: (path: String, format: ImageFormat)]
        package var parentFolders: [String]
        /// Disks are registered also where others that share their points were not found.
        package var isPartial: Bool

        package init(
            vaultURL: String, keyFile: String? = nil, passphraseFile: String? = nil, images: [String: (path: String, format: ImageFormat)] = [:], parentFolders: [String] = [],
            isPartial: Bool = false
        ) {
            (self.vaultURL, self.keyFile, self.passphraseFile) = (vaultURL, keyFile, passphraseFile)
            (self.images, self.parentFolders, self.isPartial) = (images, parentFolders, isPartial)
        }
    }

    package struct Restored: Equatable, Sendable {
        package let disk: String
        package let image: String
        package let logFolder: String
        /// Registered by this call; else it was there already.
        package let isNew: Bool
    }

    /// What was not brought back, and what helps.
    package struct Missing: Error, Equatable, Sendable {
        package let subject: String
        package let reason: String
        package let remedy: String
    }

    package struct Outcome: Sendable {
        package var restored: [Restored] = []
        package var missing: [Missing] = []
        package var warnings: [String] = []
    }

    /// Where nothing says how long points were kept, none go.
    package static let policyOfUnknown = "rebuilt"

    let catalogue: Catalogue
    let vault: Vault
    let host: VaultID
    let request: Request

    package init(catalogue: Catalogue, vault: Vault, host: VaultID, _ request: Request) {
        (self.catalogue, self.vault, self.host, self.request) = (catalogue, vault, host, request)
    }

    /// The hosts that wrote the disks of these logs last, as heads name them: one of them this site was.
    package static func writers(of logs: [FoundLog], in vault: Vault) throws -> [(id: VaultID, name: String)] {
        let catalog = try vault.catalog().document
        let groups = Set(catalog.disks.filter { disk in logs.contains { $0.state.diskID.description == disk.id.description } }.map(\.group))
        var found: [VaultID: String] = [:]
        for group in groups {
            if let writer = try vault.heads(group: group).newest()?.document.writer, let id = writer.id { found[id] = writer.host }
        }
        return found.sorted { $0.key.description < $1.key.description }.map { ($0.key, $0.value) }
    }

    /// Repeatable: disks that the catalogue has stay as they are.
    package func run(_ search: LogSearch) throws -> Outcome {
        let catalog = try vault.catalog().document
        var outcome = Outcome()
        outcome.missing = search.unreadable.map {
            Missing(subject: $0.folder, reason: "it cannot be read: \($0.reason)", remedy: "docs/operating/recovering.md says what a damaged log means")
        }
        let own = try sorted(search.logs, catalog, &outcome)
        try raiseSequences(above: search.logs)
        for group in Set(catalog.disks.map(\.group)).sorted(by: { $0.description < $1.description }) {
            try rebuild(catalog.disks(inGroup: group).sorted { $0.name < $1.name }, catalog, own, &outcome)
        }
        try adoptSettings(catalog)
        outcome.restored.sort { $0.disk < $1.disk }
        return outcome
    }

    /// The logs of disks that this vault has, by the disk's id.
    private func sorted(_ logs: [FoundLog], _ catalog: Catalog, _ outcome: inout Outcome) throws -> [String: [FoundLog]] {
        var own: [String: [FoundLog]] = [:]
        // What goes to no vault is of a test failover.
        for log in logs where log.registration?.diskRole != .test && !log.state.targets.isEmpty {
            let id = log.state.diskID.description
            if catalog.disks.contains(where: { $0.id.description == id }) {
                own[id, default: []].append(log)
            } else {
                let (others, name) = (log.state.targets.filter { $0 != vault.id.description }, log.registration?.name ?? id)
                outcome.missing.append(others.isEmpty
                    ? Missing(subject: name, reason: "the vault does not know the disk of \(log.folder.path)", remedy: "protect its image anew, under a log folder of its own")
                    : Missing(subject: name, reason: "\(log.folder.path) goes to the vault \(others.joined(separator: ", "))", remedy: "farshore site rebuild --vault URL, with that vault too"))
            }
        }
        return own
    }

    /// No number is used twice, whatever became of the site's own count.
    private func raiseSequences(above logs: [FoundLog]) throws {
        guard let newest = logs.map(\.newestSequence).max() else { return }
        try Sequencer(path: catalogue.site.sequencePath).raise(above: newest)
    }

    /// The disks of one group of the vault: registered together, for they share points.
    private func rebuild(_ disks: [Catalog.Disk], _ catalog: Catalog, _ logs: [String: [FoundLog]], _ outcome: inout Outcome) throws {
        let known = try catalogue.disks()
        let there = disks.compactMap { disk in known.first { $0.id == disk.id.description } }
        outcome.restored += there.map { Restored(disk: $0.name, image: $0.imagePath, logFolder: $0.logFolder, isNew: false) }
        let lost = disks.filter { disk in !there.contains { $0.id == disk.id.description } }
        let head = try vault.heads(group: disks[0].group).newest()?.document
        let isOwn = head.map { $0.writer.id == host && LifeCyclePlace(of: host, in: $0.lifeCycle, protectsHere: false) != .former } ?? false
        guard !lost.isEmpty, isOwn || lost.contains(where: { logs[$0.id.description] != nil }) else { return }
        let unit = GroupRebuild(self, catalog, head, disks)
        var (found, missing): ([GroupRebuild.Found], [Missing]) = ([], [])
        for disk in lost {
            do { found.append(try unit.examine(disk, logs[disk.id.description] ?? [])) } catch let error as Missing { missing.append(error) }
        }
        outcome.missing += missing
        guard !found.isEmpty else { return }
        guard missing.isEmpty || request.isPartial else {
            outcome.missing += found.map {
                Missing(
                    subject: $0.disk.name, reason: "it shares points with \(missing.map(\.subject).joined(separator: ", ")), which is not found",
                    remedy: "the same command with what is missing; with --partial the others go on in a group of their own")
            }
            return
        }
        let differing: [String]
        do { differing = try unit.register(found, besides: there) } catch let error as SiteError {
            // The catalogue itself fails, or something in it has a name or file that is needed.
            guard [.diskExists, .groupExists, .refused].contains(error.code) else { throw error }
            outcome.missing += found.map { Missing(subject: $0.disk.name, reason: error.message, remedy: error.remedy) }
            return
        }
        outcome.warnings += differing.map { "the policy \($0) that \(unit.name) had differs from the one of that name here, which stays: farshore policy show \($0)" }
        outcome.warnings += found.flatMap(\.warnings)
        outcome.restored += found.map { Restored(disk: $0.disk.name, image: $0.disk.imagePath, logFolder: $0.disk.logFolder, isNew: true) }
    }

    /// Of machines that have none here.
    private func adoptSettings(_ catalog: Catalog) throws {
        for machine in try catalogue.machines() {
            guard let settings = catalog.settings(ofMachine: machine.name), try catalogue.settingsDocument(ofMachine: machine.name) == nil else { continue }
            try catalogue.adopt(settings, from: vault.id.description)
        }
    }
}
