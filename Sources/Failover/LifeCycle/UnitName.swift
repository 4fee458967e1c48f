// What a person calls a unit: a name, and in front of it, where one name stands for two things, which is meant: `machine:db1`. Names have no colon.

import Vault

package struct UnitName: Equatable, Sendable {
    package enum Noun: String, CaseIterable, Sendable { case group, machine, disk, plan }

    /// Nil where only a name was given.
    package let noun: Noun?
    package let plain: String

    package init(_ text: String) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        noun = parts.count == 2 ? Noun(rawValue: parts[0]) : nil
        plain = noun == nil ? text : parts[1]
    }

    package func means(_ wanted: Noun) -> Bool { noun == nil || noun == wanted }
}
