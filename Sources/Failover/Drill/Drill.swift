// A drill: some state of some disks was recovered, and something said whether it is good. Kept as an audit record (docs/formats/vault.md
// section 10), by `verify`, by test failovers and their ends, by failovers and by failbacks; read by `drill report`.

import BlockIO
import Site
package import Vault

package struct Drill: Codable, Equatable, Sendable {
    package enum Event: String, CaseIterable, Sendable {
        case verification
        case testFailover = "test-failover"
        case failover
        case changePoint = "change-point"
        case failback
        /// No drill itself: a test is over, and what its person had to say of it.
        case testCleanup = "test-cleanup"
    }

    package enum Verdict: String, Sendable {
        case good, bad
        /// It ran, but nothing was started and nothing looked at what was recovered.
        case unchecked
    }

    /// What decided, where nothing was asked to.
    package static let noCheck = "none"
    /// Start commands had to succeed, and nothing else.
    package static let startCheck = "started"

    package struct Recovered: Codable, Equatable, Sendable {
        package let disk: String
        package let sequence: UInt64
        /// Of the state.
        package let timeMicros: UInt64

        package init(disk: String, sequence: UInt64, timeMicros: UInt64) {
            self.disk = disk
            self.sequence = sequence
            self.timeMicros = timeMicros
        }
    }

    /// What machines print as they fail may be more than an audit record holds; the reason is at its end.
    private static let noteLettersMax = 8_000

    /// The disk, machine or group by its name.
    package let unit: String
    package let disks: [Recovered]
    /// What decided.
    package let check: String
    package let good: UInt64
    package let note: String
    package let startedMicros: UInt64
    /// Until it was in use, or the check had ended: the recovery time that was measured.
    package let tookMicros: UInt64
    /// How far behind the start of the drill the oldest of the states was; nil where an older state than the newest was asked for.
    package let behindMicros: UInt64?

    package init(unit: String, disks: [Recovered], check: String, isGood: Bool, note: String, startedMicros: UInt64, tookMicros: UInt64, isNewest: Bool) {
        self.unit = unit
        self.disks = disks
        self.check = check
        good = isGood ? 1 : 0
        self.note = note.count > Self.noteLettersMax ? "…" + note.suffix(Self.noteLettersMax) : note
        self.startedMicros = startedMicros
        self.tookMicros = tookMicros
        let oldest = disks.map(\.timeMicros).min() ?? startedMicros
        behindMicros = isNewest ? startedMicros - min(oldest, startedMicros) : nil
    }

    package var isGood: Bool { good == 1 }

    package var verdict: Verdict { !isGood ? .bad : check == Self.noCheck ? .unchecked : .good }
}

/// What decided about a drill of machines: the check commands that were given or are in their settings, else that start commands succeeded.
extension Catalog {
    private static let checkBytesMax = 1_024

    func check(ofMachines machines: [String], start: String?, check: String? = nil, hasChecks: Bool = true) -> String {
        let checks = hasChecks ? machines.compactMap { check ?? settings(ofMachine: $0)?.check } : []
        // Of one that nothing was started of and nothing looked at, nobody knows whether it came up.
        guard machines.allSatisfy({ (hasChecks && (check ?? settings(ofMachine: $0)?.check) != nil) || start ?? settings(ofMachine: $0)?.start != nil }) else { return Drill.noCheck }
        return checks.isEmpty ? Drill.startCheck : String(Set(checks).sorted().joined(separator: "; ").prefix(Self.checkBytesMax))
    }
}

extension Vault {
    /// Keeps the drill in the audit chain.
    @discardableResult
    package func record(_ drill: Drill, as event: Drill.Event, actor: String) throws(VaultError) -> AuditRecord {
        try audit(event: event.rawValue, actor: actor, document: drill)
    }
}

extension FailoverReport {
    /// For `drill report`.
    func recordDrill(
        _ event: Drill.Event, in vault: Vault, _ catalogue: Catalogue, by host: FailoverHost, check: String, isGood: Bool, note: String, _ startedMicros: UInt64, isNewest: Bool
    ) {
        let recovered = disks.map { Drill.Recovered(disk: $0.disk.name, sequence: $0.point.sequence, timeMicros: $0.timeMicros ?? startedMicros) }
        let drill = Drill(
            unit: unit, disks: recovered, check: check, isGood: isGood, note: note, startedMicros: startedMicros, tookMicros: Drill.microsSince(startedMicros), isNewest: isNewest)
        drill.keep(as: event, in: vault, catalogue, by: host)
    }
}

extension Drill {
    static func microsSince(_ startedMicros: UInt64) -> UInt64 {
        let now = Clock.wallNanoseconds() / 1_000
        return now - min(startedMicros, now)
    }

    /// What was done is done: a chain that cannot be written is an event and fails nothing.
    func keep(as event: Event, in vault: Vault, _ catalogue: Catalogue, by host: FailoverHost) {
        do { try vault.record(self, as: event, actor: host.name) } catch {
            do { try catalogue.record(.warning, disk: nil, "the \(event.rawValue) of \(unit) is not in the vault's audit chain: \(error)") } catch {
                // The catalogue fails too; the command says what it did all the same.
            }
        }
    }
}
