// `farshore image check`: an image and all it is read through, checked; nothing is changed.

import ArgumentParser
import DiskImage

struct ImageCheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check an image's structures, and those of its parents; change nothing.",
        discussion: """
            Damage is refused with the field and its place named. What is sound but deserves a word is told: a footer or a header of VHDX
            to be put back, a parent with another time than its child has noted, sectors that other programs show differently, an image
            that is being written, a qcow2 image that can be read but not protected (internal snapshots, not closed cleanly).

            Example:
              farshore image check vm/child.avhd --parent-dir /srv/base
            """)

    @Argument(help: "The image: a file or a block device.")
    var file: String

    @Option(help: "Take the image for this format instead of looking: raw, vhd-fixed, vhd-dynamic, vhd-differencing, vhdx, qcow2.")
    var from: ImageFormat?

    @OptionGroup var chain: ChainOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let path: String
        let format: String
        /// The image first.
        let files: [String]
        let remarks: [String]
    }

    func run() throws {
        let checked = try checkImage(absolutePath(file), format: from, parentFolders: chain.folders)
        let document = Document(
            path: checked.image.path, format: checked.image.format.rawValue, files: [checked.image.path] + checked.image.parents.map(\.path),
            remarks: checked.remarks + checked.image.parents.compactMap(\.warning))
        try output.print(document) { document in
            let files = document.files.count == 1 ? "" : ", \(document.files.count) files"
            return (["\(document.path): sound (\(document.format)\(files))"] + document.remarks.map { "  remark: \($0)" }).joined(separator: "\n")
        }
    }
}
