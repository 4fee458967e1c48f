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

    package struct Dynamic: Equatable, Sendable {
        package let blockBytes: UInt32
        package let tableEntries: UInt32
        package let allocatedBlocks: Int
        /// False when the next opening for writing will put a footer back.
        package let isClean: Bool
        package let hasBatmap: Bool
    }
}

/// Reads and checks the image as `openImage` does, and describes it.
package func inspectImage(_ path: String, format: ImageFormat? = nil, parentFolders: [String] = []) throws(ImageError) -> ImageDescription {
    let container = try ContainerFile.open(path, access: .readOnly)
    let known = if let format { format } else { try probeFormat(container) }
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
            var chain = try VHDChain(image: path, parentFolders: parentFolders)
            _ = try chain.openParent(of: container, layout)
            description.parents = chain.links
            description.ignoredLocators = link.locators.compactMap { locator in
                locator.ignoredBecause.map { "\(printable(locator.code)): \($0)" }
            }
        }
        return description
    }
}

private func description(_ container: borrowing ContainerFile, _ format: ImageFormat, sizeBytes: UInt64) -> ImageDescription {
    ImageDescription(path: container.path, format: format, sizeBytes: sizeBytes, fileBytes: container.status.sizeBytes,
        allocatedBytes: container.status.allocatedBytes, isBlockDevice: container.status.kind == .blockDevice)
}
