// `farshore events`: what happened on this site.

import ArgumentParser
import Site

struct EventsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "events",
        abstract: "Show what happened on this site, oldest first.",
        discussion: "Example:\n  farshore events --limit 20\n  farshore events db1")

    struct Document: Encodable {
        let id: Int64
        let time: String
        let severity: String
        let disk: String?
        let vault: String?
        let text: String

        init(_ event: SiteEvent) {
            id = event.id
            time = timeText(nanoseconds: event.timeNanoseconds)
            severity = event.severity.rawValue
            disk = event.disk
            vault = event.vault
            text = event.text
        }
    }

    @Argument(help: "Only events of this disk.")
    var disk: String?

    @Option(name: .long, help: "How many of the newest to show.")
    var limit = 50

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard (1...Catalogue.eventsMax).contains(limit) else { throw ValidationError("--limit must be between 1 and \(Catalogue.eventsMax)") }
    }

    func run() throws {
        let events = try site.catalogue().events(limit: limit, disk: disk)
        try output.print(events.map(Document.init)) { events in
            events.isEmpty ? "no events" : tableText(events.map { [$0.time, $0.severity, $0.disk ?? "-", ($0.vault.map { "\($0): " } ?? "") + $0.text] })
        }
    }
}
