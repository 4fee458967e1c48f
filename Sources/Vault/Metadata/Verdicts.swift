// What checks said of states of disks: in the group's head, so that every host sees them. Published by whoever checked, beside
// the running uploader.

extension Vault {
    /// Publishes verdicts on disks of one group. Each replaces the earlier one of its state and check; where there are too many the oldest go.
    package func publish(_ verdicts: [Head.Verdict], group: VaultID) throws(VaultError) {
        let cut = verdicts.map { verdict in
            var note = verdict.note
            while note.utf8.count > FormatLimits.verdictNoteBytesMax { note.removeLast() }
            return Head.Verdict(
                disk: verdict.disk, sequence: verdict.sequence, check: verdict.check, isGood: verdict.isGood, note: note, timeMicros: verdict.timeMicros)
        }
        guard cut.allSatisfy({ Catalog.isValidName($0.check) }) else { throw .refused("a check has a name of 1 to 64 of A-Z a-z 0-9 . _ -") }
        for attempt in 1...8 {
            do throws(VaultError) {
                return try heads(group: group).edit { head throws(VaultError) in
                    let kept = (head.verdicts ?? []).filter { old in !cut.contains { $0.disk == old.disk && $0.sequence == old.sequence && $0.check == old.check } }
                    head.verdicts = Head.newest(kept + cut)
                }
            } catch .fenced(let text) {
                // Another uploader began just then: that is nothing to a verdict.
                guard attempt < 8 else { throw .fenced(text) }
            }
        }
    }
}

extension SharedPoints {
    /// Of the state at `sequence` of `disk`, by the name of the check.
    package func verdicts(on disk: VaultID, at sequence: UInt64) -> [Head.Verdict] {
        verdicts.filter { $0.disk == disk && $0.sequence == sequence }.sorted { $0.check < $1.check }
    }

    /// The newest state of all `disks` that some check found good on each of them and none bad, and that can still be read.
    package func newestVerified(on disks: [VaultID]) throws(VaultError) -> UInt64? {
        let own = Dictionary(grouping: verdicts.filter { disks.contains($0.disk) }, by: \.sequence)
        for (sequence, verdicts) in own.sorted(by: { $0.key > $1.key }) where verdicts.allSatisfy(\.isGood) && Set(verdicts.map(\.disk)).count == disks.count {
            do throws(VaultError) {
                for disk in disks { _ = try history(of: disk)?.plan(at: sequence) }
                return sequence
            } catch {
                // Retention may have let it go since.
                guard case .notFound = error else { throw error }
            }
        }
        return nil
    }
}
