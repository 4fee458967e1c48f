// `farshore host …`: the hosts of a vault.

import ArgumentParser

struct HostCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "host", abstract: "Bring a host to a vault, list the hosts of one and when they were last there.",
        subcommands: [HostKeyCommand.self, HostJoinCommand.self, HostListCommand.self, HostRemoveCommand.self])
}
