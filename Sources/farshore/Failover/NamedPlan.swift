// A recovery plan where a machine or group may be named too: `failover planned|unplanned|test NAME` is then a run of it.

import ArgumentParser
import Failover
import RecoveryPoints
import Vault

struct NamedPlan {
    private let name: String
    private let vault: VaultOptions
    private let site: SiteOptions
    private let output: OutputOptions

    /// Nil where the vault has no plan of that name. `others`: what else the command was told, none of which is of a plan.
    init?(_ opened: OpenedUnit, _ output: OutputOptions, others: [String: String?]) throws {
        let wanted = UnitName(opened.unit)
        guard wanted.means(.plan) else { return nil }
        let catalog = try opened.heads.vault.catalog().document
        guard wanted.noun == .plan || catalog.plans?.contains(where: { $0.name == wanted.plain }) == true else { return nil }
        _ = try catalog.plan(named: wanted.plain)
        if wanted.noun == nil, let noun = Self.noun(of: wanted.plain, in: catalog) {
            throw Failure(.usage, "\(wanted.plain) is a recovery plan and a \(noun.rawValue)", try: "plan:\(wanted.plain) or \(noun.rawValue):\(wanted.plain) in its place")
        }
        if let other = others.filter({ $0.value != nil }).keys.sorted().first {
            throw Failure(.usage, "\(wanted.plain) is a recovery plan, whose runs are not told \(other)", try: "without it: what is done to each machine is in the plan and in the machines' settings")
        }
        name = wanted.plain
        let place = opened.place
        vault = try VaultOptions.parse(
            ["--vault", place.url] + (place.keyFile.map { ["--key-file", $0] } ?? []) + (place.passphraseFile.map { ["--passphrase-file", $0] } ?? []))
        (site, self.output) = (opened.site, output)
    }

    static func noun(of name: String, in catalog: Catalog) -> UnitName.Noun? {
        if catalog.groups?.contains(where: { $0.name == name }) == true { return .group }
        if catalog.disks.contains(where: { $0.machineName == name }) { return .machine }
        return catalog.disk(named: name) == nil ? nil : .disk
    }

    func begin(_ kind: RecoveryPlan.Kind) throws { try beginPlan(name, kind, beside: false, vault, site, output) }
}

extension OpenedUnit {
    /// Said before anything is done: which way it goes, and what each choice of a point would give. `point`: the one chosen; nil where there is no choice.
    /// Throws where it was to go another way, and for nothing else: what cannot be told stops no failover.
    func announce(point: PointName?, isTest: Bool = false, direction: String? = nil) throws {
        let standing: LifeCycleStanding
        do { standing = try heads.standing(of: unit) } catch {
            guard direction == nil else { throw error }
            return
        }
        let from = standing.lifeCycle?.active ?? standing.head.writer.id ?? LifeCycle.unknownHost
        let to = heads.host.id
        if let direction {
            let wanted = direction.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
            let found = [from, to].map { [standing.name(of: $0), $0.description] }
            guard zip(wanted, found).allSatisfy({ $1.contains($0) }) else {
                throw Failure(.notNow, "\(unit) would go from \(found[0][0]) to \(found[1][0]), not \(direction)", try: "farshore failover show \(unit), on the host that is to take over")
            }
        }
        guard isTest || standing.state == .replicating || standing.state == .prepared else { return }
        let way = isTest ? "tested on \(standing.name(of: to))" : "from \(standing.name(of: from)) to \(standing.name(of: to)), this host"
        printError("\(unit): \(way)" + (point.map { ", at \($0.text)" } ?? ""))
        guard point != nil, let choices = try? PointChoices.all(of: standing.unit, standing.head, standing.catalog, in: heads.vault) else { return }
        for choice in choices {
            let points = zip(choice.points, choice.timesMicros).map { "\($0.disk.name) #\($0.sequence) \(pointTime(micros: $1) ?? "before the first point")" }.joined(separator: ", ")
            printError("  \(choice.name): \(choice.obstacle ?? points)")
        }
    }
}
