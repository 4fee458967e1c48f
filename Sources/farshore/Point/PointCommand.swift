// `farshore point …`: recovery points, cut on the source and read from the vault.

import ArgumentParser

struct PointCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "point",
        abstract: "Cut, list, pin and mount recovery points.",
        subcommands: [PointCut.self, PointList.self, PointPin.self, PointUnpin.self, PointMount.self])
}
