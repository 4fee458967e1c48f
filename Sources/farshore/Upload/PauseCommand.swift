// `farshore pause` and `resume`: whether the uploader takes a disk. While paused its writes go on into the log.

import ArgumentParser
import Site

struct PauseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pause",
        abstract: "Stop uploading a disk; its writes stay in the log until it is resumed.",
        discussion: "Example:\n  farshore pause db1")

    @Argument(help: "The disk.")
    var disk: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws { try setPaused(true, disk: disk, site: site, output: output) }
}

struct ResumeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume",
        abstract: "Upload a paused disk again, or one that waits because an attempt failed.",
        discussion: "Example:\n  farshore resume db1")

    @Argument(help: "The disk.")
    var disk: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws { try setPaused(false, disk: disk, site: site, output: output) }
}

private struct PauseDocument: Encodable {
    let disk: String
    let isPaused: Bool
}

private func setPaused(_ isPaused: Bool, disk: String, site: SiteOptions, output: OutputOptions) throws {
    let catalogue = try site.catalogue()
    _ = try catalogue.disk(named: disk)
    try catalogue.setPaused(isPaused, disk: disk)
    if !isPaused { try catalogue.requestAttempt(ofDisk: disk) }
    try catalogue.record(.information, disk: disk, isPaused ? "upload paused by the administrator" : "upload resumed by the administrator")
    try output.print(PauseDocument(disk: disk, isPaused: isPaused)) { "\($0.disk): upload \($0.isPaused ? "paused" : "resumed")" }
}
