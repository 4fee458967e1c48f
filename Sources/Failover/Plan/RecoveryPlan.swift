// A recovery plan: in which order machines and replication groups come up elsewhere, and what is done between them. Written as YAML
// by a person, kept in the vault (`plans` of the catalog), described in docs/operating/plans.md.

import Site
import Vault

package struct RecoveryPlan: Equatable, Sendable {
    package enum Kind: String, CaseIterable, Codable, Sendable { case test, planned, unplanned }

    package struct Action: Equatable, Sendable {
        package enum Work: Equatable, Sendable {
            case script(String, seconds: Int)
            /// What a person has to do before the plan goes on.
            case manual(String)
        }

        package let work: Work
        /// In which runs it is done.
        package let kinds: Set<Kind>
        /// The plan goes on when the script fails.
        package let mayFail: Bool
    }

    package struct Group: Equatable, Sendable {
        package let name: String
        /// Machines and replication groups, failed over at the same time.
        package let units: [String]
        package let before: [Action]
        package let after: [Action]
        /// Nothing after this group is done when one of its units fails.
        package let stopsOnError: Bool
    }

    package static let groupsMax = 100
    package static let unitsMax = 1_000
    package static let actionsMax = 100
    package static let scriptSecondsDefault = 300

    package let name: String
    package let groups: [Group]

    /// The plan in `text`. Throws with the line that is wrong.
    package init(_ text: String) throws(YamlError) {
        guard text.utf8.count <= Catalog.Plan.documentBytesMax else {
            throw YamlError(line: 1, reason: "a plan of \(text.utf8.count) bytes; at most \(Catalog.Plan.documentBytesMax) are kept in a vault")
        }
        let document = try YamlValue.parse(text)
        try self.init(document)
    }

    package init(_ document: YamlValue) throws(YamlError) {
        let keys = try document.map("a plan", known: ["plan", "groups"])
        guard let name = try keys["plan"]?.text("the plan's name"), Catalog.isValidName(name) else {
            throw document.wrong("a plan begins with plan: NAME, 1 to 64 of letters, digits, . _ -")
        }
        guard let groups = try keys["groups"]?.list("groups"), !groups.isEmpty, groups.count <= Self.groupsMax else {
            throw document.wrong("a plan has 1 to \(Self.groupsMax) groups")
        }
        self.name = name
        var read: [Group] = []
        for (number, group) in groups.enumerated() { read.append(try Self.group(group, number: number + 1)) }
        self.groups = read
        if Set(read.map(\.name)).count != read.count { throw document.wrong("two groups have one name") }
        let units = read.flatMap(\.units)
        if units.count > Self.unitsMax { throw document.wrong("\(units.count) machines; at most \(Self.unitsMax) are allowed") }
        if let twice = units.first(where: { unit in units.filter { $0 == unit }.count > 1 }) { throw document.wrong("\(twice) stands in it twice") }
    }

    private static func group(_ value: YamlValue, number: Int) throws(YamlError) -> Group {
        let keys = try value.map("a group", known: ["name", "machines", "before", "after", "on-error"])
        let name = try keys["name"]?.text("a group's name") ?? "group \(number)"
        var units: [String] = []
        for unit in try keys["machines"]?.list("machines") ?? [] {
            let name = try unit.text("a machine")
            guard Catalog.isValidName(name) else { throw unit.wrong("\(name.debugDescription) cannot be a machine's name") }
            units.append(name)
        }
        let onError = try keys["on-error"]?.text("on-error") ?? "continue"
        guard ["continue", "stop"].contains(onError) else { throw value.wrong("on-error is continue or stop") }
        let (before, after) = (try actions(keys["before"]), try actions(keys["after"]))
        guard !units.isEmpty || !before.isEmpty || !after.isEmpty else { throw value.wrong("the group \(name) does nothing") }
        return Group(name: name, units: units, before: before, after: after, stopsOnError: onError == "stop")
    }

    private static func actions(_ value: YamlValue?) throws(YamlError) -> [Action] {
        guard let value else { return [] }
        var actions: [Action] = []
        for action in try value.list("before and after") { actions.append(try self.action(action)) }
        guard actions.count <= actionsMax else { throw value.wrong("\(actions.count) actions; at most \(actionsMax) are allowed") }
        return actions
    }

    private static func action(_ value: YamlValue) throws(YamlError) -> Action {
        let keys = try value.map("an action", known: ["script", "manual", "timeout", "only", "on-error"])
        var kinds = Set(Kind.allCases)
        if let only = keys["only"] {
            kinds = []
            for kind in try only.list("only") {
                guard let known = Kind(rawValue: try kind.text("a kind")) else { throw kind.wrong("a run is test, planned or unplanned") }
                kinds.insert(known)
            }
        }
        let onError = try keys["on-error"]?.text("on-error") ?? "stop"
        guard ["continue", "stop"].contains(onError) else { throw value.wrong("on-error is continue or stop") }
        switch (try keys["script"]?.text("script"), try keys["manual"]?.text("manual")) {
        case (let script?, nil) where !script.isEmpty && script.utf8.count <= MachineSettings.commandBytesMax && !script.contains("\0"):
            var seconds = scriptSecondsDefault
            if let timeout = keys["timeout"] {
                guard let given = Quantity.seconds(try timeout.text("timeout")), (1...86_400).contains(given) else { throw timeout.wrong("a timeout is 1s to 1d") }
                seconds = Int(given)
            }
            return Action(work: .script(script, seconds: seconds), kinds: kinds, mayFail: onError == "continue")
        case (nil, let text?) where !text.isEmpty && keys["timeout"] == nil && keys["on-error"] == nil:
            return Action(work: .manual(text), kinds: kinds, mayFail: false)
        default: throw value.wrong("an action is script: COMMAND (at most \(MachineSettings.commandBytesMax) bytes, with timeout and on-error) or manual: TEXT")
        }
    }
}
