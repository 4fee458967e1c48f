// `farshore pause` and `resume`: whether the uploader takes a disk. While paused its writes go on into the log.

import ArgumentParser
import Site

struct PauseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pause",
        abstract: "Stop uploading a disk, and those it shares points with; writes stay in the log until it is resumed.",
        discussion: "A point of several disks is in the vault when it is there for all of them, so they are paused together.\n\nExample:\n  farshore pause db1")

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
        discussion: "The disks it shares points with are resumed too.\n\nExample:\n  farshore resume db1")

    @Argument(help: "The disk.")
    var disk: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws { try setPaused(false, disk: disk, site: site, output: output) }
}

private struct PauseDocument: Encodable {
    let disk: String
    let isPaused: Bool
    /// All that were paused or resumed: those that share points with it.
    let disks: [String]
}

private func setPaused(_ isPaused: Bool, disk: String, site: SiteOptions, output: OutputOptions) throws {
    let catalogue = try site.catalogue()
    let disks = try catalogue.consistencyGroup(ofDisk: disk).diskNames
    for name in disks {
        try catalogue.setPaused(isPaused, disk: name)
        if !isPaused { try catalogue.requestAttempt(ofDisk: name) }
        try catalogue.record(.information, disk: name, isPaused ? "upload paused by the administrator" : "upload resumed by the administrator")
    }
    try output.print(PauseDocument(disk: disk, isPaused: isPaused, disks: disks)) { document in
        document.disks.map { "\($0): upload \(document.isPaused ? "paused" : "resumed")" }.joined(separator: "\n")
    }
}
