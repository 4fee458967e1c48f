// `farshore plan …`: recovery plans, kept in the vault, and their runs on this host.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import Site
import Vault

struct PlanCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan",
        abstract: "Recovery plans: in which order machines come up elsewhere, and what is done between them.",
        subcommands: [PlanApply.self, PlanList.self, PlanShow.self, PlanRemove.self, PlanRunCommand.self, PlanContinue.self, PlanRunList.self, PlanReport.self])
}

struct PlanDocument: Encodable {
    let plan: String
    let groups: Int
    let machines: [String]
    let text: String
    /// Why it cannot be run; absent for a good plan.
    let flaw: String?

    init(_ entry: Catalog.Plan) {
        plan = entry.name
        text = entry.document
        do throws(YamlError) {
            let read = try RecoveryPlan(entry.document)
            groups = read.groups.count
            machines = read.groups.flatMap(\.units)
            flaw = read.name == entry.name ? nil : "the text is of a plan named \(read.name)"
        } catch {
            (groups, machines, flaw) = (0, [], error.description)
        }
    }
}

extension Catalog {
    func plan(named name: String) throws -> Catalog.Plan {
        guard let found = plans?.first(where: { $0.name == name }) else { throw Failure(.notFound, "the vault has no plan named \(name)", try: "farshore plan list --vault URL") }
        return found
    }

    /// Machines and groups that a plan may name.
    func unknownUnits(of plan: RecoveryPlan) -> [String] {
        let known = Set(disks.map(\.machineName) + (groups ?? []).map(\.name))
        return plan.groups.flatMap(\.units).filter { !known.contains($0) }
    }
}

struct PlanApply: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply",
        abstract: "Put a recovery plan into the vault, in place of the one of its name (also: create, edit).",
        discussion: """
            The file is YAML (docs/operating/plans.md). Machines the vault does not have yet are warned about. Runs that have
            begun keep the plan they began with.

            Example:
              farshore plan apply shop.yaml --vault s3://backup/vault --key-file vault.key
            """,
        aliases: ["create", "edit"])

    @Argument(help: ArgumentHelp("The plan.", valueName: "file"))
    var file: String

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let plan: String
        let isNew: Bool
        let isChanged: Bool
        let unknownMachines: [String]
    }

    func run() throws {
        let (text, plan) = try readPlan(file)
        let vault = try vault.open(site)
        let before = try vault.catalog().document
        let known = before.plans?.first { $0.name == plan.name }
        try vault.updateCatalog { $0.setPlan(plan.name, text) }
        let document = Document(plan: plan.name, isNew: known == nil, isChanged: known?.document != text, unknownMachines: before.unknownUnits(of: plan))
        try output.print(document) { document in
            "\(document.plan): " + (document.isNew ? "put into the vault" : document.isChanged ? "changed" : "as it was")
                + (document.unknownMachines.isEmpty ? "" : "\nwarning: the vault has no machine or group named \(document.unknownMachines.joined(separator: ", "))")
        }
    }
}

/// A plan in a file of the person's.
func readPlan(_ path: String) throws -> (text: String, plan: RecoveryPlan) {
    guard let bytes = try DurableFile.read(path, limitBytes: YamlValue.textBytesMax) else { throw Failure(.notFound, "there is no file \(path)", try: "farshore plan --help") }
    let text = String(decoding: bytes, as: UTF8.self)
    do throws(YamlError) { return (text, try RecoveryPlan(text)) } catch { throw Failure(.usage, "\(path), \(error)", try: "docs/operating/plans.md shows how a plan is written") }
}

struct PlanList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the recovery plans in a vault.", discussion: "Example:\n  farshore plan list --vault file:///srv/vault --key-file vault.key")

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        try output.print((try vault.open(site).catalog().document.plans ?? []).map(PlanDocument.init)) { plans in
            plans.isEmpty ? "no plans" : tableText([["PLAN", "GROUPS", "MACHINES"]] + plans.map { [$0.plan, "\($0.groups)", $0.flaw ?? $0.machines.joined(separator: ", ")] })
        }
    }
}

struct PlanShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Print a recovery plan as it was written.", discussion: "Example:\n  farshore plan show shop --vault file:///srv/vault --key-file vault.key")

    @Argument(help: "The plan.")
    var plan: String

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws { try output.print(PlanDocument(try vault.open(site).catalog().document.plan(named: plan))) { $0.text + ($0.flaw.map { "\nwarning: \($0)" } ?? "") } }
}

struct PlanRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Take a recovery plan out of the vault; reports of its runs stay (also: delete).",
        discussion: "Example:\n  farshore plan remove shop --vault file:///srv/vault --key-file vault.key", aliases: ["delete"])

    @Argument(help: "The plan.")
    var plan: String

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let vault = try vault.open(site)
        let document = PlanDocument(try vault.catalog().document.plan(named: plan))
        try vault.updateCatalog { $0.setPlan(plan, nil) }
        try output.print(document) { "\($0.plan): removed" }
    }
}
