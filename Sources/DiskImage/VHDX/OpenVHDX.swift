// Opens a VHDX: everything is read and checked as it will be after the log's replay. Opening changes nothing; VHDXImage
// carries the replay out before it writes. docs/formats/vhdx.md has the fields.

import BlockIO

/// What a VHDX says of itself, checked; before any repair.
struct VHDXLayout: ~Copyable {
    let file: VHDXReplayedFile
    let metadata: VHDXMetadata
    let table: VHDXBlockTable

    private init(_ file: consuming VHDXReplayedFile, _ metadata: VHDXMetadata, _ table: VHDXBlockTable) {
        self.file = file
        self.metadata = metadata
        self.table = table
    }

    static func read(_ container: consuming ContainerFile) throws(ImageError) -> VHDXLayout {
        let file = try VHDXReplayedFile.read(container)
        let header = file.headers.current
        let log = VHDXRegion(name: "log", offset: header.logOffset, bytesCount: UInt64(header.logBytes))
        let regions = try VHDXRegions(reading: file, log: log)
        let metadata = try VHDXMetadata(reading: file, region: regions.metadata)
        let table = try VHDXBlockTable(reading: file, metadata: metadata, regions: regions)
        return VHDXLayout(file, metadata, table)
    }
}

/// Opens the VHDX at `path`, announcing each change of its file to `listener` first.
package func openVHDX(_ path: String, access: ImageAccess, listener: FileChangeListener?) throws(ImageError) -> VHDXImage {
    try openVHDX(ContainerFile.open(path, access: access), access: access, listener: listener)
}

func openVHDX(_ container: consuming ContainerFile, access: ImageAccess, listener: FileChangeListener?) throws(ImageError) -> VHDXImage {
    let layout = try VHDXLayout.read(container)
    let (sizeBytes, table, fileBytes) = (layout.metadata.sizeBytes, layout.table, layout.file.container.status.sizeBytes)
    let commit = VHDXCommit(headers: layout.file.headers, replay: layout.file.replay, shape: table.shape)
    let file = ChangedFile(layout.takeDescriptor(), listener: listener)
    do throws(SystemError) {
        return VHDXImage(try MappedFile(file, storedBytes: fileBytes), sizeBytes: sizeBytes, table: table, commit: commit)
    } catch { throw .system(error) }
}

extension VHDXLayout {
    fileprivate consuming func takeDescriptor() -> Descriptor { file.takeDescriptor() }
}

extension VHDXReplayedFile {
    fileprivate consuming func takeDescriptor() -> Descriptor { container.descriptor }
}

/// Headers, log, metadata and an empty table over an empty file: docs/formats/vhdx.md, section "A new disk".
func layVHDX(_ file: borrowing Descriptor, sizeBytes: UInt64, uniqueID: [UInt8]) throws(SystemError) {
    let mebibyte = VHDXPlace.mebibyte
    let metadata = VHDXMetadata(newWithSize: sizeBytes, blockBytes: 32 << 20, diskID: uniqueID)
    let place = VHDXRegion(name: "block allocation table", offset: 3 * mebibyte, bytesCount: mebibyte)
    let needed = VHDXTableShape(region: place, blockBytes: metadata.blockBytes, sizeBytes: sizeBytes).bytesCount
    let table = VHDXRegion(name: place.name, offset: place.offset, bytesCount: needed.roundedUp(to: mebibyte))
    let regions = VHDXRegions.encoded(table: table, metadata: VHDXRegion(name: "metadata region", offset: 2 * mebibyte, bytesCount: mebibyte))
    var header = VHDXHeader(new: uniqueID, logOffset: mebibyte, logBytes: UInt32(mebibyte))
    for offset in VHDXPlace.headers {
        try file.write(header.encoded(), at: offset)
        header.sequenceNumber += 1
    }
    // Of tables of 64 KiB only what is not zero: the rest stays a hole.
    for offset in VHDXPlace.regionTables { try file.write(Array(regions[..<4096]), at: offset) }
    let items = metadata.encoded()
    try file.write(Array(items[..<4096]), at: 2 * mebibyte)
    try file.write(Array(items[VHDXMetadata.tableBytes...]), at: 2 * mebibyte + UInt64(VHDXMetadata.tableBytes))
    try file.truncate(to: table.end)
    try file.write(Array("vhdxfile".utf8), at: 0)
}
