// `farshore point …`: recovery points, cut on the source and read from the vault.

import ArgumentParser

struct PointCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "point",
        abstract: "Cut, list and mount recovery points.",
        subcommands: [PointCut.self, PointList.self, PointMount.self])
}
