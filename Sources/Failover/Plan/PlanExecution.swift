// Carries a run of a plan out until it ends or a person has to say something. Scripts run here; failovers are somebody else's.

import BlockIO
import Glibc
import Synchronization

package struct PlanExecution: Sendable {
    /// Machines that come up at the same time.
    private static let threadsMax = 8

    let runs: PlanRuns
    /// Fails the unit over; says what came of it, or throws.
    let failover: @Sendable (_ unit: String, _ run: PlanRun) throws -> String
    let tell: @Sendable (String) -> Void

    package init(runs: PlanRuns, failover: @escaping @Sendable (String, PlanRun) throws -> String, tell: @escaping @Sendable (String) -> Void) {
        self.runs = runs
        self.failover = failover
        self.tell = tell
    }

    /// The run as far as it came. The caller holds its lock.
    package func goOn(_ run: PlanRun) throws -> PlanRun {
        let shared = SharedRun(run, runs)
        try shared.change { $0.interrupted(now: Clock.wallNanoseconds() / 1_000) }
        while true {
            let due = shared.run.due
            guard !due.isEmpty else { return shared.run }
            try shared.change { run in for step in due { run.begin(step, now: Clock.wallNanoseconds() / 1_000) } }
            let waiting = Mutex(due.filter { !run.steps[$0].isManual })
            for step in due where run.steps[step].isManual { tell(run.steps[step].text) }
            let work: @Sendable () -> Void = {
                while let step = waiting.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) { carryOut(step, shared) }
            }
            let threads = try (0..<min(Self.threadsMax, waiting.withLock { $0.count })).map { _ in try OwnThread(name: "plan", work) }
            for thread in threads { thread.join() }
            if let failure = shared.failure { throw failure }
        }
    }

    private func carryOut(_ step: Int, _ shared: SharedRun) {
        let run = shared.run
        tell("\(run.steps[step].text): begins")
        let result = Result { try outcome(of: run.steps[step], run) }
        let (succeeded, detail): (Bool, String) =
            switch result {
            case .success(let outcome): outcome
            case .failure(let error): (false, "\(error)")
            }
        tell("\(run.steps[step].text): \(succeeded ? "done" : "FAILED")\(detail.isEmpty ? "" : ", \(detail)")")
        shared.end(step, succeeded: succeeded, detail: detail)
    }

    private func outcome(of step: PlanRun.Step, _ run: PlanRun) throws -> (Bool, String) {
        switch step.work {
        case .manual: return (false, "nobody runs a manual action")
        case .failover(let unit): return (true, try failover(unit, run))
        case .script(let command, let seconds):
            let environment = ["FARSHORE_PLAN": run.plan, "FARSHORE_RUN": run.id, "FARSHORE_KIND": run.kind.rawValue, "FARSHORE_GROUP": step.group]
            let outcome = try TimedCommand(command, environment: environment, seconds: Double(seconds)).run()
            return (outcome.isSuccess, outcome.text)
        }
    }
}

extension PlanRun.Step {
    package var text: String {
        switch work {
        case .script(let command, _): "\(group): script \(command)"
        case .manual(let text): "\(group): by hand: \(text)"
        case .failover(let unit): "\(group): \(unit)"
        }
    }
}

/// The run and its file, changed together.
private final class SharedRun: Sendable {
    private struct State {
        var run: PlanRun
        var failure: (any Error)?
    }

    private let state: Mutex<State>
    private let runs: PlanRuns

    init(_ run: PlanRun, _ runs: PlanRuns) {
        state = Mutex(State(run: run))
        self.runs = runs
    }

    var run: PlanRun { state.withLock { $0.run } }
    /// The first that kept a change from its file.
    var failure: (any Error)? { state.withLock { $0.failure } }

    func change(_ change: (inout PlanRun) -> Void) throws {
        try state.withLock { state in
            change(&state.run)
            try runs.save(state.run)
        }
    }

    func end(_ step: Int, succeeded: Bool, detail: String) {
        do {
            try change { $0.end(step, succeeded: succeeded, detail: detail.isEmpty ? nil : detail, now: Clock.wallNanoseconds() / 1_000) }
        } catch {
            state.withLock { if $0.failure == nil { $0.failure = error } }
        }
    }
}
