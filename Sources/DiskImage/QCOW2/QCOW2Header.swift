// The header: docs/formats/qcow2.md, section "Header". What a reader may overlook and a writer may not is told apart here.

import BlockIO

package struct QCOW2Header: Equatable, Sendable {
    package enum Compression: String, Sendable {
        case zlib
        case zstd
    }

    static let magic: [UInt8] = [0x51, 0x46, 0x49, 0xFB]
    package static let sizeBytesMax: UInt64 = 64 << 40
    private static let l1EntriesMax: UInt32 = 4 << 20
    private static let refcountTableBytesMax: UInt64 = 8 << 20
    private static let fileClustersMax: UInt64 = 512 << 20
    /// More than the tables and refcounts of all that one flush commits.
    private static let reservedClusters: UInt64 = 256 << 10
    static let refcountTableField: UInt64 = 48

    package let version: UInt32
    let clusterBits: Int
    package let sizeBytes: UInt64
    let l1Entries: UInt32
    let l1Offset: UInt64
    let refcountTableOffset: UInt64
    let refcountTableClusters: UInt32
    package let snapshots: UInt32
    let incompatible: UInt64
    let autoclear: UInt64
    let refcountOrder: UInt32
    package let compression: Compression

    package var clusterBytes: UInt64 { 1 << UInt64(clusterBits) }
    package var isDirty: Bool { incompatible & 1 != 0 }
    /// Entries of an L2 table.
    var tableEntries: UInt64 { clusterBytes / 8 }
    /// L1 entries that the disk needs; more may be there.
    var l1EntriesNeeded: Int { Int((sizeBytes + clusterBytes * tableEntries - 1) / (clusterBytes * tableEntries)) }
    /// Refcounts in a refcount block.
    var countsOfBlock: UInt64 { (clusterBytes * 8) >> UInt64(refcountOrder) }
    var refcountTableClustersMax: UInt64 { Self.refcountTableBytesMax / clusterBytes }
    /// Clusters a file may have: a bit each is kept when it is opened, and the largest refcount table must count them.
    var fileClustersMax: UInt64 { min(Self.fileClustersMax, Self.refcountTableBytesMax / 8 * countsOfBlock) }
    /// The same for the disk's data: what is placed there must still be committed.
    var dataClustersMax: UInt64 { fileClustersMax - Self.reservedClusters }
    var clusters: UInt64 { (sizeBytes + clusterBytes - 1) / clusterBytes }

    /// A new disk's header, its tables behind each other.
    init(newWithSize sizeBytes: UInt64) {
        version = 3
        clusterBits = 16
        self.sizeBytes = sizeBytes
        l1Entries = UInt32((sizeBytes + (1 << 29) - 1) >> 29)
        refcountTableOffset = 1 << 16
        refcountTableClusters = 1
        l1Offset = 3 << 16
        snapshots = 0
        incompatible = 0
        autoclear = 0
        refcountOrder = 4
        compression = .zlib
    }

    func encoded() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 112)
        bytes.withUnsafeMutableBytes { field in
            field.put(Self.magic, at: 0)
            field.putBE(version, at: 4)
            field.putBE(UInt32(clusterBits), at: 20)
            field.putBE(sizeBytes, at: 24)
            field.putBE(l1Entries, at: 36)
            field.putBE(l1Offset, at: 40)
            field.putBE(refcountTableOffset, at: 48)
            field.putBE(refcountTableClusters, at: 56)
            field.putBE(refcountOrder, at: 96)
            field.putBE(UInt32(104), at: 100)
        }
        return bytes
    }

    init(parsing bytes: [UInt8], fileBytes: UInt64, of path: String) throws(ImageError) {
        let field = ImageField(bytes, structure: "header", at: 0, path: path)
        try field.requireBytes(Self.magic, "magic", at: 0, meaning: "this is no qcow2 image")
        version = field.big(UInt32.self, at: 4)
        try field.require(version == 2 || version == 3, "version", at: 4, found: "\(version)", expected: "2 or 3", meaning: "a version of the format that is not known")
        let hasFeatures = version == 3
        let bits = field.big(UInt32.self, at: 20)
        try field.require(bits >= 9 && bits <= 21, "cluster bits", at: 20, found: "\(bits)", expected: "9 to 21", meaning: "clusters have 512 bytes to 2 MiB")
        clusterBits = Int(bits)
        sizeBytes = field.big(UInt64.self, at: 24)
        l1Entries = field.big(UInt32.self, at: 36)
        l1Offset = field.big(UInt64.self, at: 40)
        refcountTableOffset = field.big(UInt64.self, at: 48)
        refcountTableClusters = field.big(UInt32.self, at: 56)
        snapshots = field.big(UInt32.self, at: 60)
        incompatible = hasFeatures ? field.big(UInt64.self, at: 72) : 0
        autoclear = hasFeatures ? field.big(UInt64.self, at: 88) : 0
        refcountOrder = hasFeatures ? field.big(UInt32.self, at: 96) : 4
        compression = incompatible & 8 != 0 ? .zstd : .zlib
        try Self.refuse(field, incompatible, path)
        if hasFeatures { try checkFeatures(field) }
        try checkTables(field, fileBytes: fileBytes, path)
    }

    private static func refuse(_ field: ImageField, _ incompatible: UInt64, _ path: String) throws(ImageError) {
        let reasons: [(Bool, what: String, remedy: String)] = [
            (field.big(UInt64.self, at: 8) != 0, "a qcow2 image with a backing file: not supported (backing file offset)",
             "qemu-img convert -O qcow2 \(path) WHOLE.qcow2"),
            (field.big(UInt32.self, at: 32) != 0, "an encrypted qcow2 image: not supported (encryption method)",
             "qemu-img convert with --object secret,… into an image without encryption"),
            (incompatible & 2 != 0, "an image that QEMU marked corrupt (incompatible features, bit 1)", "qemu-img check -r all \(path)"),
            (incompatible & 4 != 0, "a qcow2 image with an external data file: not supported (incompatible features, bit 2)",
             "qemu-img convert -O qcow2 \(path) WHOLE.qcow2"),
            (incompatible & 16 != 0, "a qcow2 image with extended L2 entries: not supported (incompatible features, bit 4)",
             "qemu-img convert -O qcow2 -o extended_l2=off \(path) PLAIN.qcow2"),
        ]
        for reason in reasons where reason.0 { throw .unsupported(path: path, what: reason.what, remedy: reason.remedy) }
    }

    private func checkFeatures(_ field: ImageField) throws(ImageError) {
        try field.require(incompatible & ~0x1F == 0, "incompatible features", at: 72, found: hex(incompatible), expected: "only bits 0 to 4",
            meaning: "the image uses a feature that is not known")
        try field.require(refcountOrder <= 6, "refcount order", at: 96, found: "\(refcountOrder)", expected: "0 to 6", meaning: "refcounts have 1 to 64 bits")
        let length = field.big(UInt32.self, at: 100)
        try field.require(length >= 104 && length % 8 == 0 && UInt64(length) <= clusterBytes, "header length", at: 100, found: "\(length)",
            expected: "a multiple of 8 from 104, within the first cluster", meaning: "the header is cut short")
        let type = length > 104 ? field.bytes(at: 104, count: 1)[0] : 0
        try field.require(type == (compression == .zstd ? 1 : 0), "compression type", at: 104, found: "\(type)", expected: compression == .zstd ? "1" : "0",
            meaning: "the header contradicts itself, or the compression is not known")
    }

    private func checkTables(_ field: ImageField, fileBytes: UInt64, _ path: String) throws(ImageError) {
        try field.require(sizeBytes > 0 && sizeBytes % 512 == 0, "size", at: 24, found: "\(sizeBytes)",
            expected: "a multiple of 512 above 0", meaning: "a disk consists of whole sectors")
        guard sizeBytes <= Self.sizeBytesMax else {
            let covered = UInt64(l1Entries) >= sizeBytes / (clusterBytes * tableEntries)
            guard covered else {
                throw field.damage("size", at: 24, found: "\(sizeBytes)", expected: "at most \(Self.sizeBytesMax)", meaning: "the L1 table does not cover such a disk")
            }
            throw .unsupported(
                path: path, what: "a disk of \(sizeBytes) bytes: a limit of Farshore is 64 TiB for qcow2 (header, size)",
                remedy: "make the disk smaller inside its machine, then qemu-img resize --shrink \(path) 64T; or move data to a second disk")
        }
        try field.require(l1Entries <= Self.l1EntriesMax && Int(l1Entries) >= l1EntriesNeeded, "L1 entries", at: 36, found: "\(l1Entries)",
            expected: "\(l1EntriesNeeded) to \(Self.l1EntriesMax)", meaning: "the table does not cover the disk, or would need too much memory")
        let refcountBytes = UInt64(refcountTableClusters) * clusterBytes
        try field.require(refcountBytes > 0 && refcountBytes <= Self.refcountTableBytesMax, "refcount table clusters", at: 56, found: "\(refcountTableClusters)",
            expected: "1 to \(Self.refcountTableBytesMax / clusterBytes)", meaning: "the table would need too much memory, or is missing")
        for (name, place, offset, length) in [("L1 table offset", 40, l1Offset, UInt64(l1Entries) * 8), ("refcount table offset", 48, refcountTableOffset, refcountBytes)] {
            let (end, overflow) = offset.addingReportingOverflow(length)
            try field.require(offset > 0 && offset % clusterBytes == 0 && !overflow && end <= fileBytes, name, at: place, found: "\(offset)",
                expected: "a multiple of \(clusterBytes) with \(length) bytes behind it in the file's \(fileBytes)", meaning: "the table lies outside of the file: it was cut")
        }
    }

    /// What only a writer must not overlook.
    func requireWritable(_ path: String) throws(ImageError) {
        let reasons: [(Bool, what: String, remedy: String)] = [
            (isDirty, "its refcounts are marked as not up to date (incompatible features, bit 0): it was not closed cleanly", "qemu-img check -r all \(path)"),
            (snapshots > 0, "it holds \(snapshots) internal snapshots, which writing would have to keep apart: not supported (snapshots)",
             "qemu-img snapshot -d NAME \(path) for each, or qemu-img convert -O qcow2 \(path) WITHOUT.qcow2"),
            (autoclear != 0, "it holds persistent bitmaps or another feature that writing would spoil (autoclear features \(hex(autoclear)))",
             "qemu-img bitmap --remove \(path) NAME for each, or qemu-img convert -O qcow2 \(path) WITHOUT.qcow2"),
        ]
        for reason in reasons where reason.0 { throw .unsupported(path: path, what: "this qcow2 image cannot be written: \(reason.what)", remedy: reason.remedy) }
    }
}
