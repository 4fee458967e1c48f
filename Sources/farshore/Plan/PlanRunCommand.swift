// `farshore plan run`, `continue`, `runs` and `report`. A run is in the foreground until it ends or needs a person; then the command
// ends too, and `plan continue` goes on, also after a kill. Each machine is failed over by the command a person would use.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import Glibc
import Site
import Vault

struct PlanReportDocument: Encodable {
    struct Step: Encodable {
        let group: String
        let kind: String
        let what: String
        let state: String
        let detail: String?
        let began: String?
        let ended: String?
        let seconds: Double?
        /// Who said that it is done, or left it out.
        let by: String?
        let earlier: [Attempt]?

        /// Before it was tried again.
        /// A manual action that was reached.
        var isForPerson: Bool { kind == "manual" && state == PlanRun.Step.State.running.rawValue }

        struct Attempt: Encodable {
            let state: String
            let detail: String?
            let began: String?
            let ended: String?
            let by: String?
        }

        init(_ step: PlanRun.Step) {
            group = step.group
            (kind, what) =
                switch step.work {
                case .script(let command, _): ("script", command)
                case .manual(let text): ("manual", text)
                case .failover(let unit): ("machine", unit)
                }
            state = step.state.rawValue
            detail = step.detail
            by = step.by
            earlier = step.earlier.map { $0.map { attempt in
                Attempt(
                    state: attempt.state == .running ? "interrupted" : attempt.state.rawValue, detail: attempt.detail, began: attempt.beganMicros.map { timeText(nanoseconds: $0 * 1_000) },
                    ended: attempt.endedMicros.map { timeText(nanoseconds: $0 * 1_000) }, by: attempt.by)
            } }
            began = step.beganMicros.map { timeText(nanoseconds: $0 * 1_000) }
            ended = step.endedMicros.map { timeText(nanoseconds: $0 * 1_000) }
            if let from = step.beganMicros, let to = step.endedMicros { seconds = Double(to - min(from, to)) / 1e6 } else { seconds = nil }
        }
    }

    let run: String
    let plan: String
    let kind: String
    let state: String
    let isRunning: Bool
    let started: String
    let startedBy: String?
    let ended: String?
    let seconds: Double?
    let steps: [Step]

    init(_ run: PlanRun, isRunning: Bool) {
        self.run = run.id
        plan = run.plan
        kind = run.kind.rawValue
        state = run.state == .running && !isRunning ? "interrupted" : run.state.rawValue
        self.isRunning = isRunning
        started = timeText(nanoseconds: run.startedMicros * 1_000)
        startedBy = run.startedBy
        let last = run.state == .succeeded || run.state == .failed ? run.steps.compactMap(\.endedMicros).max() : nil
        ended = last.map { timeText(nanoseconds: $0 * 1_000) }
        seconds = last.map { Double($0 - min($0, run.startedMicros)) / 1e6 }
        steps = run.steps.map(Step.init)
    }

    private static let whatLettersMax = 40
    private static let detailLettersMax = 72

    /// Its cells are cut so that a line is one; commands that it names are as the person has to type them.
    func text(of record: PlanRun, _ site: SiteOptions) -> String {
        let goOn = record.goOnCommand(site)
        var rows: [[String]] = []
        for step in steps {
            let head = [step.group, step.kind, cutText(step.what, Self.whatLettersMax)]
            for before in step.earlier ?? [] { rows.append(head + ["was \(before.state)", "-", cutText(before.detail ?? "", Self.detailLettersMax), before.by ?? ""]) }
            let took = step.seconds.map { String(format: "%.1f s", $0) } ?? "-"
            rows.append(head + [step.isForPerson ? "waits for a person" : step.state, took, cutText(step.detail ?? "", Self.detailLettersMax), step.by ?? ""])
        }
        let isCut = rows.contains { row in row[2].contains(" … ") || row[5].contains(" … ") }
        var lines = ["\(run): \(kind) run of \(plan)\(startedBy.map { " by \($0)" } ?? ""), \(state)" + (seconds.map { String(format: ", %.1f s", $0) } ?? ""), tableText([["GROUP", "KIND", "WHAT", "STATE", "TOOK", "DETAIL", "BY"]] + rows)]
        if isCut { lines.append("where … stands, farshore plan report \(run) --json\(site.words) has the whole") }
        switch state {
        case "waiting": lines.append("waits for a person: \(steps.first(where: \.isForPerson)?.what ?? "")\nthen: \(goOn)")
        case "stopped": lines.append("stopped by a failure; mend it, then \(goOn), or with --skip to go on without it")
        case "interrupted": lines.append("the command that ran it was ended; \(goOn) goes on")
        default: break
        }
        return lines.joined(separator: "\n")
    }
}

