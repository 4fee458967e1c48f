// `farshore image`: disk images read and written without protecting them.

import ArgumentParser
import DiskImage

struct ImageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "image",
        abstract: "Show, check and convert disk images: raw, VHD, VHDX and qcow2.",
        subcommands: [ImageInfo.self, ImageCheckCommand.self, ImageConvert.self])
}

extension ImageFormat: ExpressibleByArgument {}
extension OutputFormat: ExpressibleByArgument {}

struct ChainOptions: ParsableArguments {
    @Option(name: .customLong("parent-dir"), help: ArgumentHelp(
        "A further folder in which parents of a differencing VHD may lie, beside its own; may be repeated.", valueName: "dir"))
    var parentFolders: [String] = []

    var folders: [String] { parentFolders.map(absolutePath) }
}
