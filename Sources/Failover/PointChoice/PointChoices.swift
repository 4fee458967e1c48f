// The points a failover can begin with (D4), each with the state and time every disk would have: shown before a run.

package import RecoveryPoints
package import Vault

package struct PointChoices: Sendable {
    package struct Choice: Equatable, Sendable {
        /// As `--at` takes it.
        package let name: String
        package let points: [ChosenPoint]
        /// Of each state: of the point, or else of its newest write; nil where neither is known.
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
    /// Of the point, or of the newest write of a state that is none: minutes may lie between the last cut and that.
    package func time(of point: ChosenPoint) throws(VaultError) -> UInt64? {
        guard let history = history(of: point.disk.id) else { return nil }
        let cut = try history.newestPoint { $0.sequence <= point.sequence }
        if cut?.sequence == point.sequence { return cut?.timeMicros }
        return [cut?.timeMicros, try newestWrite(of: point, history)].compactMap { $0 }.max()
    }

    /// Nil where it cannot be told: what is damaged there is found where the point is read, and a label keeps nobody from looking.
    private func newestWrite(of point: ChosenPoint, _ history: DiskHistory) throws(VaultError) -> UInt64? {
        do throws(VaultError) {
            guard let newest = try history.plan(at: point.sequence).segments.last(where: { $0.first <= point.sequence }) else { return nil }
            let index = try SegmentIndex.read(history.vault, disk: point.disk.id, entry: newest, manifestLineage: history.state.disk)
            return index.records.last { $0.sequence <= point.sequence }.map { $0.wallNanoseconds / 1_000 }
        } catch {
            guard case .store = error else { return nil }
            throw error
        }
    }
}
