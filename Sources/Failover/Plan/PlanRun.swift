// One run of a recovery plan as a pure state machine: which steps there are, which may begin now, and what their ends lead to. Who runs
// it stores it before and after each change (PlanRunStore), so that a killed run goes on where it was.
//
// Steps of one stage run at the same time, stages one after another: each script and each manual action is a stage, the units of a
// group are one. A step is waiting, running, succeeded, failed or skipped; a manual one that is running waits for its person.

import BlockIO

package struct PlanRun: Codable, Equatable, Sendable {
    package struct Step: Codable, Equatable, Sendable {
        package enum Work: Codable, Equatable, Sendable {
            case script(String, seconds: Int)
            case manual(String)
            case failover(unit: String)
        }

        package enum State: String, Codable, Sendable { case waiting, running, succeeded, failed, skipped }

        package let group: String
        package let stage: Int
        package let work: Work
        /// What a failure means for the stages after it.
        package let stopsOnError: Bool
        package internal(set) var state = State.waiting
        package internal(set) var detail: String?
        package internal(set) var beganMicros: UInt64?
        package internal(set) var endedMicros: UInt64?
        /// Who said that it is done, or left it out.
        package internal(set) var by: String?
        /// How it went before it was tried again, oldest first.
        package internal(set) var earlier: [Attempt]?

        package struct Attempt: Codable, Equatable, Sendable {
            package let state: State
            package let detail: String?
            package let beganMicros: UInt64?
            package let endedMicros: UInt64?
            /// Who had it tried again; nil: its process was gone.
            package let by: String?
        }

        mutating func tryAgain(by: String?, _ note: String?, now: UInt64) {
            let detail = [detail, note].compactMap { $0 }
            let attempt = Attempt(state: state, detail: detail.isEmpty ? nil : detail.joined(separator: "; "), beganMicros: beganMicros, endedMicros: endedMicros ?? now, by: by)
            earlier = (earlier ?? []) + [attempt]
            (state, self.detail, beganMicros, endedMicros) = (.waiting, nil, nil, nil)
        }
    }

    package enum State: String, Codable, Sendable {
        /// Steps run or may begin.
        case running
        /// A manual action waits for its person.
        case waiting
        /// A step failed and nothing goes on until a person says so.
        case stopped
        case succeeded
        /// It ran to its end, and steps failed, though the plan went on.
        case failed
    }

    package enum Answer: Equatable, Sendable {
        /// The manual action is done; what failed is tried again.
        case goOn
        /// The manual action, or what failed, is left out.
        case skip
    }

    package struct Place: Codable, Equatable, Sendable {
        package let vaultURL: String
        package let keyFile: String?
        package let passphraseFile: String?

        package init(vaultURL: String, keyFile: String?, passphraseFile: String?) { (self.vaultURL, self.keyFile, self.passphraseFile) = (vaultURL, keyFile, passphraseFile) }
    }

    package enum Refusal: Error, Equatable { case notWaiting(State) }

    package let id: String
    package let plan: String
    /// As it was when the run began: a change of the plan does not reach a run.
    package let document: String
    package let kind: RecoveryPlan.Kind
    package let startedMicros: UInt64
    /// Who began it; nil in runs of older versions.
    package let startedBy: String?
    /// Where and by what its vault was opened last; nil in runs of older versions.
    package var place: Place?
    package private(set) var steps: [Step]

    package init(id: String, plan: RecoveryPlan, document: String, kind: RecoveryPlan.Kind, place: Place? = nil, by: String, now: UInt64) {
        self.id = id
        self.plan = plan.name
        self.document = document
        self.kind = kind
        startedMicros = now
        startedBy = by
        self.place = place
        var (steps, stage): ([Step], Int) = ([], 0)
        func add(_ actions: [RecoveryPlan.Action], _ group: String) {
            for action in actions where action.kinds.contains(kind) {
                let work: Step.Work =
                    switch action.work {
                    case .script(let command, let seconds): .script(command, seconds: seconds)
                    case .manual(let text): .manual(text)
                    }
                steps.append(Step(group: group, stage: stage, work: work, stopsOnError: !action.mayFail))
                stage += 1
            }
        }
        for group in plan.groups {
            add(group.before, group.name)
            for unit in group.units { steps.append(Step(group: group.name, stage: stage, work: .failover(unit: unit), stopsOnError: group.stopsOnError)) }
            if !group.units.isEmpty { stage += 1 }
            add(group.after, group.name)
        }
        self.steps = steps
    }

    // MARK: What it says

    package var state: State {
        guard let stage = currentStage else { return steps.contains { $0.state == .failed || ($0.state == .skipped && !$0.isManual) } ? .failed : .succeeded }
        let here = steps.filter { $0.stage == stage }
        if here.contains(where: { $0.state == .running && $0.isManual }) { return .waiting }
        if isStopped(stage) { return .stopped }
        return .running
    }

    /// The first that is not over; nil when all are.
    private var currentStage: Int? {
        for stage in Set(steps.map(\.stage)).sorted() {
            let here = steps.filter { $0.stage == stage }
            if here.contains(where: { $0.state == .waiting || $0.state == .running }) || isStopped(stage) { return stage }
        }
        return nil
    }

    /// All its steps ended and one that nothing goes on after failed.
    private func isStopped(_ stage: Int) -> Bool {
        let here = steps.filter { $0.stage == stage }
        return here.allSatisfy { $0.state != .waiting && $0.state != .running } && here.contains { $0.state == .failed && $0.stopsOnError }
    }

    /// Steps that may begin now.
    package var due: [Int] {
        guard state == .running, let stage = currentStage else { return [] }
        return steps.indices.filter { steps[$0].stage == stage && steps[$0].state == .waiting }
    }

    /// What the test of a unit is called in a test run. A name is cut where it is too long for one, and a sum of all of it keeps two such apart.
    package func testName(of unit: String) -> String {
        let (name, bytesMax) = ("\(id)-\(unit)", 64)
        guard name.utf8.count > bytesMax else { return name }
        let sum = String(crc32c(Array(name.utf8)), radix: 16)
        return "\(name.prefix(bytesMax - 9))-\(String(repeating: "0", count: 8 - sum.count))\(sum)"
    }

    // MARK: What happens to it

    package mutating func begin(_ step: Int, now: UInt64) {
        guard due.contains(step) else { return }
        steps[step].state = .running
        steps[step].beganMicros = now
        (steps[step].endedMicros, steps[step].detail) = (nil, nil)
    }

    package mutating func end(_ step: Int, succeeded: Bool, detail: String?, now: UInt64) {
        guard steps.indices.contains(step), steps[step].state == .running, !steps[step].isManual else { return }
        steps[step].state = succeeded ? .succeeded : .failed
        steps[step].detail = detail
        steps[step].endedMicros = now
    }

    /// The process that ran it is gone: what it had under way is begun again. Scripts and failovers are repeatable.
    package mutating func interrupted(now: UInt64) {
        for step in steps.indices where steps[step].state == .running && !steps[step].isManual { steps[step].tryAgain(by: nil, "its process was gone", now: now) }
    }

    /// A person's answer to a manual action or a failure.
    package mutating func answer(_ answer: Answer, by: String, note: String?, now: UInt64) throws(Refusal) {
        let state = state
        guard state == .waiting || state == .stopped, let stage = currentStage else { throw .notWaiting(state) }
        for step in steps.indices where steps[step].stage == stage {
            switch (steps[step].state, answer) {
            case (.running, .goOn): steps[step].state = .succeeded
            case (.running, .skip): steps[step].state = .skipped
            case (.failed, .goOn):
                steps[step].tryAgain(by: by, note, now: now)
                continue
            case (.failed, .skip): steps[step].state = .skipped
            default: continue
            }
            if let note { steps[step].detail = [steps[step].detail, note].compactMap { $0 }.joined(separator: "; ") }
            steps[step].endedMicros = now
            steps[step].by = by
        }
    }
}

extension PlanRun.Step {
    package var isManual: Bool {
        if case .manual = work { return true }
        return false
    }
}
