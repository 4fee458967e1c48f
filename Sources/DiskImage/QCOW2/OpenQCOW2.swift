// Opens a qcow2 image: header, tables and every entry are checked before a byte of the disk is served. Opening writes nothing.
// docs/formats/qcow2.md has the fields.

import BlockIO

/// What a qcow2 image says of itself, checked.
struct QCOW2Layout {
    let header: QCOW2Header
    let l1: [UInt64]
    let refcountTable: [UInt64]
    let allocatedClusters: UInt64
    let compressedClusters: UInt64

    init(reading container: borrowing ContainerFile) throws(ImageError) {
        let (path, kind) = (container.path, container.status.kind)
        guard kind == .regular, container.status.sizeBytes >= 112 else {
            throw .damaged(ImageDamage(path: path, field: "file size", offset: 0, found: "\(container.status.sizeBytes)",
                expected: "a file of at least a header and its tables", meaning: "too short to be a qcow2 image"))
        }
        header = try QCOW2Header(parsing: container.read(count: 112, at: 0), fileBytes: container.status.sizeBytes, of: path)
        l1 = try Self.entries(container, header.l1EntriesNeeded, at: header.l1Offset)
        refcountTable = try Self.entries(container, Int(UInt64(header.refcountTableClusters) * header.clusterBytes / 8), at: header.refcountTableOffset)
        // The size after the tables were read: a writer elsewhere extends the file before it enters a cluster.
        let fileBytes = try asImageError { () throws(SystemError) in try container.descriptor.status().sizeBytes }
        var survey = try QCOW2Survey(header, fileBytes: fileBytes, path: path)
        try survey.walk(container, l1: l1, refcounts: refcountTable)
        (allocatedClusters, compressedClusters) = (survey.allocatedClusters, survey.compressedClusters)
    }

    private static func entries(_ container: borrowing ContainerFile, _ count: Int, at offset: UInt64) throws(ImageError) -> [UInt64] {
        let bytes = try container.read(count: count * 8, at: offset)
        return bytes.withUnsafeBytes { raw in (0..<count).map { raw.getBE(UInt64.self, at: $0 * 8) } }
    }

    /// A table that is not the disk's alone would have to be copied first.
    func requireWritable(_ path: String) throws(ImageError) {
        try header.requireWritable(path)
        for (index, entry) in l1.enumerated() where entry != 0 && entry & QCOW2Cluster.ownBit == 0 {
            throw .unsupported(path: path, what: "this qcow2 image cannot be written: its L2 table \(index) may be shared (L1 table, entry \(index), bit 63)",
                remedy: "qemu-img check -r all \(path)")
        }
    }
}

/// Opens the qcow2 image at `path`, announcing each change of its file to `listener` first.
package func openQCOW2(_ path: String, access: ImageAccess, listener: FileChangeListener?) throws(ImageError) -> QCOW2Image {
    try openQCOW2(ContainerFile.open(path, access: access), access: access, listener: listener)
}

func openQCOW2(_ container: consuming ContainerFile, access: ImageAccess, listener: FileChangeListener?) throws(ImageError) -> QCOW2Image {
    let layout = try QCOW2Layout(reading: container)
    let fileBytes = container.status.sizeBytes
    let end = fileBytes.roundedUp(to: layout.header.clusterBytes)
    if access == .readWrite { try layout.requireWritable(container.path) }
    let file = ChangedFile(container.descriptor, listener: listener)
    do throws(SystemError) {
        return QCOW2Image(try MappedFile(file, storedBytes: fileBytes), header: layout.header, l1: layout.l1,
            refcountTable: layout.refcountTable, endOffset: end)
    } catch { throw .system(error) }
}

/// Header and tables of a new disk over an empty file: docs/formats/qcow2.md, section "A new disk".
func layQCOW2(_ file: borrowing Descriptor, sizeBytes: UInt64) throws(SystemError) {
    let header = QCOW2Header(newWithSize: sizeBytes)
    let clusterBytes = header.clusterBytes
    let end = (header.l1Offset + UInt64(header.l1Entries) * 8).roundedUp(to: clusterBytes)
    var counts = [UInt8](repeating: 0, count: Int(end / clusterBytes) * 2)
    for cluster in 0..<Int(end / clusterBytes) { counts[cluster * 2 + 1] = 1 }
    try file.write(QCOW2Refcounts.encoded([2 * clusterBytes]), at: header.refcountTableOffset)
    try file.write(counts, at: 2 * clusterBytes)
    try file.truncate(to: end)
    try file.write(header.encoded(), at: 0)
}
