// What is failed over together: a machine, or a replication group with all its machines; one group of heads in the vault either way.

package import Vault

package struct FailoverUnit: Equatable, Sendable {
    /// As it was named: of a group, a machine or a disk.
    package let name: String
    /// Whose heads tell how it stands.
    package let group: VaultID
    /// By name; of one machine only when that was named out of a group.
    package let disks: [Catalog.Disk]
    /// The group that a single machine was named out of.
    package let wholeGroup: String?

    package var machines: [String] { Array(Set(disks.map(\.machineName))).sorted() }

    /// The name alone, for files and folders.
    package var plainName: String { UnitName(name).plain }

    /// Throws `notFound` where the vault has no group, machine or disk of that name, and `prerequisite` where it has two and none is the other's part.
    package init(_ name: String, in catalog: Catalog) throws(FailoverError) {
        let candidates = Self.candidates(UnitName(name), in: catalog)
        guard let (noun, disks) = candidates.first, let first = disks.first else {
            let known = Set((catalog.groups ?? []).map(\.name) + catalog.disks.map(\.machineName)).sorted()
            throw FailoverError(.notFound, "the vault has no machine or group named \(name)", remedy: known.isEmpty ? "it holds no disk yet" : "one of " + known.joined(separator: ", "))
        }
        // The larger one is meant: a part of what shares points is not failed over alone.
        if let other = candidates.first(where: { !$0.disks.allSatisfy(disks.contains) }) {
            throw FailoverError(
                .prerequisite, "\(name) is a \(noun.rawValue) and a \(other.noun.rawValue) that is no part of it", remedy: "\(noun.rawValue):\(name) or \(other.noun.rawValue):\(name) in its place")
        }
        self.name = name
        self.disks = disks
        group = first.group
        let isWhole = noun == .group || (catalog.disks(inGroup: first.group).allSatisfy(disks.contains) && disks.allSatisfy { $0.group == first.group })
        wholeGroup = isWhole ? nil : catalog.group(group)?.name ?? first.machineName
    }

    /// What the name may stand for, largest first.
    private static func candidates(_ name: UnitName, in catalog: Catalog) -> [(noun: UnitName.Noun, disks: [Catalog.Disk])] {
        let found: [(UnitName.Noun, [Catalog.Disk])] = [
            (.group, (catalog.groups?.first { $0.name == name.plain }).map { catalog.disks(inGroup: $0.id) } ?? []),
            (.machine, catalog.disks.filter { $0.machineName == name.plain }),
            (.disk, catalog.disk(named: name.plain).map { [$0] } ?? []),
        ]
        return found.filter { name.means($0.0) && !$0.1.isEmpty }.map { ($0.0, $0.1.sorted { $0.name < $1.name }) }
    }

    /// One machine out of a group shares its points and its life cycle with the others.
    package func refusePart() throws(FailoverError) {
        guard let wholeGroup else { return }
        throw FailoverError(
            .notNow, "\(name) shares its recovery points with the other disks of \(wholeGroup); what shares points is failed over together",
            remedy: "name \(wholeGroup) instead; farshore failover test \(name) tests it on its own")
    }
}
