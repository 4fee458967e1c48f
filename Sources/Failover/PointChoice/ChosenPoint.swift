// Which state each disk goes to when a person names a point for several disks at once.

package import RecoveryPoints
package import Vault

package struct ChosenPoint: Equatable, Sendable {
    package let disk: Catalog.Disk
    package let sequence: UInt64

    package init(disk: Catalog.Disk, sequence: UInt64) {
        self.disk = disk
        self.sequence = sequence
    }

    /// What `name` stands for on each of `disks`. Where a machine is in no group, the points of a group are its own: latest processed, latest app-consistent.
    package static func resolve(_ name: PointName, on disks: [Catalog.Disk], in vault: Vault) throws(VaultError) -> [ChosenPoint] {
        let catalog = try vault.catalog().document
        var shared: [VaultID: SharedPoints] = [:]
        var chosen: [ChosenPoint] = []
        for disk in disks {
            let points: SharedPoints
            if let known = shared[disk.group] { points = known } else { points = try SharedPoints(vault, group: disk.group, catalog: catalog) }
            shared[disk.group] = points
            if name == .latestVerified {
                let together = disks.filter { $0.group == disk.group }.map(\.id)
                guard let sequence = try points.newestVerified(on: together) else { throw .notFound("no check has found a point of all these disks good yet (farshore verify)") }
                chosen.append(ChosenPoint(disk: disk, sequence: sequence))
                continue
            }
            guard let sequence = try points.resolve(points.name == nil ? name.ofOneMachine : name, on: disk) else {
                throw .notFound("nothing of the disk \(disk.name) is in the vault yet")
            }
            chosen.append(ChosenPoint(disk: disk, sequence: sequence))
        }
        return chosen
    }
}

extension PointName {
    var ofOneMachine: PointName {
        switch self {
        case .latestMulti: .latestProcessed
        case .latestMultiAppConsistent: .latestAppConsistent
        default: self
        }
    }
}
