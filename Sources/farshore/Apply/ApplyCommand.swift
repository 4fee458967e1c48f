// `farshore apply FILE`: a site as one file describes it.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import Site

struct ApplyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply",
        abstract: "Make policies, protected disks, machines with their settings, groups and plans what a file says.",
        discussion: """
            The file is YAML (docs/operating/apply.md). What is so already is left alone, so the command can be run again at any
            time; what the file does not name stays. An item that is refused keeps no other from being done; then the command
            exits 1. --dry-run prints what would be done, and changes nothing.

            Example:
              farshore apply site.yaml --dry-run
            """)

    @Argument(help: ArgumentHelp("The file.", valueName: "file"))
    var file: String

    @Flag(name: .long, help: "Say what would be done, and change nothing.")
    var dryRun = false

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let isDryRun: Bool
        let items: [AppliedItem]
    }

    func run() throws {
        let path = absolutePath(file)
        guard let bytes = try DurableFile.read(path, limitBytes: YamlValue.textBytesMax) else { throw Failure(.notFound, "there is no file \(path)", try: "farshore apply --help") }
        let read: SiteFile
        do throws(YamlError) { read = try SiteFile(String(decoding: bytes, as: UTF8.self), folder: URL(fileURLWithPath: path).deletingLastPathComponent().path) } catch {
            throw Failure(.usage, "\(path), \(error)", try: "docs/operating/apply.md shows how a file is written")
        }
        try site.directory.create()
        let items = SiteChanges(file: read, site: site, catalogue: try site.catalogue(), isDryRun: dryRun).apply()
        try output.print(Document(isDryRun: dryRun, items: items)) { document in
            document.items.isEmpty ? "the file describes nothing" : document.items.map(Self.text).joined(separator: "\n")
        }
        let refused = items.filter { $0.outcome == .refused }
        guard let first = refused.first else { return }
        throw Failure(.failed, "\(refused.count) of \(items.count) items were refused, the first is the \(first.kind) \(first.name): \(first.error ?? "")", try: first.remedy ?? "farshore apply --help")
    }

    private static func text(_ item: AppliedItem) -> String {
        let outcome = item.outcome == .same ? "as it was" : item.outcome == .refused ? "REFUSED, \(item.error ?? "")" : item.outcome.rawValue
        return (["\(item.kind) \(item.name): \(outcome)"] + item.changes.map { "  \($0)" }).joined(separator: "\n")
    }
}
