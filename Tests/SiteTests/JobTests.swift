import Foundation
import GRDB
import Site
import Testing

@Suite struct JobTests {
    private struct Refused: Error {}

    @Test func stepsAndEndAreKept() throws {
        let catalogue = try TemporarySite().catalogue()
        let job = try catalogue.beginJob(.protect, disk: "a", steps: ["check", "register"])
        try job.step("check") { "fine" }
        #expect(throws: Refused.self) { try job.step("register") { throw Refused() } }
        try job.fail("refused", remedy: "ask again")
        let seen = try catalogue.job(job.id)
        #expect(seen.state == .failed)
        #expect(seen.steps.map(\.state) == [.succeeded, .failed])
        #expect(seen.steps[0].detail == "fine")
        #expect(seen.remedy == "ask again")
        #expect(seen.endedNanoseconds != nil)
    }

    @Test func aJobWhoseProcessDiedIsInterrupted() throws {
        let site = try TemporarySite()
        let catalogue = try site.catalogue()
        let job = try catalogue.beginJob(.initialReplication, disk: "a", steps: [])
        #expect(try catalogue.job(job.id).state == .running)
        // The same process id with another start mark is another process.
        let raw = try DatabaseQueue(path: site.directory.cataloguePath)
        try raw.write { try $0.execute(sql: "UPDATE job SET process_start = 'another boot/1'") }
        #expect(try catalogue.job(job.id).state == .interrupted)
        #expect(try catalogue.jobs().map(\.id) == [job.id])
    }

    @Test func aKilledChildLeavesAnInterruptedJob() throws {
        let site = try TemporarySite()
        let catalogue = try site.catalogue()
        let job = try catalogue.beginJob(.protect, disk: nil, steps: [])
        let child = Process()
        child.executableURL = URL(fileURLWithPath: "/bin/sleep")
        child.arguments = ["60"]
        try child.run()
        defer { child.terminate() }
        let stat = try String(contentsOfFile: "/proc/\(child.processIdentifier)/stat", encoding: .utf8)
        let boot = try String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8).prefix(36)
        let start = "\(boot)/\(stat.split(separator: ")").last!.split(separator: " ")[19])"
        let raw = try DatabaseQueue(path: site.directory.cataloguePath)
        try raw.write { try $0.execute(sql: "UPDATE job SET process = ?, process_start = ?", arguments: [child.processIdentifier, start]) }
        #expect(try catalogue.job(job.id).state == .running)
        kill(child.processIdentifier, SIGKILL)
        child.waitUntilExit()
        #expect(try catalogue.job(job.id).state == .interrupted)
    }

    @Test func timeLeftFollowsTheMeanRate() throws {
        let catalogue = try TemporarySite().catalogue()
        let job = try catalogue.beginJob(.initialReplication, disk: "a", steps: [])
        #expect(try catalogue.job(job.id).secondsLeft() == nil)
        try job.progress(doneBytes: 100, totalBytes: 400)
        let seen = try catalogue.job(job.id)
        #expect(seen.secondsLeft(now: seen.startedNanoseconds + 10_000_000_000) == 30)
    }
}
