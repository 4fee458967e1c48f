// Opens a dynamic VHD: docs/formats/vhd.md, sections "Two footers" and "Recovery". The copy at the start is the
// truth, because it is never rewritten; the footer at the end moves with every new block and may be torn or missing
// after a crash. Opening changes nothing; DynamicVHD puts it back before it needs it.

import BlockIO

/// What a dynamic VHD says of itself, checked; before any repair.
struct DynamicVHDLayout {
    let footer: VHDFooter
    let header: VHDDynamicHeader
    var table: VHDBlockTable
    let isCopyDamaged: Bool
    let hasFooterAtEnd: Bool
    let batmap: VHDBatmap?

    /// The file ends as a clean close leaves it.
    var isClean: Bool { hasFooterAtEnd && !isCopyDamaged }
}

/// Opens the dynamic or differencing VHD at `path`, announcing each change of its file to `listener` first.
package func openDynamicVHD(
    _ path: String, access: ImageAccess, isDifferencing: Bool = false, parentFolders: [String] = [], listener: FileChangeListener?
) throws(ImageError) -> DynamicVHD {
    try openDynamicVHD(
        ContainerFile.open(path, access: access), isDifferencing ? .differencing : .dynamic, access: access, parentFolders: parentFolders, listener: listener)
}

func openDynamicVHD(
    _ container: consuming ContainerFile, _ type: VHDFooter.DiskType, access: ImageAccess, parentFolders: [String] = [], parentLocks: ParentLocks? = nil,
    listener: FileChangeListener?
) throws(ImageError) -> DynamicVHD {
    let layout = try readDynamicLayout(container, type)
    try requireNoSavedState(layout.footer, access: access, path: container.path)
    var parent: VHDParent?
    if type == .differencing {
        var chain = try VHDChain(image: container.path, parentFolders: parentFolders, locks: parentLocks)
        parent = try chain.openParent(of: container, layout)
    }
    return try openDynamicVHD(container, layout, parent: parent, access: access, listener: listener)
}

func openDynamicVHD(
    _ container: consuming ContainerFile, _ known: DynamicVHDLayout, parent: VHDParent?, access: ImageAccess, listener: FileChangeListener?
) throws(ImageError) -> DynamicVHD {
    var layout = known
    if layout.hasFooterAtEnd { layout.table.moveEnd(to: container.status.sizeBytes - 512) }
    do throws(SystemError) {
        return try DynamicVHD(ChangedFile(container.descriptor, listener: listener), layout, parent: parent)
    } catch { throw .system(error) }
}

/// The footer to go by: the copy, or where that is damaged the one at the end.
struct TrueFooter {
    let footer: VHDFooter
    let isCopyDamaged: Bool
    fileprivate let end: Result<VHDFooter, ImageError>
}

func readTrueFooter(_ container: borrowing ContainerFile) throws(ImageError) -> TrueFooter {
    let (path, fileBytes) = (container.path, container.status.sizeBytes)
    guard container.status.kind == .regular, fileBytes >= 512 + UInt64(VHDDynamicHeader.bytesCount) else {
        throw .damaged(ImageDamage(path: path, field: "file size", offset: 0, found: "\(fileBytes)",
            expected: "a file of at least a footer copy and a dynamic header", meaning: "too short to be a dynamic VHD"))
    }
    let end = footer(container, at: fileBytes - 512)
    let (truth, isCopyDamaged) = try trueFooter(copy: footer(container, at: 0), end: end)
    return TrueFooter(footer: truth, isCopyDamaged: isCopyDamaged, end: end)
}

func readDynamicLayout(_ container: borrowing ContainerFile, _ type: VHDFooter.DiskType) throws(ImageError) -> DynamicVHDLayout {
    let (path, fileBytes) = (container.path, container.status.sizeBytes)
    let found = try readTrueFooter(container)
    let field = ImageField(found.footer.encoded(), structure: "footer", at: found.isCopyDamaged ? fileBytes - 512 : 0, path: path)
    try requireType(found.footer, type, field)
    let isReversed = type == .differencing && found.footer.creatorApplication == Array("tap\0".utf8) && found.footer.creatorVersion == 1
    try field.require(!isReversed, "creator version", at: 32, found: "0.1", expected: "1.1 or later",
        meaning: "the first XenServer kept sector bitmaps with their bits the other way round")
    let header = try readHeader(container, found.footer, field)
    let batmap = try VHDBatmap(reading: container, footer: found.footer, header: header)
    let structures = try structures(found.footer, header, batmap, path: path)
    let table = try VHDBlockTable(reading: container, header: header, structures: structures)
    if let batmap { try batmap.check(table, blocks: Int(header.blocks(ofDiskBytes: found.footer.diskSizeBytes)), container) }
    let end = try footerAtEnd(found.end, found.footer, table, header, fileBytes: fileBytes, path: path)
    var footer = found.footer
    // Who saves a machine's state may say so in one of them only.
    if end?.savedState == true { footer.savedState = true }
    return DynamicVHDLayout(footer: footer, header: header, table: table, isCopyDamaged: found.isCopyDamaged, hasFooterAtEnd: end != nil, batmap: batmap)
}

