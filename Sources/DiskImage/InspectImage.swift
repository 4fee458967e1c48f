// What `image info` shows: an image's format and its own fields, read without locking and without repairing.

import BlockIO

package struct ImageDescription: Equatable, Sendable {
    package let path: String
    package let format: ImageFormat
    package let sizeBytes: UInt64
    package let fileBytes: UInt64
    /// Bytes of storage the file takes.
    package let allocatedBytes: UInt64
    package let isBlockDevice: Bool
    package var vhd: VHDFooter?
    package var dynamic: Dynamic?
    /// Of a differencing disk, from its parent down.
    package var parents: [ChainLink] = []
    /// Parent locators that are not used: platform code and why.
    package var ignoredLocators: [String] = []
    package var vhdx: VHDX?
    package var qcow2: QCOW2?

    package struct Dynamic: Equatable, Sendable {
        package let blockBytes: UInt32
        package let tableEntries: UInt32
        package let allocatedBlocks: Int
        /// False when the next opening for writing will put a footer back.
        package let isClean: Bool
        package let hasBatmap: Bool
    }

    package struct VHDX: Equatable, Sendable {
        package let blockBytes: UInt32
        package let blocks: Int
        package let presentBlocks: Int
        package let diskID: [UInt8]
        /// True when the next opening for writing will carry out what the log holds.
        package let hasLogToReplay: Bool
        /// What is wrong with one of the two headers, where the other one is sound.
        package let headerDamage: ImageError?
    }

    package struct QCOW2: Equatable, Sendable {
        package let header: QCOW2Header
        package let allocatedClusters: UInt64
        package let compressedClusters: UInt64
    }
}

/// Reads and checks the image as `openImage` does, and describes it.
package func inspectImage(_ path: String, format: ImageFormat? = nil, parentFolders: [String] = []) throws(ImageError) -> ImageDescription {
    let container = try ContainerFile.open(path, access: .readOnly)
    let known = if let format { format } else { try formatWithoutName(container) }
    switch known {
    case .raw:
        try requireNotEmpty(container)
        return description(container, .raw, sizeBytes: container.status.sizeBytes.roundedUp(to: 512))
    case .vhdFixed:
        let footer = try readFixedFooter(container)
        var description = description(container, .vhdFixed, sizeBytes: footer.diskSizeBytes)
        description.vhd = footer
        return description
    case .vhdDynamic, .vhdDifferencing:
        let layout = try readDynamicLayout(container, known == .vhdDynamic ? .dynamic : .differencing)
        var description = description(container, known, sizeBytes: layout.footer.diskSizeBytes)
        description.vhd = layout.footer
        description.dynamic = ImageDescription.Dynamic(blockBytes: layout.header.blockBytes, tableEntries: layout.header.tableEntries,
            allocatedBlocks: layout.table.allocatedBlocks, isClean: layout.isClean, hasBatmap: layout.batmap != nil)
        if let link = layout.header.parent {
            var chain = try VHDChain(image: path, parentFolders: parentFolders, locks: nil)
            _ = try chain.openParent(of: container, layout)
            description.parents = chain.links
            description.ignoredLocators = link.locators.compactMap { locator in
                locator.ignoredBecause.map { "\(printable(locator.code)): \($0)" }
            }
        }
        return description
    case .vhdx:
        let layout = try VHDXLayout.read(container)
        var description = description(layout.file.container, .vhdx, sizeBytes: layout.metadata.sizeBytes)
        description.vhdx = ImageDescription.VHDX(blockBytes: layout.metadata.blockBytes, blocks: layout.table.places.count,
            presentBlocks: layout.table.presentBlocks, diskID: layout.metadata.diskID, hasLogToReplay: layout.file.headers.current.hasLog,
            headerDamage: layout.file.headers.otherDamage)
        return description
    case .qcow2:
        let layout = try QCOW2Layout(reading: container)
        var description = description(container, .qcow2, sizeBytes: layout.header.sizeBytes)
        description.qcow2 = ImageDescription.QCOW2(header: layout.header, allocatedClusters: layout.allocatedClusters, compressedClusters: layout.compressedClusters)
        return description
    }
}

private func description(_ container: borrowing ContainerFile, _ format: ImageFormat, sizeBytes: UInt64) -> ImageDescription {
    ImageDescription(path: container.path, format: format, sizeBytes: sizeBytes, fileBytes: container.status.sizeBytes,
        allocatedBytes: container.status.allocatedBytes, isBlockDevice: container.status.kind == .blockDevice)
}
