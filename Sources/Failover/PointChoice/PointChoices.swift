// The points a failover can begin with (D4), each with the state and time every disk would have: shown before a run.

package import RecoveryPoints
package import Vault

package struct PointChoices: Sendable {
    package struct Choice: Equatable, Sendable {
        /// As `--at` takes it.
        package let name: String
        package let points: [ChosenPoint]
        /// Of the newest cut point at or before each state; nil where there is none.
        package let timesMicros: [UInt64?]
        /// Why it cannot be chosen now.
        package let obstacle: String?
    }

    package static let common = ["latest", "latest-processed", "latest-app-consistent"]
    /// Only where a group is in the run.
    package static let ofGroups = ["latest-multi", "latest-multi-app-consistent"]

    package static func all(of unit: FailoverUnit, _ head: Head, _ catalog: Catalog, in vault: Vault) throws(VaultError) -> [Choice] {
        let shared = SharedPoints(vault, head: head, catalog: catalog)
        var choices: [Choice] = []
        for text in common + (shared.name == nil || unit.disks.count == 1 ? [] : ofGroups) {
            guard let name = PointName(text) else { continue }
            do throws(VaultError) {
                let points = try ChosenPoint.resolve(name, on: unit.disks, in: shared)
                choices.append(Choice(name: text, points: points, timesMicros: try points.map { point throws(VaultError) in try shared.time(of: point) }, obstacle: nil))
            } catch {
                guard case .notFound(let reason) = error else { throw error }
                choices.append(Choice(name: text, points: [], timesMicros: [], obstacle: reason))
            }
        }
        return choices
    }
}

extension ChosenPoint {
    /// The same in a head that is at hand.
    package static func resolve(_ name: PointName, on disks: [Catalog.Disk], in shared: SharedPoints) throws(VaultError) -> [ChosenPoint] {
        try disks.map { disk throws(VaultError) in
            guard let sequence = try shared.resolve(shared.name == nil ? name.ofOneMachine : name, on: disk) else {
                throw .notFound("nothing of the disk \(disk.name) is in the vault yet")
            }
            return ChosenPoint(disk: disk, sequence: sequence)
        }
    }
}

extension SharedPoints {
    /// Of the newest cut point at or before the state.
    package func time(of point: ChosenPoint) throws(VaultError) -> UInt64? {
        try history(of: point.disk.id)?.newestPoint { $0.sequence <= point.sequence }?.timeMicros
    }
}
