// Manifests that were read and opened, by their hash, for those who plan the reading of one disk several times. What checks a vault, copies
// or collects it asks the target.

import Synchronization

final class KnownManifests: Sendable {
    /// About the memory that the lists of segments take.
    private static let bytesMax = 16 << 20

    private struct State {
        var manifests: [Hash256: Manifest] = [:]
        var bytes = 0
    }

    private let state = Mutex(State())

    /// As `Vault.manifest`.
    func manifest(_ ref: ManifestRef, disk: VaultID, lineage: VaultID, in vault: Vault) throws(VaultError) -> Manifest {
        let known = state.withLock { $0.manifests[ref.hash] }
        if let known, known.disk == disk, known.lineage == ref.lineage ?? lineage, known.sequence == ref.sequence { return known }
        let manifest = try vault.manifest(ref, disk: disk, lineage: lineage)
        let bytes = manifest.segments.reduce(1_024 + 64 * manifest.points.count) { $0 + 160 + ($1.index?.count ?? 0) }
        state.withLock { state in
            // Who goes through a long history needs the old ones no more.
            if state.bytes + bytes > Self.bytesMax { state = State() }
            if state.manifests.updateValue(manifest, forKey: ref.hash) == nil { state.bytes += bytes }
        }
        return manifest
    }
}