extension PlanRun {
    /// With all that the person has to give it again. Runs of older versions do not know their vault.
    func goOnCommand(_ site: SiteOptions) -> String {
        let key = (place?.keyFile).map { " --key-file \(shellWord($0))" } ?? (place?.passphraseFile).map { " --passphrase-file \(shellWord($0))" } ?? ""
        return "farshore plan continue \(id) --vault \(shellWord(place?.vaultURL ?? "URL"))\(key)\(site.words)"
    }
}

/// Runs and continues: opens the vault for the machines, holds the run's lock, reports.
private struct PlanWork {
    let vault: VaultOptions
    let site: SiteOptions
    let output: OutputOptions

    /// Letters of a line that tells how a step ended, while the run goes on.
    private static let toldLettersMax = 400

    var runs: PlanRuns { PlanRuns(folder: site.directory.plansFolder) }
    var place: PlanRun.Place { PlanRun.Place(vaultURL: vault.url, keyFile: vault.key.keyFile.map(absolutePath), passphraseFile: vault.key.passphraseFile.map(absolutePath)) }

    func goOn(_ run: PlanRun) throws {
        let catalogue = try site.catalogue()
        let end = try PlanExecution(runs: runs, failover: { try failOver($0, $1) }, tell: { printError(cutText($0, Self.toldLettersMax)) }).goOn(run)
        let document = PlanReportDocument(end, isRunning: false)
        let isOver = end.state == .succeeded || end.state == .failed
        try catalogue.record(
            end.state == .succeeded ? .information : .warning, disk: nil,
            "\(end.kind.rawValue) run \(end.id) of the plan \(end.plan) " + (isOver ? "ended: \(document.state)" : "is \(document.state)"))
        try output.print(document) { $0.text(of: end, site) }
        if end.state == .failed || end.state == .stopped {
            throw Failure(.failed, "steps of \(end.id) failed", try: isOver ? "farshore plan report \(end.id)\(site.words)" : end.goOnCommand(site))
        }
    }

    /// `failover test` takes plans too: where one has the unit's name, which is meant is said.
    private func testable(_ unit: String) throws -> String {
        let catalog = try vault.open(site).catalog().document
        guard catalog.plans?.contains(where: { $0.name == unit }) == true, let noun = NamedPlan.noun(of: unit, in: catalog) else { return unit }
        return "\(noun.rawValue):\(unit)"
    }

    /// By this program, so that a plan does nothing that a person could not do, or take up again, by hand.
    private func failOver(_ unit: String, _ run: PlanRun) throws -> String {
        let test = run.testName(of: unit)
        // Killed before it could say so; what failed there is gone on with by the same name.
        if run.kind == .test, try site.catalogue().openFailovers(.test).contains(where: { $0.name == test && $0.verdict == .good }) { return "the test \(test) is up" }
        var words = ["failover", run.kind == .test ? "test" : "run", try run.kind == .test ? testable(unit) : unit, "--vault", vault.url, "--site", site.directory.path]
        if let file = vault.key.keyFile { words += ["--key-file", absolutePath(file)] }
        if let file = vault.key.passphraseFile { words += ["--passphrase-file", absolutePath(file)] }
        switch run.kind {
        case .test: words += ["--name", test]
        case .planned: words += ["--planned"]
        case .unplanned: break
        }
        let program = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let outcome = try TimedCommand("exec " + ([program] + words).map(shellQuoted).joined(separator: " "), seconds: 86_400).run()
        guard outcome.isSuccess else { throw Failure(.failed, outcome.text, try: "farshore \(words.joined(separator: " "))") }
        return outcome.text
    }
}

struct PlanRunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Run a recovery plan on this host.",
        discussion: """
            Groups come up one after another, the machines of a group at the same time. At a manual action the command ends,
            and `plan continue` goes on when it was done. A script that fails stops the run, unless the plan says otherwise; a
            machine that fails stops none of the others. Exits 1 when a step failed.

            Example:
              farshore plan run shop --kind test --vault s3://backup/vault --key-file vault.key
            """)

    @Argument(help: "The plan.")
    var plan: String

    @Option(name: .long, help: "test, planned or unplanned.")
    var kind: String

    @Flag(name: .long, help: "Though a run of the plan in earnest has not ended.")
    var beside = false

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        guard let kind = RecoveryPlan.Kind(rawValue: kind) else { throw ValidationError("--kind is test, planned or unplanned, not \(kind.debugDescription)") }
        try beginPlan(plan, kind, beside: beside, vault, site, output)
    }
}

