// A machine comes to rest for a point and runs on, whatever its agent, its scripts or we do.

import BlockIO
import Failover
import Foundation
import Glibc
import Site
import Synchronization
import Testing
import Vault

@Suite struct FreezeTests {
    /// A folder, the events, and the way to freeze one machine.
    final class Place: Sendable {
        let folder: String
        let notes: FreezeNotes
        let events = Mutex<[(SiteEvent.Severity, String)]>([])
        let isEnded = Mutex(false)
        let isStopping = Mutex(false)

        init() throws {
            folder = NSTemporaryDirectory() + "farshore-freeze-\(UInt32.random(in: 0...UInt32.max))"
            try Directory.create(folder)
            notes = FreezeNotes(folder: folder + "/frozen")
        }

        deinit { try? FileManager.default.removeItem(atPath: folder) }

        var socket: String { folder + "/agent.sock" }

        func begin(_ freeze: MachineSettings.Freeze) throws -> MachineFreeze {
            try MachineFreeze.begin(
                "web1", freeze, notes: notes, isStopping: { [self] in isStopping.withLock { $0 } },
                report: { [self] severity, text in events.withLock { $0.append((severity, text)) } }, ended: { [self] in isEnded.withLock { $0 = true } })
        }

        func thawLeftOver(_ freeze: MachineSettings.Freeze) throws {
            try MachineFreeze.thawLeftOver(
                "web1", freeze, notes: notes, isStopping: { [self] in isStopping.withLock { $0 } },
                report: { [self] severity, text in events.withLock { $0.append((severity, text)) } }, ended: { [self] in isEnded.withLock { $0 = true } })
        }

        func waitUntilEnded(seconds: Double = 20) -> Bool {
            let limit = Clock.monotonicNanoseconds() + UInt64(seconds * 1e9)
            while !isEnded.withLock({ $0 }), Clock.monotonicNanoseconds() < limit { usleep(5_000) }
            return isEnded.withLock { $0 }
        }

        func hasNote() throws -> Bool { try !notes.all().found.isEmpty }
        func said(_ text: String) -> Bool { events.withLock { $0.contains { $0.1.contains(text) } } }
    }

    @Test func aMachineRestsForThePointAndRunsOn() throws {
        let place = try Place()
        let agent = try AgentDouble(place.socket)
        defer { agent.end() }
        let freeze = try place.begin(MachineSettings.Freeze(agent: place.socket, before: "echo $FARSHORE_MACHINE >> \(place.folder)/order", after: "echo after >> \(place.folder)/order", seconds: 4))
        #expect(freeze.waitUntilAtRest() == nil)
        #expect(agent.isAtRest && freeze.isAtRest)
        #expect(try place.hasNote())
        freeze.release()
        freeze.waitUntilThawed()
        #expect(!agent.isAtRest && !freeze.isAtRest)
        #expect(place.waitUntilEnded())
        #expect(try !place.hasNote())
        #expect(try String(contentsOfFile: place.folder + "/order", encoding: .utf8) == "web1\nafter\n")
        #expect(place.events.withLock { $0.isEmpty })
    }

    /// The log hangs, so nobody says that the point has its number: the machine runs on all the same.
    @Test func aMachineRunsOnWhenThePointTakesTooLong() throws {
        let place = try Place()
        let agent = try AgentDouble(place.socket)
        defer { agent.end() }
        let freeze = try place.begin(MachineSettings.Freeze(agent: place.socket, seconds: 2))
        #expect(freeze.waitUntilAtRest() == nil)
        freeze.waitUntilThawed()
        #expect(!agent.isAtRest && !freeze.isAtRest)
        #expect(agent.longestSeconds <= 2)
    }

    /// It carries the freeze out after we gave up; the thaw that was sent behind it lets it run on.
    @Test func aHungAgentThatFreezesLateIsThawed() throws {
        let place = try Place()
        let agent = try AgentDouble(place.socket, .hangsInFreeze(milliseconds: 2_500))
        defer { agent.end() }
        let freeze = try place.begin(MachineSettings.Freeze(agent: place.socket, seconds: 2))
        #expect(freeze.waitUntilAtRest()?.contains("did not answer guest-fsfreeze-freeze in time") == true)
        #expect(place.waitUntilEnded())
        #expect(!agent.isAtRest && agent.longestSeconds <= 2)
        #expect(agent.freezes == 2)
        #expect(try !place.hasNote())
        #expect(place.said("may stand still") && place.said("runs on"))
    }

    @Test func anAgentThatDiesAtRestIsAskedAgain() throws {
        let place = try Place()
        let agent = try AgentDouble(place.socket, .diesAfterFreeze)
        defer { agent.end() }
        let freeze = try place.begin(MachineSettings.Freeze(agent: place.socket, seconds: 2))
        #expect(freeze.waitUntilAtRest()?.contains("ended the connection") == true)
        #expect(place.waitUntilEnded())
        #expect(!agent.isAtRest && agent.longestSeconds <= 2)
        #expect(place.events.withLock { $0.isEmpty })
    }

    @Test(arguments: [AgentDouble.Fault.garbage, .refuses, .frozenBefore])
    func anAgentThatDoesNotDoItIsNoRest(_ fault: AgentDouble.Fault) throws {
        let place = try Place()
        let agent = try AgentDouble(place.socket, fault)
        defer { agent.end() }
        let freeze = try place.begin(MachineSettings.Freeze(agent: place.socket, seconds: 2))
        let problem = try #require(freeze.waitUntilAtRest())
        switch fault {
        case .garbage: #expect(problem.contains("did not answer guest-sync-delimited in time"))
        case .refuses: #expect(problem.contains("fsfreeze hook has failed"))
        default:
            #expect(problem.contains("somebody else"))
            #expect(agent.isAtRest, "what somebody else froze is not thawed by us")
        }
        #expect(place.waitUntilEnded())
        #expect(try !place.hasNote())
    }

