// Brings a site to what a file says, item by item: what is so already is left alone, what is refused keeps no other item from being done.

import ArgumentParser
import Failover
import Foundation
import Replication
import Site
import Vault

struct AppliedItem: Encodable {
    enum Outcome: String, Encodable { case made, changed, same, refused }

    let kind: String
    let name: String
    let outcome: Outcome
    /// What is different afterwards, for people.
    let changes: [String]
    let error: String?
    let remedy: String?
}

struct SiteChanges {
    typealias Outcome = (AppliedItem.Outcome, [String])

    let file: SiteFile
    let site: SiteOptions
    let catalogue: Catalogue
    let isDryRun: Bool

    /// In this order each item finds what it names.
    func apply() -> [AppliedItem] {
        var items: [AppliedItem] = []
        func item(_ kind: String, _ name: String, _ work: () throws -> Outcome) {
            do {
                let (outcome, changes) = try work()
                items.append(AppliedItem(kind: kind, name: name, outcome: outcome, changes: changes, error: nil, remedy: nil))
            } catch {
                // The parser's own errors have their text there.
                let failure = Failure.explaining(error) ?? Failure(.usage, Farshore.message(for: error), try: "docs/operating/apply.md shows how a file is written")
                items.append(AppliedItem(kind: kind, name: name, outcome: .refused, changes: [], error: failure.message, remedy: failure.remedy))
            }
        }
        for policy in file.policies { item("policy", policy.name) { try apply(policy) } }
        for machine in file.machines {
            for disk in machine.disks { item("disk", disk.name) { try apply(disk, of: machine.name) } }
            if let settings = machine.settings { item("machine", machine.name) { try apply(settings, to: machine) } }
        }
        for group in file.groups { item("group", group.name) { try apply(group) } }
        for (plan, text) in file.plans { item("plan", plan.name) { try apply(plan, text) } }
        return items
    }

    private func apply(_ policy: SiteFile.Policy) throws -> Outcome {
        _ = try PolicyCreate.parse([policy.name])
        let change = try PolicySettings.parse(policy.options.words).change()
        guard let before = try catalogue.policies().first(where: { $0.name == policy.name }) else {
            let made = try change.applied(to: Policy(name: policy.name))
            if !isDryRun {
                _ = try catalogue.addPolicy(named: policy.name, change)
                try catalogue.record(.information, disk: nil, "policy \(policy.name) made")
            }
            return (.made, try lines(made))
        }
        let after = try change.applied(to: before)
        guard after != before else { return (.same, []) }
        let changes = Self.changes(try lines(before), try lines(after))
        if !isDryRun {
            _ = try catalogue.changePolicy(named: policy.name, change)
            try catalogue.record(.information, disk: nil, "policy \(policy.name) changed: \(changes.joined(separator: "; "))")
        }
        return (.changed, changes)
    }

    private func lines(_ policy: Policy) throws -> [String] { try PolicyDocument(policy, catalogue).text.split(separator: "\n").dropFirst().map(String.init) }

    // MARK: Disks

    private func apply(_ disk: SiteFile.Disk, of machine: String) throws -> Outcome {
        var words = [disk.image, "--name=\(disk.name)", "--machine=\(machine)"] + disk.options.words + ["--site=\(site.directory.path)"]
        if let url = file.vaultURL, !words.contains(where: { $0.hasPrefix("--vault=") }) { words += ["--vault=\(url)"] + file.key.words }
        let command = try ProtectCommand.parse(words)
        guard let known = try catalogue.disks().first(where: { $0.name == disk.name }) else {
            if isDryRun {
                guard try file.policies.contains(where: { $0.name == command.policy }) || catalogue.policies().contains(where: { $0.name == command.policy }) else {
                    throw Failure(.notFound, "there is no policy named \(command.policy)", try: "farshore policy list")
                }
                _ = try ProtectionChecks(catalogue: catalogue, name: disk.name, site: site.directory).image(command.image, from: command.from, parentFolders: command.chain.folders)
            }
            let warnings = try isDryRun ? [] : command.perform().warnings.map { "warning: \($0)" }
            return (.made, ["\(disk.image) to \(command.vault.url)"] + warnings)
        }
        try refuseOther(command, known)
        var changes: [String] = []
        let policy = try catalogue.disk(named: disk.name, vault: command.vault.url).policy.name
        if policy != command.policy {
            changes.append("policy \(command.policy), was \(policy)")
            if !isDryRun { try catalogue.assignPolicy(named: command.policy, disks: [disk.name], vault: command.vault.url) }
        }
        if known.machine != machine {
            changes.append("a disk of \(machine), was one of \(known.machine)")
            if !isDryRun { try catalogue.put(disks: [disk.name], inMachine: machine) }
        }
        if !isDryRun { for change in changes { try catalogue.record(.information, disk: disk.name, change) } }
        return (changes.isEmpty ? .same : .changed, changes)
    }