func beginPlan(_ plan: String, _ kind: RecoveryPlan.Kind, beside: Bool, _ vault: VaultOptions, _ site: SiteOptions, _ output: OutputOptions) throws {
    let catalog = try vault.open(site).catalog().document
    let text = try catalog.plan(named: plan).document
    let read: RecoveryPlan
    do throws(YamlError) { read = try RecoveryPlan(text) } catch { throw Failure(.failed, "the plan \(plan) in the vault cannot be read, \(error)", try: "farshore plan apply FILE --vault \(vault.url)") }
    if let unknown = catalog.unknownUnits(of: read).first {
        throw Failure(.notFound, "the plan names \(unknown), but the vault has no machine or group of that name", try: "farshore plan apply FILE --vault \(vault.url), with the machines there are")
    }
    let work = PlanWork(vault: vault, site: site, output: output)
    try site.directory.create()
    if kind != .test, !beside, let other = try work.runs.unfinished(plan) {
        throw Failure(
            .inUse, "the run \(other.id) of the plan has not ended: \(try work.runs.isRunning(other.id) ? "it runs" : PlanReportDocument(other, isRunning: false).state)",
            try: "\(other.goOnCommand(site)); --beside begins another one all the same")
    }
    let id = try work.runs.newID(plan)
    let lock = try work.runs.lock(id)
    defer { withExtendedLifetime(lock) {} }
    let run = PlanRun(id: id, plan: read, document: text, kind: kind, place: work.place, by: VerifyCommand.actor, now: Clock.wallNanoseconds() / 1_000)
    try work.runs.save(run)
    try work.goOn(run)
}

struct PlanContinue: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "continue",
        abstract: "Go on with a run that waits for a person, stopped at a failure, or was interrupted.",
        discussion: """
            A manual action counts as done, and what failed is tried again; with --skip both are left out.

            Example:
              farshore plan continue shop-1 --vault s3://backup/vault --key-file vault.key --note "DNS moved"
            """)

    @Argument(help: ArgumentHelp("The run.", valueName: "run"))
    var id: String

    @Flag(name: .long, help: "Leave out what waits or failed.")
    var skip = false

    @Option(name: .long, help: "For the report.")
    var note: String?

    @OptionGroup var vault: VaultOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let work = PlanWork(vault: vault, site: site, output: output)
        let lock = try work.runs.lock(id)
        defer { withExtendedLifetime(lock) {} }
        var found = try work.runs.run(id)
        found.place = work.place
        switch found.state {
        case .succeeded, .failed: throw Failure(.failed, "the run \(id) is over: \(found.state.rawValue)", try: "farshore plan report \(id)")
        case .waiting, .stopped:
            try found.answer(skip ? .skip : .goOn, by: VerifyCommand.actor, note: note, now: Clock.wallNanoseconds() / 1_000)
            try work.runs.save(found)
        case .running:
            guard !skip else { throw Failure(.failed, "the run \(id) was interrupted: there is nothing to skip", try: "without --skip: \(found.goOnCommand(site))") }
        }
        try work.goOn(found)
    }
}

struct PlanRunList: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "runs", abstract: "List the runs of plans on this host.", discussion: "Example:\n  farshore plan runs")

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let runs = PlanRuns(folder: site.directory.plansFolder)
        try output.print(try runs.all().map { PlanReportDocument($0, isRunning: try runs.isRunning($0.id)) }) { runs in
            runs.isEmpty ? "no runs" : tableText([["RUN", "KIND", "STATE", "STARTED"]] + runs.map { [$0.run, $0.kind, $0.state, $0.started] })
        }
    }
}

struct PlanReport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report", abstract: "What a run of a plan did, step by step, with times.", discussion: "Example:\n  farshore plan report shop-1 --json")

    @Argument(help: ArgumentHelp("The run.", valueName: "run"))
    var id: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let runs = PlanRuns(folder: site.directory.plansFolder)
        let run = try runs.run(id)
        try output.print(PlanReportDocument(run, isRunning: try runs.isRunning(id))) { $0.text(of: run, site) }
    }
}
