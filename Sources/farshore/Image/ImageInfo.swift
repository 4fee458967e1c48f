// `farshore image info`: what an image holds; a damaged one is refused naming field and offset.

import ArgumentParser
import BlockIO
import DiskImage

struct ImageInfo: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "info",
        abstract: "Show an image's format, size and fields; refuse a damaged one.",
        discussion: "Example: farshore image info disk.vhd --json")

    @Argument(help: "The image: a file or a block device.")
    var file: String

    @Option(help: "Take the image for this format instead of looking: raw, vhd-fixed, vhd-dynamic, vhd-differencing, vhdx, qcow2.")
    var from: ImageFormat?

    @OptionGroup var chain: ChainOptions

    @OptionGroup var output: OutputOptions

    func run() throws {
        let path = absolutePath(file)
        let document = ImageDocument(try inspectImage(path, format: from, parentFolders: chain.folders), isInUse: try ImageLock.isHeldByWriter(path))
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
        /// Of a differencing disk: what it is read through, its parent first.
        let parents: [Parent]?
        let ignoredLocators: [String]?
    }

    struct Parent: Encodable {
        let path: String
        let format: String
        let sizeBytes: UInt64
        let creator: String
        let uniqueID: String
        /// matches, absent or differs
        let timeStamp: String
    }

    struct VHDX: Encodable {
        let uniqueID: String
        let blockBytes: UInt32
        let blocks: Int
        let presentBlocks: Int
        let needsLogReplay: Bool
    }

    struct QCOW2: Encodable {
        let version: UInt32
        let clusterBytes: UInt64
        let allocatedClusters: UInt64
        let compressedClusters: UInt64
        let compression: String
        let snapshots: UInt32
        let dirty: Bool
    }

    let path: String
    let format: String
    let sizeBytes: UInt64
    let fileBytes: UInt64
    let allocatedBytes: UInt64
    let isBlockDevice: Bool
    let inUse: Bool
    let vhd: VHD?
    let vhdx: VHDX?
    let qcow2: QCOW2?

    init(_ image: ImageDescription, isInUse: Bool) {
        path = image.path
        format = image.format.rawValue
        sizeBytes = image.sizeBytes
        fileBytes = image.fileBytes
        allocatedBytes = image.allocatedBytes
        isBlockDevice = image.isBlockDevice
        inUse = isInUse
        vhd = image.vhd.map { footer in
            VHD(creator: footer.creator,
                currentSizeBytes: footer.currentSizeBytes, geometry: footer.geometry.description,
                sizeTakenFrom: footer.goesByGeometry ? "geometry" : "current-size", uniqueID: uuidText(footer.uniqueID),
                savedState: footer.savedState, blockBytes: image.dynamic?.blockBytes, tableEntries: image.dynamic?.tableEntries,
                allocatedBlocks: image.dynamic?.allocatedBlocks, needsFooterRepair: image.dynamic.map { !$0.isClean },
                parents: image.format == .vhdDifferencing ? image.parents.map(Parent.init) : nil,
                ignoredLocators: image.format == .vhdDifferencing ? image.ignoredLocators : nil)
        }
        vhdx = image.vhdx.map { image in
            // A GUID's first three groups lie in the file in reverse.
            let id = [3, 2, 1, 0, 5, 4, 7, 6].map { image.diskID[$0] } + image.diskID[8...]
            return VHDX(uniqueID: uuidText(id), blockBytes: image.blockBytes, blocks: image.blocks, presentBlocks: image.presentBlocks,
                needsLogReplay: image.hasLogToReplay)
        }
        qcow2 = image.qcow2.map { image in
            QCOW2(version: image.header.version, clusterBytes: image.header.clusterBytes, allocatedClusters: image.allocatedClusters,
                compressedClusters: image.compressedClusters, compression: image.header.compression.rawValue, snapshots: image.header.snapshots,
                dirty: image.header.isDirty)
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
            for parent in vhd.parents ?? [] { rows.append(["parent", parent.text]) }
            for locator in vhd.ignoredLocators ?? [] { rows.append(["not used", "parent locator \(locator)"]) }
            if vhd.savedState { rows.append(["saved state", "yes: belongs to a saved virtual machine"]) }
        }
        if let vhdx {
            rows += [["unique id", vhdx.uniqueID], ["blocks", "\(vhdx.presentBlocks) of \(vhdx.blocks) present, \(bytesText(UInt64(vhdx.blockBytes))) each"]]
            if vhdx.needsLogReplay { rows.append(["log", "not empty: carried out at the next write"]) }
        }
        if let qcow2 {
            rows += [["version", "\(qcow2.version)"], ["clusters", "\(qcow2.allocatedClusters) allocated, \(bytesText(qcow2.clusterBytes)) each"]]
            if qcow2.compressedClusters > 0 { rows.append(["compressed", "\(qcow2.compressedClusters) clusters more, by \(qcow2.compression)"]) }
            if qcow2.snapshots > 0 { rows.append(["snapshots", "\(qcow2.snapshots): the image can be read, not protected"]) }
            if qcow2.dirty { rows.append(["dirty", "not closed cleanly: the image can be read, not protected"]) }
        }
        return tableText(rows)
    }
}

extension ImageDocument.Parent {
    init(_ link: ChainLink) {
        path = link.path
        format = link.format.rawValue
        sizeBytes = link.vhd.diskSizeBytes
        creator = link.vhd.creator
        uniqueID = uuidText(link.vhd.uniqueID)
        timeStamp =
            switch link.timeStamp {
            case .matches: "matches"
            case .absent: "absent"
            case .differs: "differs"
            }
    }

    var text: String {
        "\(path.shown): \(format), \(bytesText(sizeBytes)), id \(uniqueID)"
            + (timeStamp == "differs" ? "; its time is not the one its child has noted" : "")
    }
}

extension ChainLink {
    /// What speaks against the parent, though it has the right id.
    var warning: String? {
        guard case .differs = timeStamp else { return nil }
        return "\(path.shown) has another time than its child has noted: it is a copy, or was changed since, and then the disk is damaged"
    }
}

extension VHDFooter {
    fileprivate var creator: String { String(decoding: creatorApplication.filter { $0 >= 32 && $0 < 127 }, as: UTF8.self) }
}
