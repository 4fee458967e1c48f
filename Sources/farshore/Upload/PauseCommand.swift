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

    @Option(name: .long, help: ArgumentHelp("Only at this target (farshore target list).", valueName: "url"))
    var vault: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws { try setPaused(true, disk: disk, vault: vault, site: site, output: output) }
}

struct ResumeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume",
        abstract: "Upload a paused disk again, or one that waits because an attempt failed.",
        discussion: "The disks it shares points with are resumed too.\n\nExample:\n  farshore resume db1")

    @Argument(help: "The disk.")
    var disk: String

    @Option(name: .long, help: ArgumentHelp("Only at this target (farshore target list).", valueName: "url"))
    var vault: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws { try setPaused(false, disk: disk, vault: vault, site: site, output: output) }
}

private struct PauseDocument: Encodable {
    let disk: String
    let isPaused: Bool
    /// The target, where one was named.
    let vault: String?
    /// All that were paused or resumed: those that share points with it.
    let disks: [String]
}

private func setPaused(_ isPaused: Bool, disk: String, vault: String?, site: SiteOptions, output: OutputOptions) throws {
    let catalogue = try site.catalogue()
    let disks = try catalogue.consistencyGroup(ofDisk: disk).diskNames
    for name in disks {
        try catalogue.setPaused(isPaused, disk: name, vault: vault)
        if !isPaused { try catalogue.requestAttempt(ofDisk: name) }
        try catalogue.record(.information, disk: name, vault: vault, isPaused ? "upload paused by the administrator" : "upload resumed by the administrator")
    }
    try output.print(PauseDocument(disk: disk, isPaused: isPaused, vault: vault, disks: disks)) { document in
        document.disks.map { "\($0): upload \(document.vault.map { "to \($0) " } ?? "")\(document.isPaused ? "paused" : "resumed")" }.joined(separator: "\n")
    }
}
