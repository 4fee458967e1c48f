// Lets a machine run on, whatever became of who asked it to rest: asked of the agent again and again until it says that it did, then the
// script that follows. Nothing but the agent's word, or the rescue command's success, counts as thawed.

import BlockIO
import Glibc
import Site
import Vault

struct Thaw {
    private static let scriptTriesMax = 3
    private static let pauseMillisecondsMax = 5_000
    private static let callNanoseconds: UInt64 = 1_000_000_000

    let machine: String
    let freeze: MachineSettings.Freeze
    /// When the machine has to run again.
    let limit: UInt64
    let report: FreezeReport
    /// Sleeps; false when there is no time any more: the note stays for a successor.
    let pause: (_ milliseconds: Int) -> Bool

    /// True when the machine runs on. `agent`: the connection by which it was asked to rest.
    func run(_ agent: GuestAgent?, wasAsked: Bool) -> Bool {
        if wasAsked, freeze.agent != nil, !thaw(agent) { return false }
        return runScript()
    }

    private func thaw(_ first: GuestAgent?) -> Bool {
        var (agent, waited, isLate) = (first, 100, false)
        while true {
            let problem = ask(&agent)
            guard let problem else {
                if isLate { report(.information, "\(machine) runs on: the guest agent thawed it") }
                return true
            }
            if Clock.monotonicNanoseconds() >= limit, !isLate {
                isLate = true
                report(.critical, "\(machine) may stand still: it was asked to rest for a recovery point, and cannot be thawed: \(problem); asked again until it answers")
                if rescue() { return true }
            }
            let left = limit - min(limit, Clock.monotonicNanoseconds())
            let until = isLate ? waited : min(waited, Int(left / 1_000_000) + 1)
            guard pause(until) else { return false }
            waited = min(waited * 2, isLate ? Self.pauseMillisecondsMax : 400)
        }
    }

    /// Nil when the machine says that it runs on.
    private func ask(_ agent: inout GuestAgent?) -> String? {
        let deadline = Clock.monotonicNanoseconds() + Self.callNanoseconds
        do throws(GuestAgent.Failure) {
            let connected: GuestAgent
            if let agent { connected = agent } else { connected = try GuestAgent(socketPath: freeze.agent ?? "", deadline: deadline) }
            agent = connected
            _ = try connected.thaw(deadline: deadline)
            guard try connected.status(deadline: deadline) == .thawed else { return "the guest agent still says frozen" }
            return nil
        } catch {
            agent?.disconnect()
            agent = nil
            return error.description
        }
    }

    private func rescue() -> Bool {
        guard let command = freeze.rescue else { return false }
        switch outcome(command) {
        case .success(let outcome):
            report(outcome.isSuccess ? .warning : .critical, "\(machine): the rescue command \(outcome.text)")
            return outcome.isSuccess
        case .failure(let error):
            report(.critical, "\(machine): the rescue command did not run: \(error)")
            return false
        }
    }

    private func runScript() -> Bool {
        guard let command = freeze.after else { return true }
        for attempt in 1...Self.scriptTriesMax {
            switch outcome(command) {
            case .success(let outcome) where outcome.isSuccess: return true
            case .success(let outcome): if attempt == Self.scriptTriesMax { report(.critical, "\(machine): the script after the point \(outcome.text)") }
            case .failure(let error): if attempt == Self.scriptTriesMax { report(.critical, "\(machine): the script after the point did not run: \(error)") }
            }
        }
        return true
    }

    private func outcome(_ command: String) -> Result<TimedCommand.Outcome, SystemError> {
        Result { () throws(SystemError) in try TimedCommand(command, environment: ["FARSHORE_MACHINE": machine], seconds: Double(freeze.seconds)).run() }
    }
}
