// One verification: copies of the disks at the point, the check, and the verdict into the heads.

import BlockIO
import Failover
import RecoveryPoints
import Vault

struct Verification {
    struct Found {
        let outcome: PointCheck.Outcome
        let startedMicros: UInt64
        let tookMicros: UInt64
    }

    let bench: Bench
    let vault: Vault
    let check: CheckOptions

    /// Publishes the verdict on every disk.
    func run(_ points: [ChosenPoint]) throws -> Found {
        let startedMicros = Clock.wallNanoseconds() / 1_000
        let started = Clock.monotonicNanoseconds()
        let outcome = try outcome(points)
        let took = (Clock.monotonicNanoseconds() - started) / 1_000
        for (group, points) in Dictionary(grouping: points, by: \.disk.group) {
            let verdicts = points.map {
                Head.Verdict(disk: $0.disk.id, sequence: $0.sequence, check: check.name, isGood: outcome.isGood, note: outcome.note, timeMicros: startedMicros + took)
            }
            try vault.publish(verdicts, group: group)
        }
        return Found(outcome: outcome, startedMicros: startedMicros, tookMicros: took)
    }

    /// What cannot be read from the vault is not good either.
    private func outcome(_ points: [ChosenPoint]) throws -> PointCheck.Outcome {
        var copies: [BenchCopy] = []
        defer { for copy in copies { copy.finish() } }
        do {
            for point in points {
                guard let history = try DiskHistory.newest(vault, point.disk) else { throw VaultError.notFound("nothing of the disk \(point.disk.name) is in the vault yet") }
                copies.append(try bench.copy(point.disk, try bench.reader(vault, history, at: point.sequence)))
            }
        } catch let error as VaultError where error.isIntegrityDamage {
            return PointCheck.Outcome(isGood: false, note: "\(error)")
        }
        return try PointCheck(bench: bench, options: check).run(copies)
    }

    /// The states with their times: those of the newest points at or before them.
    func recovered(_ points: [ChosenPoint]) throws -> [Drill.Recovered] {
        try points.map { point in
            let history = try DiskHistory.newest(vault, point.disk)
            let time = try history?.newestPoint { $0.sequence <= point.sequence }?.timeMicros ?? 0
            return Drill.Recovered(disk: point.disk.name, sequence: point.sequence, timeMicros: time)
        }
    }
}
