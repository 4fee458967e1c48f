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

    /// Throws `notFound` where the vault has no group, machine or disk of that name.
    package init(_ name: String, in catalog: Catalog) throws(FailoverError) {
        self.name = name
        if let group = catalog.groups?.first(where: { $0.name == name }) {
            self.group = group.id
            disks = catalog.disks(inGroup: group.id).sorted { $0.name < $1.name }
            wholeGroup = nil
            return
        }
        let own = catalog.disks.filter { $0.machineName == name }.sorted { $0.name < $1.name }
        guard let first = own.first ?? catalog.disk(named: name) else {
            let known = Set((catalog.groups ?? []).map(\.name) + catalog.disks.map(\.machineName)).sorted()
            throw FailoverError(.notFound, "the vault has no machine or group named \(name)", remedy: known.isEmpty ? "it holds no disk yet" : "one of " + known.joined(separator: ", "))
        }
        let disks = own.isEmpty ? [first] : own
        self.disks = disks
        group = first.group
        let isWhole = catalog.disks(inGroup: first.group).allSatisfy(disks.contains) && disks.allSatisfy { $0.group == first.group }
        wholeGroup = isWhole ? nil : catalog.group(group)?.name ?? first.machineName
    }

    /// One machine out of a group shares its points and its life cycle with the others.
    package func refusePart() throws(FailoverError) {
        guard let wholeGroup else { return }
        throw FailoverError(
            .notNow, "\(name) shares its recovery points with the other disks of \(wholeGroup); what shares points is failed over together",
            remedy: "name \(wholeGroup) instead; farshore failover test \(name) tests it on its own")
    }
}
