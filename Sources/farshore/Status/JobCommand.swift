// `farshore job list|show`: long work of this site, running, ended or interrupted. What is done about it is in JobChange.swift.

import ArgumentParser
import Foundation
import Site

struct JobCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "job",
        abstract: "Long work: steps, progress, errors; trying it again and giving it up.",
        subcommands: [JobList.self, JobShow.self, JobRetry.self, JobCancel.self])
}

/// A job as JSON and as the tables' source.
struct JobDocument: Encodable {
    struct Step: Encodable {
        let name: String
        let state: String
        let detail: String?
    }

    let id: Int64
    let kind: String
    let disk: String?
    let vault: String?
    let state: String
    let steps: [Step]
    let doneBytes: UInt64
    let totalBytes: UInt64
    let secondsLeft: Double?
    let error: String?
    let remedy: String?
    let started: String
    let ended: String?
    /// As it was begun, where a person did; `job retry` says it again.
    let command: [String]?

    init(_ job: Job) {
        id = job.id
        kind = job.kind.rawValue
        disk = job.disk
        vault = job.vault
        state = job.state.rawValue
        steps = job.steps.map { Step(name: $0.name, state: $0.state.rawValue, detail: $0.detail) }
        doneBytes = job.doneBytes
        totalBytes = job.totalBytes
        secondsLeft = job.secondsLeft()
        error = job.error
        remedy = job.remedy
        started = timeText(nanoseconds: job.startedNanoseconds)
        ended = job.endedNanoseconds.map(timeText(nanoseconds:))
        command = job.command?.words
    }

    var progressText: String {
        guard totalBytes > 0 else { return "-" }
        let text = "\(bytesText(doneBytes)) of \(bytesText(totalBytes))"
        return secondsLeft.map { "\(text), \(durationText(seconds: $0)) left" } ?? text
    }
}

struct JobList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List jobs, newest first.",
        discussion: "Example:\n  farshore job list --json")

    @Option(name: .long, help: "How many of the newest to show.")
    var limit = 20

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard (1...10_000).contains(limit) else { throw ValidationError("--limit must be between 1 and 10000") }
    }

    func run() throws {
        let jobs = try site.catalogue().jobs(limit: limit)
        try output.print(jobs.map(JobDocument.init)) { jobs in
            guard !jobs.isEmpty else { return "no jobs" }
            let head = ["JOB", "KIND", "DISK", "STATE", "STARTED", "PROGRESS"]
            return tableText([head] + jobs.map { ["\($0.id)", $0.kind, $0.disk ?? "-", $0.state, $0.started, $0.progressText] })
        }
    }
}

struct JobShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show one job with its steps.",
        discussion: "Example:\n  farshore job show 3")

    @Argument(help: "The job's number.")
    var job: Int64

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let found = try site.catalogue().job(job)
        try output.print(JobDocument(found)) { job in
            var lines = ["job \(job.id): \(job.kind) \(job.disk ?? "")", "state: \(job.state)", "started: \(job.started)"]
            if let ended = job.ended { lines.append("ended: \(ended)") }
            if let command = job.command { lines.append("begun by: farshore " + command.map(shellWord).joined(separator: " ")) }
            if job.totalBytes > 0 { lines.append("progress: \(job.progressText)") }
            lines += job.steps.map { "  \($0.state.padding(toLength: 10, withPad: " ", startingAt: 0))\($0.name)" + ($0.detail.map { ": \($0)" } ?? "") }
            if let error = job.error { lines.append("error: \(error)") }
            if let remedy = job.remedy { lines.append("Try: \(remedy)") }
            return lines.joined(separator: "\n")
        }
    }
}
