// A drill: some state of some disks was recovered, and something said whether it is good. Kept as an audit record (docs/formats/vault.md
// section 10), by `verify`, by test failovers and by failovers; read by `drill report`.

import BlockIO
import Site
package import Vault

package struct Drill: Codable, Equatable, Sendable {
    package enum Event: String, CaseIterable, Sendable {
        case verification
        case testFailover = "test-failover"
        case failover
    }

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
        self.note = note
        self.startedMicros = startedMicros
        self.tookMicros = tookMicros
        let oldest = disks.map(\.timeMicros).min() ?? startedMicros
        behindMicros = isNewest ? startedMicros - min(oldest, startedMicros) : nil
    }

    package var isGood: Bool { good == 1 }
}

extension Vault {
    /// Keeps the drill in the audit chain.
    @discardableResult
    package func record(_ drill: Drill, as event: Drill.Event, actor: String) throws(VaultError) -> AuditRecord {
        try audit(event: event.rawValue, actor: actor, document: drill)
    }
}

extension FailoverReport {
    /// For `drill report`. What was done is done: a chain that cannot be written is an event and fails nothing.
    func recordDrill(
        _ event: Drill.Event, in vault: Vault, _ catalogue: Catalogue, by host: FailoverHost, check: String?, isGood: Bool, note: String, _ startedMicros: UInt64, isNewest: Bool
    ) {
        let recovered = disks.map { Drill.Recovered(disk: $0.disk.name, sequence: $0.point.sequence, timeMicros: $0.timeMicros ?? startedMicros) }
        let drill = Drill(
            unit: unit, disks: recovered, check: check ?? "started", isGood: isGood, note: note, startedMicros: startedMicros,
            tookMicros: Clock.wallNanoseconds() / 1_000 - min(startedMicros, Clock.wallNanoseconds() / 1_000), isNewest: isNewest)
        do { try vault.record(drill, as: event, actor: host.name) } catch {
            do { try catalogue.record(.warning, disk: nil, "the \(event.rawValue) of \(unit) is not in the vault's audit chain: \(error)") } catch {
                // The catalogue fails too; the command says what it did all the same.
            }
        }
    }
}
