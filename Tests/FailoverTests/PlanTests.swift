// Recovery plans: what a person may write, the order of steps as a pure machine, and its execution with real scripts.

import BlockIO
import Failover
import Foundation
import Site
import Synchronization
import Testing
import Vault

private let shop = """
    # The shop, in the order in which its parts need one another.
    plan: shop
    groups:
      - name: database
        before:
          - script: ./announce
            timeout: 1m
            only: [planned, unplanned]
          - manual: Freeze the change calendar
            only: [unplanned]
        machines: [db1, db2]
        on-error: stop
      - name: front
        machines: [web1, web2, web3]
        after:
          - script: ./check-front
            on-error: continue
          - manual: "Move the DNS: shop.example.com"
    """

@Suite struct RecoveryPlanTests {
    @Test func aPlanIsReadAsItWasWritten() throws {
        let plan = try RecoveryPlan(shop)
        #expect(plan.name == "shop" && plan.groups.map(\.name) == ["database", "front"])
        #expect(plan.groups[0].units == ["db1", "db2"] && plan.groups[0].stopsOnError && !plan.groups[1].stopsOnError)
        #expect(plan.groups[0].before.first?.work == .script("./announce", seconds: 60) && plan.groups[0].before.first?.kinds == [.planned, .unplanned])
        #expect(plan.groups[1].after.map(\.mayFail) == [true, false])
        // JSON is YAML too.
        #expect(try RecoveryPlan(#"{"plan": "p", "groups": [{"machines": ["a"]}]}"#).groups.first?.name == "group 1")
    }

    @Test func whatIsWrongIsSaidWithItsLine() {
        for (text, line, part) in [
            ("", 1, "empty"), ("plan: a\n", 1, "groups"), ("plan: ../x\ngroups:\n  - machines: [a]\n", 1, "begins with plan"),
            ("plan: a\ngroups:\n  - machines: [a]\n  - machines: [a]\n", 1, "twice"), ("plan: a\ngroups:\n  - machines: [a]\n    colour: red\n", 4, "colour"),
            ("plan: a\ngroups:\n  - name: empty\n", 3, "does nothing"), ("plan: a\ngroups: &x\n  - machines: [a]\n", 2, "anchor"),
            ("plan: a\nplan: b\n", 2, "second time"), ("plan: a\ngroups:\n  - before:\n      - script: x\n        timeout: 2y\n", 5, "timeout"),
            ("plan: a\ngroups:\n  - before:\n      - {script: x, manual: y}\n", 4, "an action is"), ("plan: [a\n", 2, "expected"), ("plan: !!str a\n", 1, "tag"),
            ("plan: a\ngroups:\n  - machines: [a]\n---\nplan: b\n", 4, "second document"), ("plan: a\ngroups:\n  - machines: ['a b']\n", 3, "cannot be a machine"),
            (String(repeating: "[", count: 100), 1, "too deep"), ("plan: a\ngroups:\n  - before:\n      - script: x\n        only: [sometimes]\n", 5, "planned"),
        ] {
            let error = #expect(throws: YamlError.self) { try RecoveryPlan(text) }
            #expect(error?.line == line && error?.reason.contains(part) == true, "\(text.debugDescription): \(error?.description ?? "")")
        }
    }
}

@Suite struct PlanRunTests {
    private func begin(_ text: String = shop, _ kind: RecoveryPlan.Kind = .unplanned) throws -> PlanRun {
        PlanRun(id: "r", plan: try RecoveryPlan(text), document: text, kind: kind, by: "ada", now: 1)
    }

    private func texts(_ run: PlanRun) -> [String] { run.due.map { run.steps[$0].text } }

    @Test func stepsComeInOrderAndMachinesOfAGroupTogether() throws {
        var run = try begin()
        #expect(texts(run) == ["database: script ./announce"])
        run.begin(0, now: 2)
        #expect(run.due.isEmpty && run.state == .running)
        run.end(0, succeeded: true, detail: nil, now: 3)
        #expect(texts(run) == ["database: by hand: Freeze the change calendar"])
        run.begin(1, now: 4)
        #expect(run.state == .waiting && run.due.isEmpty)
        // No process ends what waits for a person.
        run.end(1, succeeded: true, detail: nil, now: 5)
        run.interrupted(now: 5)
        #expect(run.state == .waiting)
        try run.answer(.goOn, by: "bob", note: "done by Ada", now: 6)
        #expect(run.steps[1].detail == "done by Ada" && run.steps[1].by == "bob" && texts(run) == ["database: db1", "database: db2"])
        run.begin(2, now: 7)
        run.begin(3, now: 7)
        run.end(2, succeeded: true, detail: nil, now: 8)
        #expect(run.state == .running && run.due.isEmpty, "db2 has not ended")
        run.end(3, succeeded: true, detail: nil, now: 8)
        #expect(texts(run) == ["front: web1", "front: web2", "front: web3"])
    }

