// What the source's collection removed goes from the copy as well. An object goes when the copy's heads do not lead to it, the source does
// not have it, and the source's heads are those that the copy has: then it was condemned there, and no later head names it (section 10).

import ObjectStore

extension VaultCopy {
    private static let keysPerDelete = 1_000

    /// Brings the copy up and removes what the source does not have any more. Needs the right to delete, and LIST, in the copy.
    package func runAndPrune() throws(VaultError) -> CopyReport {
        report = CopyReport()
        while true {
            let state = try bringUp()
            let doomed = try superfluous(state)
            // Looked at after the source did not have them: were they named since, it would have gone on.
            guard try !state.isOutdated(source) else { continue }
            for start in stride(from: 0, to: doomed.count, by: Self.keysPerDelete) {
                // What another writer puts is in none of the heads looked at. There is none before the copy was adopted, so none had a part in the
                // list of what is to go when the mark is there after it.
                try CopyMark.require(at: copy.store)
                let some = Array(doomed[start..<min(doomed.count, start + Self.keysPerDelete)])
                try fromStore { () throws(StoreError) in try copy.store.delete(some) }
            }
            report.removedObjects = UInt64(doomed.count)
            return report
        }
    }

    private func superfluous(_ state: SourceState) throws(VaultError) -> [String] {
        let live = try LiveVault.survey(copy).live
        var doomed: [String] = []
        for prefix in ["chunks/", "maps/", "disks/"] {
            doomed += try listed(prefix) { key in ObjectName(key: key).map(live.isGarbage) ?? false }
        }
        var newest = ["catalog": state.catalog.document.number]
        for head in state.heads { newest["heads/\(head.document.group)"] = head.document.number }
        for prefix in ["catalog/", "heads/"] {
            doomed += try listed(prefix) { key in
                guard let number = UInt64(key.suffix(20)), key.utf8.count > 21 else { return false }
                guard let newest = newest[String(key.dropLast(21))] else { return true }
                let interval = FormatLimits.anchorInterval
                return number + interval <= newest / interval * interval && number % interval != 0
            }
        }
        return try doomed + listed("keys/") { _ in true }
    }

    /// Those of the copy's keys that `isUnneeded` says and the source lacks.
    private func listed(_ prefix: String, _ isUnneeded: (String) -> Bool) throws(VaultError) -> [String] {
        let keys = try fromStore { () throws(StoreError) in try copy.store.listAll(prefix: prefix) }.map(\.key).filter(isUnneeded)
        let source = source
        let absent = try mapInParallel(keys, threads: 8) { key throws(VaultError) in try fromStore(nil) { () throws(StoreError) in try source.store.head(key) } == nil }
        return zip(keys, absent).filter(\.1).map(\.0)
    }
}
