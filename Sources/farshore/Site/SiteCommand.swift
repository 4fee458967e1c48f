// `farshore site …`: the site directory of this host.

import ArgumentParser

struct SiteCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "site", abstract: "Bring back the catalogue of a site that lost it.", subcommands: [SiteRebuildCommand.self])
}