    /// The names of a plan and of a machine may each be as long as a name can be.
    @Test func aTestHasANameHoweverLongThePlansIs() throws {
        let plan = String(repeating: "p", count: 60)
        let run = PlanRun(id: plan + "-12", plan: try RecoveryPlan(shop), document: shop, kind: .test, by: "ada", now: 1)
        let units = ["a", "b", String(repeating: "m", count: 63) + "1", String(repeating: "m", count: 63) + "2"]
        let names = units.map(run.testName)
        #expect(names.allSatisfy { Catalog.isValidName($0) } && Set(names).count == units.count && names.allSatisfy { $0.hasPrefix(plan.prefix(50)) }, "\(names)")
        #expect(try begin().testName(of: "db1") == "r-db1")
        #expect(run.testName(of: "a") == names[0])
    }

    @Test func aTestRunLeavesOutWhatIsForOthers() throws {
        #expect(texts(try begin(shop, .test)) == ["database: db1", "database: db2"])
    }

    @Test func aFailureStopsWhereItSaysSoAndAPersonDecides() throws {
        var run = try begin(shop, .test)
        for step in run.due { run.begin(step, now: 2) }
        run.end(0, succeeded: false, detail: "no key", now: 3)
        #expect(run.state == .running, "db2 goes on in spite of db1")
        run.end(1, succeeded: true, detail: nil, now: 4)
        #expect(run.state == .stopped && run.due.isEmpty)
        var again = run
        try again.answer(.goOn, by: "bob", note: nil, now: 5)
        #expect(texts(again) == ["database: db1"], "only what failed")
        // What failed before, and who had it tried again, stays in the report.
        again.begin(0, now: 6)
        again.interrupted(now: 7)
        again.begin(0, now: 8)
        again.end(0, succeeded: true, detail: "up", now: 9)
        #expect(again.steps[0].earlier?.map(\.state) == [.failed, .running] && again.steps[0].earlier?.map(\.by) == ["bob", nil])
        #expect(again.steps[0].earlier?.first?.detail == "no key" && again.steps[0].earlier?.first?.endedMicros == 3 && again.steps[0].detail == "up")
        try run.answer(.skip, by: "bob", note: "db1 comes later", now: 5)
        for step in run.due { run.begin(step, now: 6) }
        for (number, step) in [2, 3, 4].enumerated() { run.end(step, succeeded: number != 1, detail: nil, now: 7) }
        #expect(texts(run) == ["front: script ./check-front"], "the group goes on in spite of web2")
        run.begin(5, now: 8)
        run.end(5, succeeded: false, detail: "exited 1", now: 9)
        run.begin(6, now: 10)
        #expect(run.state == .waiting)
        try run.answer(.skip, by: "bob", note: nil, now: 11)
        #expect(run.state == .failed && run.due.isEmpty)
        #expect(throws: PlanRun.Refusal.notWaiting(.failed)) { try run.answer(.goOn, by: "bob", note: nil, now: 12) }
    }

