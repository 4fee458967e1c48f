// One machine at rest for one point. A thread of its own asks it to rest, holds it until the point has its number or the time is over,
// and thaws it, in every case: who waits here may be held up by a log that hangs, the machine is not.
// Of `seconds`, half are for coming to rest, a quarter for the point, and the rest for running on.

package import BlockIO
import Glibc
package import Site
package import Vault

package typealias FreezeReport = @Sendable (SiteEvent.Severity, String) -> Void

package final class MachineFreeze: @unchecked Sendable {
    // Sendable: `phase`, `problem` and `isReleased` are guarded by `monitor`.
    private enum Phase { case comingToRest, atRest, over, thawed }

    private let machine: String
    private let freeze: MachineSettings.Freeze
    private let notes: FreezeNotes
    private let report: FreezeReport
    private let isStopping: @Sendable () -> Bool
    private let monitor = Monitor()
    private let changed = Signal()
    private var phase = Phase.comingToRest
    private var problem: String?
    private var isReleased = false

    /// Begins at once. `ended` is called last, when nothing is left to do, or when `isStopping` left it to a successor.
    package static func begin(
        _ machine: String, _ freeze: MachineSettings.Freeze, notes: FreezeNotes, isStopping: @escaping @Sendable () -> Bool, report: @escaping FreezeReport,
        ended: @escaping @Sendable () -> Void
    ) throws(SystemError) -> MachineFreeze {
        let made = MachineFreeze(machine, freeze, notes, isStopping, report)
        _ = try OwnThread(name: "freeze") {
            made.run()
            ended()
        }
        return made
    }

    /// Thaws what an earlier process left at rest; the same two ends.
    package static func thawLeftOver(
        _ machine: String, _ freeze: MachineSettings.Freeze, notes: FreezeNotes, isStopping: @escaping @Sendable () -> Bool, report: @escaping FreezeReport,
        ended: @escaping @Sendable () -> Void
    ) throws(SystemError) {
        let made = MachineFreeze(machine, freeze, notes, isStopping, report)
        _ = try OwnThread(name: "thaw") {
            report(.warning, "\(machine) may have been left at rest by a process that ended; it is thawed")
            made.thaw(nil, wasAsked: true, limit: Clock.monotonicNanoseconds() + UInt64(freeze.seconds) * 1_000_000_000)
            ended()
        }
    }

    private init(
        _ machine: String, _ freeze: MachineSettings.Freeze, _ notes: FreezeNotes, _ isStopping: @escaping @Sendable () -> Bool, _ report: @escaping FreezeReport
    ) {
        self.machine = machine
        self.freeze = freeze
        self.notes = notes
        self.isStopping = isStopping
        self.report = report
    }

    // MARK: Who cuts the point

    /// Why the machine did not come to rest; nil when it did.
    package func waitUntilAtRest() -> String? {
        monitor.lock()
        defer { monitor.unlock() }
        while phase == .comingToRest { monitor.wait(for: changed) }
        return problem
    }

    package var isAtRest: Bool {
        monitor.lock()
        defer { monitor.unlock() }
        return phase == .atRest
    }

    /// The point has its number, or there will be none.
    package func release() {
        monitor.lock()
        isReleased = true
        changed.wakeAll()
        monitor.unlock()
    }

    /// Returns when the machine runs on, or its time is over.
    package func waitUntilThawed() {
        monitor.lock()
        defer { monitor.unlock() }
        let limit = Clock.monotonicNanoseconds() + UInt64(freeze.seconds) * 1_000_000_000
        while phase != .thawed, Clock.monotonicNanoseconds() < limit { monitor.wait(for: changed, milliseconds: 50) }
    }

    // MARK: The thread

    private func run() {
        let began = Clock.monotonicNanoseconds()
        let quarter = UInt64(freeze.seconds) * 250_000_000
        do {
            try notes.write(machine, freeze)
        } catch {
            return end(.thawed, "\(machine) was not asked to rest, for that could not be noted: \(error)")
        }
        var agent: GuestAgent?
        var wasAsked = false
        let problem = comeToRest(&agent, &wasAsked, deadline: began + 2 * quarter)
        if let problem {
            end(.over, problem)
        } else {
            end(.atRest, nil)
            hold(until: began + 3 * quarter)
        }
        // The rescue command needs a moment too.
        thaw(agent, wasAsked: wasAsked, limit: began + 4 * quarter - quarter / 2)
    }

    /// Nil when the machine is at rest. `wasAsked`: the agent may carry it out, now or later.
    private func comeToRest(_ agent: inout GuestAgent?, _ wasAsked: inout Bool, deadline: UInt64) -> String? {
        do {
            if let command = freeze.before {
                let left = Double(deadline - min(deadline, Clock.monotonicNanoseconds())) / 1e9
                let outcome = try TimedCommand(command, environment: ["FARSHORE_MACHINE": machine], seconds: left).run()
                guard outcome.isSuccess else { return "\(machine): the script before the point \(outcome.text)" }
            }
            guard let path = freeze.agent else { return nil }
            let connected = try GuestAgent(socketPath: path, deadline: deadline)
            guard try connected.status(deadline: deadline) == .thawed else { return "\(machine) is at rest already, by somebody else's doing" }
            agent = connected
            wasAsked = true
            let count = try connected.freeze(deadline: deadline)
            return count > 0 ? nil : "\(machine): the guest agent found no filesystem that it could bring to rest"
        } catch {
            return "\(machine): \(error)"
        }
    }

    private func hold(until limit: UInt64) {
        monitor.lock()
        while !isReleased, !isStopping(), Clock.monotonicNanoseconds() < limit { monitor.wait(for: changed, milliseconds: 50) }
        // From here on no point counts it as at rest: whoever asks does so before the thaw is sent.
        phase = .over
        monitor.unlock()
    }

    private func thaw(_ agent: GuestAgent?, wasAsked: Bool, limit: UInt64) {
        let thaw = Thaw(machine: machine, freeze: freeze, limit: limit, report: report) { [self] milliseconds in
            let until = Clock.monotonicNanoseconds() + UInt64(milliseconds) * 1_000_000
            // While guests may be waiting for us, stopping waits for the thaw's first answer.
            while Clock.monotonicNanoseconds() < until {
                if isStopping(), Clock.monotonicNanoseconds() >= limit { return false }
                usleep(20_000)
            }
            return true
        }
        if thaw.run(agent, wasAsked: wasAsked) {
            do throws(SystemError) { try notes.remove(machine) } catch { report(.warning, "\(machine) runs on, but the note that it rests stays: \(error)") }
        }
        end(.thawed, nil)
    }

    private func end(_ phase: Phase, _ problem: String?) {
        monitor.lock()
        self.phase = phase
        if let problem { self.problem = problem }
        changed.wakeAll()
        monitor.unlock()
    }
}
