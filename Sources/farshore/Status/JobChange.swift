// `farshore job retry` and `job cancel`: each is a command that there is already (Sources/Site/Catalogue/JobRecourse.swift), said from the folder that
// the job's own was said in, with the credentials and keys of now.

import ArgumentParser
import BlockIO
import Foundation
import Glibc
import Site

struct JobRetry: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retry",
        abstract: "Try a job again that failed or was interrupted, once its cause is mended.",
        discussion: """
            The command that began it is run again, as `job show` prints it, with the credentials of now: each goes on where it was. What the uploader began it begins
            again at once. Refused for a job that runs, succeeded, or has a later attempt.

            Example:
              farshore job retry 3
            """)

    @Argument(help: "The job's number.")
    var job: Int64

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        let found = try catalogue.job(job)
        var words = try found.retry(later: catalogue.laterJob(than: found)).words()
        if output.json, !words.contains("--json") { words.append("--json") }
        printError("job \(job): farshore " + words.map(shellWord).joined(separator: " "))
        try enterFolder(of: found, site)
        // In place of this process, so that what stops it stops the work.
        var arguments: [UnsafeMutablePointer<CChar>?] = (["farshore"] + words).map { strdup($0) }
        arguments.append(nil)
        execv("/proc/self/exe", arguments)
        throw SystemError(errno: errno, operation: "start", path: "/proc/self/exe")
    }
}

struct JobCancel: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel",
        abstract: "Stop a job and take back what it did, where that is safe.",
        discussion: """
            A failover, its preparation, a failback or a test that has not ended: its process is told to end, then `failover cancel`, `failback cancel` or `failover cleanup` takes it back.
            What the uploader sends: the disk is paused (`resume` goes on, and sends nothing again). Refused, with the command that applies, once guests may
            write on what the job has made.

            Example:
              farshore job cancel 3
            """)

    private static let endSecondsMax: UInt64 = 60

    @Argument(help: "The job's number.")
    var job: Int64

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let catalogue = try site.catalogue()
        let found = try catalogue.job(job)
        let later = try catalogue.laterJob(than: found)
        var words = try found.cancel(later: later).words()
        try enterFolder(of: found, site)
        if found.state == .running, !found.isOfUploader {
            try found.endProcess()
            // How far it came meanwhile decides as well.
            words = try ended(catalogue).cancel(later: later).words()
        }
        try runFarshore(words)
        if try ended(catalogue).state == .succeeded {
            throw Failure(.notNow, "job \(job) ended before it was stopped; \(found.disk ?? "") is paused", try: "farshore resume \(found.disk ?? "")")
        }
        try catalogue.noteCancelled(job: job)
        try output.print(JobDocument(try catalogue.job(job))) { "job \($0.id): cancelled, by farshore \(words.map(shellWord).joined(separator: " "))" }
    }

    /// The job when no process runs it any more.
    private func ended(_ catalogue: Catalogue) throws -> Job {
        let deadline = Clock.monotonicNanoseconds() + Self.endSecondsMax * 1_000_000_000
        while true {
            let found = try catalogue.job(job)
            guard found.state == .running else { return found }
            guard Clock.monotonicNanoseconds() < deadline else {
                throw Failure(.notNow, "job \(job) was told to stop, and has not yet", try: "farshore job show \(job), then farshore job cancel \(job) again")
            }
            usleep(100_000)
        }
    }
}

extension JobRecourse {
    fileprivate func words() throws(Failure) -> [String] {
        switch self {
        case .command(let words): return words
        case .refused(let reason, let remedy): throw Failure(.notNow, reason, try: remedy)
        }
    }
}

/// Paths in a job's command are meant from there; its site is this one.
private func enterFolder(of job: Job, _ site: SiteOptions) throws {
    setenv("FARSHORE_SITE", site.directory.path, 1)
    guard let folder = job.command?.folder else { return }
    guard chdir(folder) == 0 else {
        throw Failure(.failed, "the folder \(folder) that job \(job.id) was begun in cannot be entered: \(String(cString: strerror(errno)))", try: "farshore job show \(job.id) prints its command; run it from another folder")
    }
}