    /// Every way through: at each point every step under way may succeed, fail, or lose its process, and every question be answered
    /// either way. It always ends, no stage begins before the one before is over, and nothing runs twice at once.
    @Test func everyWayThroughEnds() throws {
        let text = "plan: p\ngroups:\n  - before:\n      - script: a\n      - manual: m\n    machines: [x, y]\n    on-error: stop\n  - machines: [z]\n    after:\n      - {script: b, on-error: continue}\n"
        var seen: Set<String> = []
        var (left, ends) = ([try begin(text)], Set<PlanRun.State>())
        while let run = left.popLast() {
            guard seen.insert("\(run.steps.map(\.state))").inserted else { continue }
            let under = run.steps.indices.filter { run.steps[$0].state == .running }
            let stages = Set(under.map { run.steps[$0].stage })
            #expect(stages.count <= 1)
            if let stage = stages.first { #expect(run.steps.allSatisfy { $0.stage >= stage || ($0.state != .waiting && $0.state != .running) }) }
            var next: [PlanRun] = []
            for step in run.due { next.append(with(run) { $0.begin(step, now: 1) }) }
            for step in under where !run.steps[step].isManual { for good in [true, false] { next.append(with(run) { $0.end(step, succeeded: good, detail: nil, now: 1) }) } }
            if under.contains(where: { !run.steps[$0].isManual }) { next.append(with(run) { $0.interrupted(now: 1) }) }
            if run.state == .waiting || run.state == .stopped {
                for answer in [PlanRun.Answer.goOn, .skip] {
                    var answered = run
                    try answered.answer(answer, by: "bob", note: nil, now: 1)
                    next.append(answered)
                }
            }
            if next.isEmpty { ends.insert(run.state) }
            left += next
        }
        #expect(ends == [.succeeded, .failed])
        #expect(seen.count > 50)
    }

    private func with(_ run: PlanRun, _ change: (inout PlanRun) -> Void) -> PlanRun {
        var changed = run
        change(&changed)
        return changed
    }
}

@Suite struct PlanExecutionTests {
    @Test func aRunGoesOnAfterItsPersonAndAfterItsProcessDied() throws {
        let folder = NSTemporaryDirectory() + "farshore-plan-\(UInt32.random(in: 0...UInt32.max))"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try Directory.create(folder)
        let text = """
            plan: p
            groups:
              - before:
                  - script: "echo $FARSHORE_KIND $FARSHORE_RUN >> \(folder)/order"
                machines: [a, b]
                after:
                  - manual: look at it
              - machines: [c]
                after:
                  - script: exit 3
            """
        let runs = PlanRuns(folder: folder + "/plans")
        let asked = Mutex<[String]>([])
        let execution = PlanExecution(runs: runs, failover: { unit, run in
            asked.withLock { $0.append(unit) }
            if unit == "b" { throw SiteError(.refused, "no disk of b is in the vault", remedy: "") }
            return "up"
        }, tell: { _ in })
        let id = try runs.newID("p")
        var run = PlanRun(id: id, plan: try RecoveryPlan(text), document: text, kind: .planned, by: "ada", now: 1)
        try runs.save(run)
        // As a process that died while the script ran left it.
        run.begin(0, now: 2)
        try runs.save(run)
        run = try execution.goOn(try runs.run(id))
        #expect(run.state == .waiting && asked.withLock { $0.sorted() } == ["a", "b"])
        #expect(try String(contentsOfFile: folder + "/order", encoding: .utf8) == "planned p-1\n")
        run = try runs.run(id)
        #expect(run.steps[2].state == .failed && run.steps[2].detail == "no disk of b is in the vault")
        try run.answer(.goOn, by: "bob", note: nil, now: 3)
        run = try execution.goOn(run)
        #expect(run.state == .stopped && asked.withLock { $0.last } == "c" && run.steps[5].detail == "exited 3")
        #expect(try runs.newID("p") == "p-2" && runs.all() == [run])
        let lock = try runs.lock(id)
        #expect(throws: SiteError.self) { try runs.lock(id) }
        withExtendedLifetime(lock) {}
        #expect(throws: SiteError.self) { try runs.run("../p") }
    }

    /// What `farshore apply` puts into a vault is the plan that stood in its file.
    @Test func aValueIsWrittenAsTextThatReadsAsTheSame() throws {
        let text = #"""
            plan: p
            groups:
              - before:
                  - script: "printf 'a: \"%s\"\\n' \"$X\"\nexit 0 # \u0007\u2028\t"
                  - {manual: "- ask: #1", only: [test, "planned"]}
                machines: [a, "-b", ""]
                empty: [[], {}, [[x], [y: z]]]
            """#
        let value = try YamlValue.parse(text)
        let written = try YamlValue.parse(value.document)
        #expect(Self.plain(written) == Self.plain(value) && Self.plain(value).contains("exit 0 # \u{7}\u{2028}\t"))
    }

    private static func plain(_ value: YamlValue) -> String {
        switch value.content {
        case .text(let text): "<\(text)>"
        case .list(let values): "[\(values.map(plain).joined(separator: ","))]"
        case .map(let entries): "{\(entries.map { "<\($0.key)>:\(plain($0.value))" }.joined(separator: ","))}"
        }
    }
}
