// The points of a disk where some of its manifests are lost: what can still be opened is shown, the rest is named.
// Called by `point list` and `point mount`.

package import Vault

package struct IntactPoints: Sendable {
    /// Rising.
    package let points: [RecoveryPoint]
    /// One for each manifest that is lost; the points it listed, and those of the tail behind it, are not shown.
    package let damage: [VaultError]
}

extension DiskHistory {
    package func intactPoints() throws(VaultError) -> IntactPoints {
        var points: [UInt64: RecoveryPoint] = [:]
        var damage: [VaultError] = []
        var seen: Set<Hash256> = []
        func take(_ ref: ManifestRef, _ lineage: VaultID) throws(VaultError) -> Manifest? {
            do throws(VaultError) {
                let manifest = try vault.manifest(ref, disk: state.disk, lineage: lineage)
                for point in manifest.points where isListed(point) { points[point.sequence] = point }
                return manifest
            } catch {
                guard error.isIntegrityDamage else { throw error }
                damage.append(error)
                return nil
            }
        }
        do throws(VaultError) {
            for kept in try keptPoints() { points[kept.sequence] = kept.point }
        } catch {
            guard error.isIntegrityDamage else { throw error }
            damage.append(error)
        }
        for lineage in state.lineages where lineage.sequence >= state.oldestSequence {
            var isWhole = true
            // Full manifests lead to older ones; where one is lost, the one before it names others.
            var next: [(ref: ManifestRef, lineage: VaultID)] = [(lineage.full, lineage.id)]
            while !next.isEmpty {
                let (ref, named) = next.removeFirst()
                guard seen.insert(ref.hash).inserted else { break }
                guard let full = try take(ref, named) else {
                    isWhole = isWhole && ref.hash != lineage.full.hash
                    continue
                }
                next = (full.fulls ?? []).filter { $0.sequence >= state.oldestSequence }.sorted { $0.fullNumber > $1.fullNumber }.map {
                    (ManifestRef(lineage: $0.lineage, sequence: $0.sequence, hash: $0.hash), full.lineage)
                }
            }
            // A state in the tail needs the full manifest and each part of the tail up to it.
            for ref in lineage.tail where isWhole { isWhole = try take(ref, lineage.id) != nil }
        }
        let found = points.values.sorted { $0.sequence < $1.sequence }
        guard !damage.isEmpty else { return IntactPoints(points: found, damage: []) }
        // Histories share manifests, and a state may be read by another way than its point was found.
        var listed: [RecoveryPoint] = []
        for point in found where try opens(point.sequence) { listed.append(point) }
        return IntactPoints(points: listed, damage: damage)
    }

    private func opens(_ sequence: UInt64) throws(VaultError) -> Bool {
        do throws(VaultError) {
            _ = try plan(at: sequence)
            return true
        } catch {
            guard error.isIntegrityDamage else { throw error }
            return false
        }
    }
}
