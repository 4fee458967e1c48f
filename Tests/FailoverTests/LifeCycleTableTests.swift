// The table of the life cycle: every cell of docs/operating/failover.md is what the code does, and what must hold of any table.

import Foundation
import Testing
import Failover
import Vault

@Suite struct LifeCycleTableTests {
    @Test func everyCellIsOnThePage() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let page = try String(contentsOf: root.appending(path: "docs/operating/failover.md"), encoding: .utf8)
        for state in LifeCycle.State.allCases {
            let places = LifeCyclePlace.all(in: state)
            var expected = ["### `\(state.rawValue)`", "", "| command | " + places.map { "on \($0.rawValue)" }.joined(separator: " | ") + " |", "|---|" + places.map { _ in "---|" }.joined()]
            for command in LifeCycleCommand.allCases {
                expected.append("| `\(command.rawValue)` | " + places.map { LifeCycleDecision(command, in: state, on: $0).text }.joined(separator: " | ") + " |")
            }
            #expect(page.contains(expected.joined(separator: "\n") + "\n"), "the page lacks:\n\(expected.joined(separator: "\n"))")
        }
        for refusal in LifeCycleRefusal.allCases { #expect(page.contains("| \(refusal.rawValue) | \(refusal.reason) | \(refusal.remedy("UNIT")) |"), "\(refusal.rawValue)") }
    }

    /// All cells of the table.
    private static var cells: [(command: LifeCycleCommand, state: LifeCycle.State, place: LifeCyclePlace, decision: LifeCycleDecision)] {
        LifeCycle.State.allCases.flatMap { state in
            LifeCyclePlace.all(in: state).flatMap { place in
                LifeCycleCommand.allCases.map { ($0, state, place, LifeCycleDecision($0, in: state, on: place)) }
            }
        }
    }

    @Test func noCommandMakesTwoHostsWrite() {
        for cell in Self.cells {
            guard case .next(let next) = cell.decision else { continue }
            switch cell.command {
            case .run, .runPlanned:
                // Nobody fails over to where guests write, nor on beside another failover.
                #expect(next == .failedOver && cell.place != .active && cell.place != .former, "\(cell)")
                if cell.state == .failingOver || cell.state == .failedOver { #expect(cell.place == .target, "\(cell)") }
            case .cancel where cell.state != .replicating: #expect(next == .replicating && (cell.place == .target || cell.place == .active) && cell.state != .committed, "\(cell)")
            case .cancelLost: #expect(next == .replicating && cell.place != .target, "\(cell)")
            case .changePoint: #expect(next == .failedOver && (cell.state == .failedOver || cell.state == .failingOver) && cell.place == .target, "\(cell)")
            case .commit: #expect(next == .committed && cell.place == .target, "\(cell)")
            case .prepare: #expect(next == .prepared && cell.place == .active, "\(cell)")
            case .test, .failbackCancel: #expect(next == cell.state, "\(cell)")
            case .cancel, .reprotect, .failbackStart, .failbackComplete, .release: #expect(next == .replicating || cell.command == .failbackComplete, "\(cell)")
            }
        }
    }

    @Test func aPlannedRunNeedsAPreparedSource() {
        for place in LifeCyclePlace.all(in: .replicating) {
            guard case .refused = LifeCycleDecision(.runPlanned, in: .replicating, on: place) else { Issue.record("a planned run without prepare"); continue }
        }
    }

    /// From each state some host can go on, and from all but a committed one back.
    @Test func noStateIsADeadEnd() {
        for state in LifeCycle.State.allCases {
            let places = LifeCyclePlace.all(in: state)
            #expect(LifeCycleCommand.allCases.contains { command in
                places.contains { if case .next(let next) = LifeCycleDecision(command, in: state, on: $0) { next != state } else { false } }
            }, "\(state)")
            if state != .replicating {
                // Whichever single host is lost.
                for lost in places where lost != .other {
                    #expect(LifeCycleCommand.allCases.contains { command in
                        places.contains { place in
                            guard place != lost, command != .test, command != .failbackCancel, case .next = LifeCycleDecision(command, in: state, on: place) else { return false }
                            return true
                        }
                    }, "\(state) without \(lost)")
                }
            }
        }
    }

    @Test func placesOfHosts() {
        let (a, b, c) = (VaultID.random(), VaultID.random(), VaultID.random())
        #expect(LifeCyclePlace(of: a, in: nil, protectsHere: true) == .active)
        #expect(LifeCyclePlace(of: a, in: nil, protectsHere: false) == .other)
        let back = LifeCycle(state: .replicating, active: b, home: a, timeMicros: 1)
        #expect([a, b, c].map { LifeCyclePlace(of: $0, in: back, protectsHere: false) } == [.home, .active, .other])
        let over = LifeCycle(state: .failedOver, active: b, home: a, target: b, former: a, timeMicros: 1)
        #expect([a, b, c].map { LifeCyclePlace(of: $0, in: over, protectsHere: $0 == b) } == [.former, .target, .other])
        let old = LifeCycle(state: .failedOver, active: b, home: LifeCycle.unknownHost, target: b, former: LifeCycle.unknownHost, timeMicros: 1)
        #expect(LifeCyclePlace(of: a, in: old, protectsHere: true) == .former)
        #expect(LifeCyclePlace(of: c, in: old, protectsHere: false) == .other)
    }
}