    /// What a protected disk cannot be given by a file.
    private func refuseOther(_ command: ProtectCommand, _ known: ProtectedDisk) throws {
        let image = URL(fileURLWithPath: command.image).resolvingSymlinksInPath().path
        guard URL(fileURLWithPath: known.imagePath).resolvingSymlinksInPath().path == image else {
            throw Failure(.inUse, "\(known.name) is protected already, with the image \(known.imagePath)", try: "another name, or farshore unprotect \(known.name)")
        }
        guard try catalogue.targets(ofDisk: known.name).contains(where: { $0.vaultURL == command.vault.url }) else {
            throw Failure(.inUse, "\(known.name) is replicated to \(known.vaultURL)", try: "farshore retarget URL, when the vault is at another place now")
        }
        if let budget = command.logBudget, budget != known.logBudgetBytes {
            throw Failure(.inUse, "the log of \(known.name) may grow to \(bytesText(known.logBudgetBytes)), which is settled when a disk is protected", try: "log-budget: \(known.logBudgetBytes)")
        }
        if let folder = command.logDir, absolutePath(folder) != known.logFolder {
            throw Failure(.inUse, "the log of \(known.name) is \(known.logFolder), which is settled when a disk is protected", try: "log-dir: \(known.logFolder)")
        }
    }

    // MARK: Machines, groups, plans

    /// The file's settings are all there are: what it does not name is taken away.
    private func apply(_ options: SiteFile.Options, to machine: SiteFile.Machine) throws -> Outcome {
        var settings = MachineSettings(name: machine.name)
        try MachineOptions.parse(options.words).change(&settings)
        if let flaw = settings.flaw { throw Failure(.usage, "they would have \(flaw)", try: "farshore machine set --help") }
        let disks = try catalogue.disks()
        let own = disks.filter { $0.machine == machine.name }
        guard own.allSatisfy({ $0.role == .source }) else {
            throw Failure(.failed, "\(machine.name) was failed over to this host; its settings are in the vault", try: "farshore machine set \(machine.name) --vault URL")
        }
        let coming = isDryRun ? machine.disks.map(\.name) : []
        guard !own.isEmpty || !coming.isEmpty else { throw Failure(.notFound, "no disk of \(machine.name) is protected here", try: "disks: with its disks") }
        try settings.refuseForeignDisks(known: Set(own.map(\.name) + coming))
        let before = try catalogue.settings(ofMachine: machine.name)
        guard before != settings else { return (.same, []) }
        if !isDryRun {
            try catalogue.set(settings)
            try catalogue.record(.information, disk: nil, "settings of the machine \(machine.name) changed")
        }
        return (.changed, Self.changes(before.lines, settings.lines))
    }

    private func apply(_ group: SiteFile.Group) throws -> Outcome {
        guard let before = try catalogue.groups().first(where: { $0.name == group.name })?.machines.map(\.name) else {
            if !isDryRun {
                try refuseTaken(group.name, machines: group.machines, site)
                try catalogue.addGroup(named: group.name, machines: group.machines)
                try catalogue.record(.information, disk: nil, "replication group \(group.name) made")
            }
            return (.made, group.machines)
        }
        let (new, gone) = (group.machines.filter { !before.contains($0) }, before.filter { !group.machines.contains($0) })
        guard !new.isEmpty || !gone.isEmpty else { return (.same, []) }
        let changes = new.map { "with \($0)" } + gone.map { "without \($0)" }
        if !isDryRun {
            try refuseTaken(group.name, machines: new, site)
            if !new.isEmpty { try catalogue.put(machines: new, inGroup: group.name) }
            if !gone.isEmpty { try catalogue.take(machines: gone, outOfGroup: group.name) }
            try catalogue.record(.information, disk: nil, "replication group \(group.name): \(changes.joined(separator: ", "))")
        }
        return (.changed, changes)
    }

    /// One with the same meaning stays as it was written.
    private func apply(_ plan: RecoveryPlan, _ text: String) throws -> Outcome {
        guard let url = file.vaultURL else { throw Failure(.usage, "plans are kept in a vault, and the file names none", try: "vault: URL at its beginning") }
        let vault = try openVault(url: url, key: try KeyOptions.parse(file.key.words), site: site)
        let catalog = try vault.catalog().document
        let known = catalog.plans?.first { $0.name == plan.name }
        if let known, (try? RecoveryPlan(known.document)) == plan { return (.same, []) }
        guard text.utf8.count <= Catalog.Plan.documentBytesMax else { throw Failure(.usage, "it has \(text.utf8.count) bytes; at most \(Catalog.Plan.documentBytesMax) are kept", try: "a shorter one") }
        if !isDryRun { try vault.updateCatalog { $0.setPlan(plan.name, text) } }
        let coming = Set(file.machines.map(\.name) + file.groups.map(\.name))
        let unknown = catalog.unknownUnits(of: plan).filter { !coming.contains($0) }
        return (known == nil ? .made : .changed, unknown.map { "warning: neither vault nor file has a machine or group named \($0)" })
    }

    private static func changes(_ before: [String], _ after: [String]) -> [String] {
        func tidy(_ line: String) -> String { line.split(separator: " ").joined(separator: " ") }
        return after.filter { !before.contains($0) }.map(tidy) + before.filter { !after.contains($0) }.map { "was \(tidy($0))" }
    }
}
