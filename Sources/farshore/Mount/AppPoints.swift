// App-consistent points: the machines come to rest, the point is cut, they run on. Where one of them does not come to rest, the point is
// crash-consistent and says why. Used by the interval's threads and the control socket; at the worker's start it thaws what a predecessor
// left at rest.

import BlockIO
import Failover
import Glibc
import Replication
import Site
import Synchronization
import Vault
import VirtualDisk

final class AppPoints: Sendable {
    /// A thaw that has not come about by then is left to the next worker.
    private static let stopSecondsMax: UInt64 = 20

    private struct State {
        var isStopping = false
        /// Machines that a thread of ours brings to rest or thaws.
        var busy: Set<String> = []
    }

    private let catalogue: Catalogue
    private let notes: FreezeNotes
    private let state = Mutex(State())

    init(catalogue: Catalogue) {
        self.catalogue = catalogue
        notes = FreezeNotes(folder: catalogue.site.frozenFolder)
    }

    /// One point over the disks of these machines. `problem`: why it is crash-consistent only.
    func cut(_ disks: [VirtualDisk], machines: [String], tag: String) throws(SystemError) -> (sequence: UInt64, time: UInt64, problem: String?) {
        var (freezes, problem) = begin(machines)
        defer { for freeze in freezes { freeze.waitUntilThawed() } }
        for freeze in freezes { problem = freeze.waitUntilAtRest() ?? problem }
        // None of them waits for a point that is none of theirs.
        if problem != nil { for freeze in freezes { freeze.release() } }
        var isAppConsistent = false
        var time: UInt64 = 0
        let sequence: UInt64
        do {
            defer { for freeze in freezes { freeze.release() } }
            sequence = try VirtualDisk.cutPoint(disks, tag: tag) { wallNanoseconds in
                time = wallNanoseconds
                isAppConsistent = problem == nil && freezes.allSatisfy(\.isAtRest)
                return isAppConsistent
            }
        }
        return (sequence, time, isAppConsistent ? nil : problem ?? "a machine ran on before the point had its number, for its time was over")
    }

    /// Either all of them are coming to rest, or there is a problem.
    private func begin(_ machines: [String]) -> ([MachineFreeze], String?) {
        var wanted: [(machine: String, freeze: MachineSettings.Freeze)] = []
        for machine in machines {
            do {
                guard let freeze = try catalogue.settings(ofMachine: machine).freeze else { return ([], "\(machine) has neither a guest agent nor scripts: farshore machine set \(machine) --help") }
                wanted.append((machine, freeze))
            } catch {
                return ([], "\(machine): \(error)")
            }
        }
        var freezes: [MachineFreeze] = []
        for (machine, freeze) in wanted {
            let isFree = state.withLock { state in !state.isStopping && state.busy.insert(machine).inserted }
            guard isFree else { return (freezes, "\(machine) is being brought to rest for another point, or has not been thawed after one") }
            do throws(SystemError) {
                freezes.append(
                    try MachineFreeze.begin(machine, freeze, notes: notes, isStopping: isStopping, report: report) { [self] in end(machine) })
            } catch {
                end(machine)
                return (freezes, "\(machine): \(error)")
            }
        }
        return (freezes, nil)
    }

    func thawLeftOvers() {
        do throws(SystemError) {
            let (found, problems) = try notes.all()
            for problem in problems { report(.critical, problem) }
            for (machine, freeze) in found {
                guard state.withLock({ $0.busy.insert(machine).inserted }) else { continue }
                try MachineFreeze.thawLeftOver(machine, freeze, notes: notes, isStopping: isStopping, report: report) { [self] in end(machine) }
            }
        } catch {
            report(.critical, "machines that were left at rest cannot be thawed: \(error)")
        }
    }

    /// Returns when all machines run on, or the time is over; then the notes stay for the next worker.
    func stop() {
        state.withLock { $0.isStopping = true }
        let limit = Clock.monotonicNanoseconds() + Self.stopSecondsMax * 1_000_000_000
        while state.withLock({ !$0.busy.isEmpty }), Clock.monotonicNanoseconds() < limit { usleep(20_000) }
    }

    private func end(_ machine: String) { state.withLock { _ = $0.busy.remove(machine) } }

    private var isStopping: @Sendable () -> Bool { { [self] in state.withLock { $0.isStopping } } }

    private var report: FreezeReport {
        { [catalogue] severity, text in
            serviceLog(text)
            do throws(SiteError) { try catalogue.record(severity, disk: nil, text) } catch { serviceLog("this event could not be recorded: \(error)") }
        }
    }
}
