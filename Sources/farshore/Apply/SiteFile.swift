// What `farshore apply` reads: the words of one YAML file as options of the commands that a person would type, each with its line.
// Options are checked by those commands, so that one list of them is enough.

import ArgumentParser
import Failover
import Foundation
import Site
import Vault

struct SiteFile {
    /// Options of a command, without their dashes.
    struct Options {
        var words: [String] = []

        init(_ value: YamlValue?, _ what: String, except own: Set<String> = [], paths: Set<String> = [], folder: String) throws(YamlError) {
            guard let value else { return }
            guard case .map(let entries) = value.content else { throw value.wrong("\(what) is a map") }
            for entry in entries where !own.contains(entry.key) {
                guard !["site", "machine", "json", "help", "version"].contains(entry.key) else { throw entry.value.wrong("\(what) knows no \(entry.key.debugDescription)") }
                let values: [YamlValue] = if case .list(let list) = entry.value.content { list } else { [entry.value] }
                for value in values {
                    let text = try value.text(entry.key)
                    words.append("--\(entry.key)=\(paths.contains(entry.key) ? SiteFile.path(text, folder) : text)")
                }
            }
        }
    }

    struct Policy {
        let name: String
        let options: Options
    }

    struct Disk {
        let name: String
        let image: String
        let options: Options
    }

    struct Machine {
        let name: String
        let disks: [Disk]
        /// Nil where the file says nothing of them.
        let settings: Options?
    }

    struct Group {
        let name: String
        let machines: [String]
    }

    let policies: [Policy]
    let machines: [Machine]
    let groups: [Group]
    let plans: [(plan: RecoveryPlan, text: String)]
    let vaultURL: String?
    let key: Options

    private static let pathOptions: Set<String> = ["key-file", "passphrase-file", "log-dir", "parents"]

    init(_ text: String, folder: String) throws(YamlError) {
        let document = try YamlValue.parse(text)
        let keys = try document.map("the file", known: ["vault", "key-file", "passphrase-file", "policies", "machines", "groups", "plans"])
        vaultURL = try keys["vault"]?.text("vault")
        key = try Options(document, "the file", except: ["vault", "policies", "machines", "groups", "plans"], paths: Self.pathOptions, folder: folder)
        var policies: [Policy] = []
        for value in try keys["policies"]?.list("policies") ?? [] {
            policies.append(Policy(name: try Self.name(of: value, "a policy"), options: try Options(value, "a policy", except: ["name"], folder: folder)))
        }
        self.policies = policies
        var machines: [Machine] = []
        for value in try keys["machines"]?.list("machines") ?? [] { machines.append(try Self.machine(value, folder)) }
        self.machines = machines
        var groups: [Group] = []
        for value in try keys["groups"]?.list("groups") ?? [] {
            let keys = try value.map("a group", known: ["name", "machines"])
            var names: [String] = []
            for machine in try keys["machines"]?.list("machines") ?? [] { names.append(try machine.text("a machine")) }
            groups.append(Group(name: try Self.name(of: value, "a group"), machines: names))
        }
        self.groups = groups
        var plans: [(plan: RecoveryPlan, text: String)] = []
        for value in try keys["plans"]?.list("plans") ?? [] {
            let text = value.document
            // Read from the value for the line of what is wrong; the text is what the vault keeps.
            plans.append((try RecoveryPlan(value), text))
        }
        self.plans = plans
        try refuseTwice(document)
    }

    private static func machine(_ value: YamlValue, _ folder: String) throws(YamlError) -> Machine {
        let keys = try value.map("a machine", known: ["name", "disks", "settings"])
        var disks: [Disk] = []
        for disk in try keys["disks"]?.list("disks") ?? [] {
            guard case .map(let entries) = disk.content, let image = entries.first(where: { $0.key == "image" }) else { throw disk.wrong("a disk has name: and image:") }
            disks.append(Disk(
                name: try name(of: disk, "a disk"), image: path(try image.value.text("image"), folder),
                options: try Options(disk, "a disk", except: ["name", "image"], paths: pathOptions, folder: folder)))
        }
        let settings = try keys["settings"].map { value throws(YamlError) in try Options(value, "settings", folder: folder) }
        return Machine(name: try name(of: value, "a machine"), disks: disks, settings: settings)
    }

    private static func name(of value: YamlValue, _ what: String) throws(YamlError) -> String {
        guard case .map(let entries) = value.content, let name = entries.first(where: { $0.key == "name" }) else { throw value.wrong("\(what) has a name:") }
        let text = try name.value.text("a name")
        guard Catalog.isValidName(text) else { throw name.value.wrong("\(text.debugDescription) is no name: use 1 to 64 of letters, digits, . _ -, not starting with . or -") }
        return text
    }

    private func refuseTwice(_ document: YamlValue) throws(YamlError) {
        for names in [policies.map(\.name), machines.map(\.name), machines.flatMap(\.disks).map(\.name), groups.map(\.name), plans.map(\.plan.name)] {
            if let twice = Dictionary(grouping: names, by: { $0 }).first(where: { $0.value.count > 1 }) { throw document.wrong("\(twice.key) stands in it twice") }
        }
    }

    /// What stands in a file is meant from where the file is.
    private static func path(_ text: String, _ folder: String) -> String { absolutePath(text.hasPrefix("/") ? text : folder + "/" + text) }
}