    /// The rescue command runs once the time is over, and its success counts.
    @Test func theRescueCommandRunsWhenTheAgentIsGone() throws {
        let place = try Place()
        let agent = try AgentDouble(place.socket, .deafToThaw(times: 1_000))
        defer { agent.end() }
        let freeze = try place.begin(MachineSettings.Freeze(agent: place.socket, rescue: "echo sysrq sent; touch \(place.folder)/rescued", seconds: 2))
        #expect(freeze.waitUntilAtRest() == nil)
        freeze.release()
        #expect(place.waitUntilEnded())
        #expect(FileManager.default.fileExists(atPath: place.folder + "/rescued"))
        #expect(place.said("still says frozen") && place.said("sysrq sent"))
        #expect(try !place.hasNote())
    }

    /// What a dead worker left: the note says so, and the next one thaws. While nothing answers, the note stays.
    @Test func whatADeadWorkerLeftAtRestIsThawed() throws {
        let place = try Place()
        let settings = MachineSettings.Freeze(agent: place.socket, after: "touch \(place.folder)/after", seconds: 2)
        try place.notes.write("web1", settings)
        try place.thawLeftOver(settings)
        usleep(300_000)
        #expect(try place.hasNote())
        let agent = try AgentDouble(place.socket, .frozenBefore)
        defer { agent.end() }
        #expect(place.waitUntilEnded())
        #expect(!agent.isAtRest)
        #expect(FileManager.default.fileExists(atPath: place.folder + "/after"))
        #expect(try !place.hasNote())
    }

    @Test func aNoteStaysWhenWeAreStoppedBeforeTheThaw() throws {
        let place = try Place()
        let settings = MachineSettings.Freeze(agent: place.socket, seconds: 2)
        try place.notes.write("web1", settings)
        place.isStopping.withLock { $0 = true }
        try place.thawLeftOver(settings)
        #expect(place.waitUntilEnded())
        #expect(try place.hasNote())
        #expect(try place.notes.all().found.map(\.machine) == ["web1"])
    }

    @Test func aNoteThatCannotBeReadIsSaid() throws {
        let place = try Place()
        try Directory.create(place.folder + "/frozen")
        try DurableFile.replace(place.folder + "/frozen/web2.json", with: Array("{".utf8))
        let (found, problems) = try place.notes.all()
        #expect(found.isEmpty && problems.count == 1)
    }

    @Test func scriptsThatFailOrHangAreNoRest() throws {
        for (script, part) in [("echo the database said no >&2; exit 3", "exited 3: the database said no"), ("sleep 60", "did not end in time")] {
            let place = try Place()
            let freeze = try place.begin(MachineSettings.Freeze(before: script, after: "touch \(place.folder)/after", seconds: 2))
            #expect(freeze.waitUntilAtRest()?.contains(part) == true)
            #expect(place.waitUntilEnded())
            #expect(FileManager.default.fileExists(atPath: place.folder + "/after"))
        }
    }
}

@Suite struct TimedCommandTests {
    @Test func outputEndingAndEnvironment() throws {
        let done = try TimedCommand("echo $FARSHORE_A; echo wrong >&2; exit 7", environment: ["FARSHORE_A": "a value"], seconds: 10).run()
        #expect(done.ending == .exited(7) && done.output == "a value\nwrong\n" && done.text == "exited 7: a value; wrong")
        #expect(try TimedCommand("kill -9 $$", seconds: 10).run().ending == .killed(signal: 9))
        #expect(try TimedCommand("true", seconds: 10).run().isSuccess)
    }

    /// Also what it started, and what does not heed SIGTERM.
    @Test func theWholeGroupEndsAtTheLimit() throws {
        // The kernel keeps 15 bytes of a program's name.
        let (folder, name) = (NSTemporaryDirectory(), "ft\(UInt32.random(in: 0...UInt32.max))")
        defer { unlink("\(folder)/\(name)") }
        let began = Clock.monotonicNanoseconds()
        let done = try TimedCommand("trap '' TERM; cp /bin/sleep \(folder)/\(name); \(folder)/\(name) 61 & sleep 62", seconds: 0.5).run()
        #expect(done.ending == .timedOut)
        #expect(Clock.monotonicNanoseconds() - began < 10_000_000_000)
        // A dead one may wait to be reaped by whoever inherited it.
        let left = try TimedCommand("for file in /proc/[0-9]*/stat; do read -r line <$file && echo \"$line\"; done 2>/dev/null | grep '(\(name))' | grep -vc '(\(name)) Z'", seconds: 10).run()
        #expect(left.output == "0\n")
    }

    /// A machine that a start command leaves running keeps its end of the output: nobody waits for it.
    @Test func whatIsLeftRunningHoldsNobodyUp() throws {
        let began = Clock.monotonicNanoseconds()
        let done = try TimedCommand("sleep 5 & echo started", seconds: 30).run()
        #expect(done.isSuccess && done.output == "started\n")
        #expect(Clock.monotonicNanoseconds() - began < 4_000_000_000)
    }

    @Test func onlyTheEndOfLongOutputIsKept() throws {
        let done = try TimedCommand("head -c 3000000 /dev/zero | tr '\\0' x; echo the end", seconds: 30).run()
        #expect(done.isSuccess && done.output.hasSuffix("the end\n") && done.output.utf8.count <= TimedCommand.outputBytesMax)
    }
}
