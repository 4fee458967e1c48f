// `farshore image`: disk images read and written without protecting them.

import ArgumentParser
import DiskImage

struct ImageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "image",
        abstract: "Show and convert disk images: raw, VHD fixed, VHD dynamic.",
        subcommands: [ImageInfo.self, ImageConvert.self])
}

extension ImageFormat: ExpressibleByArgument {}
