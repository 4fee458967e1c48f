// `vault undo`: brings back what points need after somebody deleted objects of the vault or wrote over them, from the versions that the
// target kept. Nothing sound is removed: delete markers go, an earlier version is copied over what lies on it, and junk at the end of a
// chain gets a delete marker. Every step may be repeated; killed at any moment, the next run finds what is left to do.

import ObjectStore

package struct UndoStep: Equatable, Sendable {
    package enum Kind: String, Sendable {
        /// Its delete markers are removed.
        case undelete
        /// An earlier version is copied over newer ones.
        case copy
        /// It is no object of the vault, lies where one would be looked for, is needed by nothing, and gets a delete marker.
        case delete
    }

    package let key: String
    package let kind: Kind
    let version: ObjectVersion?
    let markers: [ObjectVersion]
}

package struct UndoReport: Sendable {
    /// In the order in which they are done.
    package internal(set) var steps: [UndoStep] = []
    /// What no sound version is left of.
    package internal(set) var lost: [VaultError] = []
}

package struct VaultUndo {
    private static let batch = 1_000
    private let sound: SoundVault
    private let threads: Int

    package init(_ sound: SoundVault, threads: Int = 16) { (self.sound, self.threads) = (sound, threads) }

    /// What is to be done. Reads each version that it has to choose among, and changes nothing.
    package func plan() throws(VaultError) -> UndoReport {
        var report = UndoReport()
        report.lost = sound.damage
        report.steps = sound.strayKeys.map { UndoStep(key: $0, kind: .delete, version: nil, markers: []) }
        for prefix in NeededObjects.prefixes {
            let keys = sound.found.keys.values.filter { $0.key.hasPrefix(prefix) && !$0.isPlain && sound.restores($0) }.sorted { ObjectKey.isBefore($0.key, $1.key) }
            let chosen = try mapInParallel(keys, threads: threads) { [sound] key throws(VaultError) in try sound.version(of: key) }
            for (key, version) in zip(keys, chosen) {
                guard let version else {
                    if !sound.needs(key.key) {
                        if key.isVisible { report.steps.append(UndoStep(key: key.key, kind: .delete, version: nil, markers: [])) }
                    } else if !report.lost.contains(where: { $0.damage?.object == key.key }) {
                        report.lost.append(.missing(object: key.key))
                    }
                    continue
                }
                if version.isNewest { continue }
                let isUncovered = version == key.objects.first
                report.steps.append(UndoStep(key: key.key, kind: isUncovered ? .undelete : .copy, version: version, markers: isUncovered ? key.markers : []))
            }
        }
        return report
    }

    /// Does the steps. Needs the rights to put, to delete, and to delete versions, which delete markers are.
    package func apply(_ report: UndoReport) throws(VaultError) {
        try delete(report.steps.filter { $0.kind == .delete }.map(\.key))
        for start in stride(from: 0, to: report.steps.count, by: Self.batch) {
            let some = Array(report.steps[start..<min(start + Self.batch, report.steps.count)])
            let markers = some.flatMap(\.markers)
            if !markers.isEmpty { try fromStore { () throws(StoreError) in try sound.versions.remove(markers) } }
            _ = try mapInParallel(some.compactMap { $0.kind == .copy ? $0.version : nil }, threads: threads) { [sound] version throws(VaultError) in
                try fromStore(version.key) { () throws(StoreError) in try sound.versions.bringBack(version) }
                guard try fromStore(version.key, { () throws(StoreError) in try sound.store.get(version.key, range: nil) == sound.versions.get(version) }) else {
                    throw .notKept(object: version.key, reason: "after an earlier version was copied over it, its bytes are others")
                }
            }
        }
    }

    /// What an uploader put there since it was found is left alone.
    private func delete(_ keys: [String]) throws(VaultError) {
        let doomed = try mapInParallel(keys, threads: threads) { [sound] key throws(VaultError) in try sound.isStray(key) ? key : nil }.compactMap(\.self)
        if !doomed.isEmpty { try fromStore { () throws(StoreError) in try sound.store.delete(doomed) } }
    }
}
