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

    /// The file ends as a clean close leaves it.
    var isClean: Bool { hasFooterAtEnd && !isCopyDamaged }
}

/// Opens the dynamic VHD at `path`, announcing each change of its file to `listener` first.
package func openDynamicVHD(_ path: String, access: ImageAccess, listener: FileChangeListener?) throws(ImageError) -> DynamicVHD {
    try openDynamicVHD(ContainerFile.open(path, access: access), access: access, listener: listener)
}

func openDynamicVHD(
    _ container: consuming ContainerFile, access: ImageAccess, listener: FileChangeListener?
) throws(ImageError) -> DynamicVHD {
    var layout = try readDynamicLayout(container)
    try requireNoSavedState(layout.footer, access: access, path: container.path)
    if layout.hasFooterAtEnd { layout.table.moveEnd(to: container.status.sizeBytes - 512) }
    do throws(SystemError) {
        return try DynamicVHD(ChangedFile(container.descriptor, listener: listener), layout)
    } catch { throw .system(error) }
}

func readDynamicLayout(_ container: borrowing ContainerFile) throws(ImageError) -> DynamicVHDLayout {
    let (path, fileBytes) = (container.path, container.status.sizeBytes)
    guard container.status.kind == .regular, fileBytes >= 512 + UInt64(VHDDynamicHeader.bytesCount) else {
        throw .damaged(ImageDamage(path: path, field: "file size", offset: 0, found: "\(fileBytes)",
            expected: "a file of at least a footer copy and a dynamic header", meaning: "too short to be a dynamic VHD"))
    }
    let end = footer(container, at: fileBytes - 512)
    let (truth, isCopyDamaged) = try trueFooter(copy: footer(container, at: 0), end: end)
    let field = VHDField(truth.encoded(), structure: "footer", at: isCopyDamaged ? fileBytes - 512 : 0, path: path)
    try requireSupported(truth, .dynamic, field, path: path)
    let header = try readHeader(container, truth, field)
    let table = try VHDBlockTable(reading: container, header: header, headerOffset: truth.dataOffset)
    let hasFooterAtEnd = try isFooterAtEnd(end, truth, table, header, fileBytes: fileBytes, path: path)
    return DynamicVHDLayout(footer: truth, header: header, table: table, isCopyDamaged: isCopyDamaged, hasFooterAtEnd: hasFooterAtEnd)
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

private func readHeader(_ container: borrowing ContainerFile, _ footer: VHDFooter, _ field: VHDField) throws(ImageError) -> VHDDynamicHeader {
    let (offset, fileBytes) = (footer.dataOffset, container.status.sizeBytes)
    let headerBytes = UInt64(VHDDynamicHeader.bytesCount)
    try field.require(offset >= 512 && offset % 512 == 0 && offset <= fileBytes - headerBytes, "data offset", at: 16,
        found: hex(offset), expected: "a multiple of 512 from 512 with \(headerBytes) bytes behind it in the file",
        meaning: "the dynamic header lies outside of the file or inside the footer")
    return try VHDDynamicHeader(parsing: container.read(count: VHDDynamicHeader.bytesCount, at: offset), at: offset,
        diskBytes: footer.diskSizeBytes, fileBytes: fileBytes, of: container.path)
}

/// Whether the last sector is this disk's footer. It is none when it lies in a block, and what stands a block or
/// more behind the last one is the rest of an allocation that a crash cut short: its bytes prove nothing.
private func isFooterAtEnd(
    _ end: Result<VHDFooter, ImageError>, _ truth: VHDFooter, _ table: VHDBlockTable, _ header: VHDDynamicHeader, fileBytes: UInt64, path: String
) throws(ImageError) -> Bool {
    if case .failure(.system(let error)) = end { throw .system(error) }
    guard case .success(let footer) = end, fileBytes - 512 >= table.endOffset else { return false }
    guard fileBytes - 512 - table.endOffset < header.bitmapBytes + UInt64(header.blockBytes) else { return false }
    if let (name, place) = footer.disagreement(with: truth) {
        let field = VHDField(footer.encoded(), structure: "footer", at: fileBytes - 512, path: path)
        throw field.damage(name, at: place, found: "another value than the copy at byte 0", expected: "the copy's value",
            meaning: "the two footers describe different disks: a program stopped while it changed them, or one was damaged")
    }
    return true
}
