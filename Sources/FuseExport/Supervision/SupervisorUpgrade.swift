// The supervisor's side of an upgrade: SIGHUP, or `farshore upgrade`. The supervisor itself stays what it is.

import BlockIO
import CFuse
import Glibc

extension Supervisor {
    /// Puts the program that is at the path now on trial. Nothing is ended before it has passed.
    func beginUpgrade() {
        guard upgrade == nil else { return plan.log("an upgrade is under way already") }
        do throws(SystemError) {
            trial = try ProgramTrial.start(path: plan.programPath, arguments: plan.trialArguments, slots: mount.slots.raw)
            upgrade = WorkerUpgrade()
        } catch {
            report(newVersion: "?", pauseMilliseconds: 0, failure: "\(error)")
        }
    }

    func advanceUpgrade() {
        guard let upgrade else { return }
        let now = Clock.monotonicNanoseconds()
        switch upgrade.step {
        case .trial: judgeTrial(now: now)
        case .look(let version, _): lookForStorageWait(version, isOver: upgrade.isOverdue(now: now), now: now)
        case .handOver, .starting:
            if upgrade.isOverdue(now: now), let worker { endOverdue(worker, upgrade, now: now) }
        }
    }

    /// Killing a worker that waits for storage would end all of it but that wait, and nobody could serve before it.
    private func endOverdue(_ worker: Worker, _ upgrade: WorkerUpgrade, now: UInt64) {
        if ThreadStates(of: worker.process.pid).waitsForStorage { return self.upgrade!.waitOn(now: now) }
        guard !worker.isLeaving || !upgrade.isStarting else { return }
        // Its successor finds what it has in hand in the slots.
        worker.isLeaving = true
        plan.log(upgrade.isStarting ? "the new worker does not come to serve; ending it" : "the worker does not end; killing it")
        kill(worker.process.pid, SIGKILL)
        if !upgrade.isStarting { self.upgrade!.waitOn(now: now) }
    }

    private func judgeTrial(now: UInt64) {
        guard let verdict = trial?.poll() else { return }
        guard isServing else { return abandonTrial() }
        switch verdict {
        case .unfit(let reason):
            abandonTrial()
            report(newVersion: "?", pauseMilliseconds: 0, failure: reason)
        case .fit(let version):
            statesBefore = worker.map { ThreadStates(of: $0.process.pid) }
            upgrade!.beginLook(version: version, now: now)
            lookForStorageWait(version, isOver: false, now: now)
        }
    }

    /// A thread that waits for storage may be at it for a moment, or for as long as that storage hangs.
    private func lookForStorageWait(_ version: String, isOver: Bool, now: UInt64) {
        guard isServing else { return abandonTrial() }
        let stuck = statesBefore.flatMap { before in worker.map { ThreadStates(of: $0.process.pid).stuck(since: before) } } ?? []
        if stuck.isEmpty { return handOver(to: version, now: now) }
        guard isOver else { return }
        abandonTrial()
        report(
            newVersion: version, pauseMilliseconds: 0,
            failure: "the worker (pid \(worker?.process.pid ?? 0)) \(Self.describe(stuck)) and could not end; it was not asked to")
    }

    private static func describe(_ stuck: [ThreadStates.Thread]) -> String {
        "has waited for storage for \(WorkerUpgrade.storageWaitMilliseconds / 1000) s or more (D state, thread \(stuck.map(\.name).joined(separator: ", ")))"
    }

    private func abandonTrial() {
        trial = nil
        upgrade = nil
        statesBefore = nil
    }

    private func handOver(to version: String, now: UInt64) {
        guard let tried = trial.take() else { return abandonTrial() }
        statesBefore = nil
        previousProgram = exchange(&program, with: tried.program(version: version))
        if let worker {
            upgrade!.beginHandOver(now: now)
            worker.isLeaving = true
            if !WorkerLink.send(.handOver, to: worker.link.raw) { kill(worker.process.pid, SIGKILL) }
        } else {
            upgrade!.beginStart(now: now)
        }
    }

    /// True when the worker that ended made room for the new program.
    func noteHandedOver(now: UInt64) -> Bool {
        guard let upgrade, case .handOver = upgrade.step else { return false }
        self.upgrade!.beginStart(now: now)
        return true
    }

    /// The successor serves.
    func completeUpgrade() {
        guard let upgrade, upgrade.isStarting, let previous = previousProgram.take() else { return }
        let pause = upgrade.pauseMilliseconds(now: Clock.monotonicNanoseconds())
        self.upgrade = nil
        report(oldVersion: previous.version, newVersion: program.version, pauseMilliseconds: pause, failure: nil)
    }

    /// The new program did not come to serve: the one before takes over again. False when no upgrade is under way.
    func fallBack(because reason: String) -> Bool {
        guard let upgrade, upgrade.isStarting, let previous = previousProgram.take() else { return false }
        let failed = exchange(&program, with: previous)
        let pause = upgrade.pauseMilliseconds(now: Clock.monotonicNanoseconds())
        self.upgrade = nil
        nextStart = Clock.monotonicNanoseconds()
        report(oldVersion: program.version, newVersion: failed.version, pauseMilliseconds: pause, failure: reason)
        return true
    }

    private func report(oldVersion: String? = nil, newVersion: String, pauseMilliseconds: Int, failure: String?) {
        let outcome = UpgradeOutcome(
            oldVersion: oldVersion ?? program.version, newVersion: newVersion, pauseMilliseconds: pauseMilliseconds, failure: failure)
        plan.log(failure.map { "not upgraded, version \(outcome.oldVersion) serves on: \($0)" }
            ?? "upgraded from version \(outcome.oldVersion) to \(outcome.newVersion) in \(outcome.pauseMilliseconds) ms")
        plan.onNotice(.upgraded(outcome))
    }

    private func exchange(_ place: inout WorkerProgram, with new: consuming WorkerProgram) -> WorkerProgram {
        var result = new
        swap(&place, &result)
        return result
    }
}
