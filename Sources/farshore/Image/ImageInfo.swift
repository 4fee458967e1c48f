// `farshore image info`: what an image holds; a damaged one is refused naming field and offset.

import ArgumentParser
import DiskImage

struct ImageInfo: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "info",
        abstract: "Show an image's format, size and fields; refuse a damaged one.",
        discussion: "Example: farshore image info disk.vhd --json")

    @Argument(help: "The image: a file or a block device.")
    var file: String

    @Option(help: "Take the image for this format instead of looking: raw, vhd-fixed, vhd-dynamic.")
    var from: ImageFormat?

    @OptionGroup var output: OutputOptions

    func run() throws {
        let path = absolutePath(file)
        let document = ImageDocument(try inspectImage(path, format: from), isInUse: try ImageLock.isHeldByWriter(path))
        try output.print(document) { $0.text }
    }
}

struct ImageDocument: Encodable {
    struct VHD: Encodable {
        let creator: String
        let currentSizeBytes: UInt64
        let geometry: String
        let sizeTakenFrom: String
        let uniqueID: String
        let savedState: Bool
        let blockBytes: UInt32?
        let tableEntries: UInt32?
        let allocatedBlocks: Int?
        let needsFooterRepair: Bool?
    }

    let path: String
    let format: String
    let sizeBytes: UInt64
    let fileBytes: UInt64
    let allocatedBytes: UInt64
    let isBlockDevice: Bool
    let inUse: Bool
    let vhd: VHD?

    init(_ image: ImageDescription, isInUse: Bool) {
        path = image.path
        format = image.format.rawValue
        sizeBytes = image.sizeBytes
        fileBytes = image.fileBytes
        allocatedBytes = image.allocatedBytes
        isBlockDevice = image.isBlockDevice
        inUse = isInUse
        vhd = image.vhd.map { footer in
            VHD(creator: String(decoding: footer.creatorApplication.filter { $0 >= 32 && $0 < 127 }, as: UTF8.self),
                currentSizeBytes: footer.currentSizeBytes, geometry: footer.geometry.description,
                sizeTakenFrom: footer.goesByGeometry ? "geometry" : "current-size", uniqueID: uuidText(footer.uniqueID),
                savedState: footer.savedState, blockBytes: image.dynamic?.blockBytes, tableEntries: image.dynamic?.tableEntries,
                allocatedBlocks: image.dynamic?.allocatedBlocks, needsFooterRepair: image.dynamic.map { !$0.isClean })
        }
    }

    var text: String {
        var rows = [
            ["image", path], ["format", format], ["disk size", "\(sizeBytes) bytes (\(bytesText(sizeBytes)))"],
            ["file", isBlockDevice ? "block device" : "\(fileBytes) bytes, \(bytesText(allocatedBytes)) on disk"], ["in use", inUse ? "yes" : "no"],
        ]
        if let vhd {
            rows += [["creator", vhd.creator], ["geometry", "\(vhd.geometry) (disk size taken from \(vhd.sizeTakenFrom))"], ["unique id", vhd.uniqueID]]
            if let blocks = vhd.allocatedBlocks, let entries = vhd.tableEntries, let bytes = vhd.blockBytes {
                rows.append(["blocks", "\(blocks) of \(entries) allocated, \(bytesText(UInt64(bytes))) each"])
            }
            if vhd.needsFooterRepair == true { rows.append(["footer", "missing or torn at the end, its copy is sound: put back at the next write"]) }
            if vhd.savedState { rows.append(["saved state", "yes: belongs to a saved virtual machine"]) }
        }
        return tableText(rows)
    }
}

private func uuidText(_ bytes: [UInt8]) -> String {
    var text = ""
    for (index, byte) in bytes.enumerated() {
        if [4, 6, 8, 10].contains(index) { text += "-" }
        text += (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
    return text
}