/// Everything but blocks and the footer at the end; none lies over another.
private func structures(
    _ footer: VHDFooter, _ header: VHDDynamicHeader, _ batmap: VHDBatmap?, path: String
) throws(ImageError) -> [VHDStructure] {
    var all = [
        VHDStructure(name: "the footer copy", start: 0, end: 512),
        VHDStructure(name: "the dynamic header", start: footer.dataOffset, end: footer.dataOffset + UInt64(VHDDynamicHeader.bytesCount)),
        VHDStructure(name: "the table itself", start: header.tableOffset, end: header.tableOffset + header.tableBytes),
    ]
    let locators = header.parent.map { $0.locators.filter { $0.use != nil }.map(\.structure) } ?? []
    for more in (batmap?.structures ?? []) + locators {
        if let other = all.first(where: { $0.overlaps(more.start, more.end) }) {
            throw .damaged(ImageDamage(path: path, field: more.name, offset: more.start, found: "bytes \(more.start) to \(more.end)",
                expected: "no overlap with \(other.name) at \(other.start)", meaning: "two structures claim the same bytes"))
        }
        all.append(more)
    }
    return all
}

private func footer(_ container: borrowing ContainerFile, at offset: UInt64) -> Result<VHDFooter, ImageError> {
    do throws(ImageError) {
        return .success(try VHDFooter(parsing: container.read(count: 512, at: offset), at: offset, of: container.path))
    } catch {
        return .failure(error)
    }
}

/// The copy where it is sound; else the footer at the end, where that one is; else the copy's damage.
private func trueFooter(copy: Result<VHDFooter, ImageError>, end: Result<VHDFooter, ImageError>) throws(ImageError) -> (VHDFooter, Bool) {
    switch (copy, end) {
    case (.success(let footer), _): return (footer, false)
    case (.failure(.system(let error)), _): throw .system(error)
    case (.failure, .success(let footer)) where footer.diskType != .fixed: return (footer, true)
    case (.failure(let damage), _): throw damage
    }
}

private func readHeader(_ container: borrowing ContainerFile, _ footer: VHDFooter, _ field: ImageField) throws(ImageError) -> VHDDynamicHeader {
    let (offset, fileBytes) = (footer.dataOffset, container.status.sizeBytes)
    let headerBytes = UInt64(VHDDynamicHeader.bytesCount)
    try field.require(offset >= 512 && offset % 512 == 0 && offset <= fileBytes - headerBytes, "data offset", at: 16,
        found: hex(offset), expected: "a multiple of 512 from 512 with \(headerBytes) bytes behind it in the file",
        meaning: "the dynamic header lies outside of the file or inside the footer")
    return try VHDDynamicHeader(parsing: container.read(count: VHDDynamicHeader.bytesCount, at: offset), at: offset,
        footer: footer, fileBytes: fileBytes, of: container.path)
}

/// The last sector, where it is this disk's footer. It is none when it lies in a block, and what stands a block or
/// more behind the last one is the rest of an allocation that a crash cut short: its bytes prove nothing.
private func footerAtEnd(
    _ end: Result<VHDFooter, ImageError>, _ truth: VHDFooter, _ table: VHDBlockTable, _ header: VHDDynamicHeader, fileBytes: UInt64, path: String
) throws(ImageError) -> VHDFooter? {
    if case .failure(.system(let error)) = end { throw .system(error) }
    guard case .success(let footer) = end, fileBytes - 512 >= table.endOffset else { return nil }
    guard fileBytes - 512 - table.endOffset < header.bitmapBytes + UInt64(header.blockBytes) else { return nil }
    if let (name, place) = footer.disagreement(with: truth) {
        // So far behind the last block it may be a guest's data: of a block whose entry, and whose footer, a power loss took.
        guard fileBytes - table.endOffset <= header.bitmapBytes else { return nil }
        let field = ImageField(footer.encoded(), structure: "footer", at: fileBytes - 512, path: path)
        throw field.damage(name, at: place, found: "another value than the copy at byte 0", expected: "the copy's value",
            meaning: "the two footers describe different disks: a program stopped while it changed them, or one was damaged")
    }
    return footer
}
