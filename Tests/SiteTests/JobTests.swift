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

    // MARK: What can be done about one

    private let command = Job.Command(folder: "/srv", words: ["failover", "run", "db", "--vault", "file:///v", "--key-file=k"])

    /// A job of a command, with steps that were done.
    private func job(_ kind: Job.Kind, _ site: TemporarySite, done: [String] = [], open: [String] = [], vault: String? = nil, words: [String]? = nil, state: Job.State = .failed) throws -> Job {
        let catalogue = try Catalogue(site: site.directory, command: words.map { Job.Command(folder: "/srv", words: $0) } ?? command)
        let job = try catalogue.beginJob(kind, disk: "db", vault: vault, steps: done + open)
        for step in done { try job.step(step) { nil } }
        switch state {
        case .succeeded: try job.succeed()
        case .failed: try job.fail("refused", remedy: "ask again")
        case .running, .interrupted, .cancelled: break
        }
        return try catalogue.job(job.id)
    }

    @Test func howAJobWasBegunIsKept() throws {
        let site = try TemporarySite()
        #expect(try job(.failover, site).command == command)
        // The uploader runs as a service: its own words begin nothing again.
        #expect(try job(.initialReplication, site).command == nil)
        #expect(try site.catalogue().job(site.catalogue().beginJob(.protect, disk: "a", steps: []).id).command == nil)
    }

    @Test func whatIsTriedAgainIsTheCommandThatBeganIt() throws {
        let site = try TemporarySite()
        for kind in [Job.Kind.protect, .unprotect, .failover, .failback, .failoverPreparation, .testFailover] {
            #expect(try job(kind, site).retry(later: nil) == .command(command.words), "\(kind)")
        }
        #expect(try job(.initialReplication, site).retry(later: nil) == .command(["resume", "db"]))
        #expect(try job(.resynchronisation, site, vault: "s3://b").retry(later: nil) == .command(["resync", "db", "--now", "--vault", "s3://b"]))
        for (state, word) in [(Job.State.running, "runs"), (.succeeded, "succeeded")] {
            guard case .refused(let reason, _) = try job(.failover, site, state: state).retry(later: nil) else { Issue.record("\(state)"); continue }
            #expect(reason.hasSuffix(word), "\(reason)")
        }
        for word in ["--drop-home-writes", "--discard-log"] {
            guard case .refused(let reason, _) = try job(.failback, site, words: ["failback", "start", "db", word]).retry(later: nil) else { Issue.record("\(word)"); continue }
            #expect(reason.contains("was told \(word)"))
        }
        let old = try site.catalogue()
        let before = try old.beginJob(.failover, disk: "db", steps: [])
        try before.fail("", remedy: "")
        guard case .refused(let reason, _) = try old.job(before.id).retry(later: nil) else { Issue.record("a job without a command"); return }
        #expect(reason.contains("earlier release"))
    }

    @Test func onlyTheNewestAttemptIsTriedAgainOrTakenBack() throws {
        let site = try TemporarySite()
        let (first, other, test) = (try job(.failover, site), try job(.failback, site), try job(.testFailover, site))
        #expect(try site.catalogue().laterJob(than: first) == nil)
        let second = try job(.failover, site, state: .succeeded)
        let later = try site.catalogue().laterJob(than: first)
        #expect(later?.id == second.id)
        for recourse in [first.retry(later: later), first.cancel(later: later)] {
            guard case .refused(let reason, _) = recourse else { Issue.record("\(recourse)"); continue }
            #expect(reason == "job \(second.id) is a later attempt at it")
        }
        // Of something else, at another target, or tests, which are several.
        _ = try job(.testFailover, site)
        _ = try job(.initialReplication, site, vault: "s3://other")
        for job in [other, test] { #expect(try site.catalogue().laterJob(than: job) == nil) }
    }

    @Test func whatIsTakenBackIsWhatNobodyUsesYet() throws {
        let site = try TemporarySite()
        let vault = ["--vault", "file:///v", "--key-file", "k"]
        #expect(try job(.initialReplication, site).cancel(later: nil) == .command(["pause", "db"]))
        #expect(try job(.resynchronisation, site, vault: "s3://b").cancel(later: nil) == .command(["pause", "db", "--vault", "s3://b"]))
        #expect(try job(.failoverPreparation, site, open: ["stop"]).cancel(later: nil) == .command(["failover", "cancel", "db", "--unfinished"] + vault))
        #expect(try job(.failover, site, done: ["prerequisites", "source"], open: ["failover"]).cancel(later: nil) == .command(["failover", "cancel", "db", "--unfinished"] + vault))
        #expect(try job(.failback, site, done: ["prerequisites"], open: ["refresh"]).cancel(later: nil) == .command(["failback", "cancel", "db"] + vault))
        #expect(try job(.failback, site, done: ["claim"], open: ["refresh"]).cancel(later: nil) == .command(["failover", "cancel", "db", "--unfinished"] + vault))
        #expect(try job(.testFailover, site, open: ["pin"], words: ["failover", "test", "db", "--name", "db-4"]).cancel(later: nil) == .command(["failover", "cleanup", "db-4"]))
        let refused: [(Job, String)] = [
            (try job(.failover, site, done: ["failover"], open: ["start"]), "guests may write"), (try job(.failback, site, done: ["claim", "publish"], open: ["serve"]), "is back on this host"),
            (try job(.failover, site, open: ["failover"], words: ["failover", "change-point", "db"]), "change of point"), (try job(.testFailover, site, open: ["unmount"]), "cleaned up"),
            (try job(.protect, site), "nothing to take back"), (try job(.unprotect, site), "only be ended"), (try job(.testFailover, site, open: ["pin"]), "which test"),
            (try job(.failover, site, state: .succeeded), "nothing to cancel"),
        ]
        for (job, words) in refused {
            guard case .refused(let reason, let remedy) = job.cancel(later: nil) else { Issue.record("\(job.kind), \(words)"); continue }
            #expect(reason.contains(words) && remedy.contains("farshore"), "\(reason)")
        }
    }

    @Test func aCancelledJobIsSaidToBeOne() throws {
        let site = try TemporarySite()
        let (failed, done) = (try job(.failover, site), try job(.failback, site, state: .succeeded))
        for job in [failed, done] { try site.catalogue().noteCancelled(job: job.id) }
        #expect(try site.catalogue().job(failed.id).state == .cancelled && site.catalogue().job(done.id).state == .succeeded)
        #expect(try site.catalogue().job(failed.id).retry(later: nil) == .command(command.words))
        guard case .refused = try site.catalogue().job(failed.id).cancel(later: nil) else { Issue.record("cancelled twice"); return }
    }
}
