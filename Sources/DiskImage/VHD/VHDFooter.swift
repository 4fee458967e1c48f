// The 512-byte hard disk footer: docs/formats/vhd.md, section "Footer". At the end of every VHD, and again at the
// start of a dynamic one. Parsing checks each field; who reads it decides what a damaged one means.

import BlockIO

package struct VHDFooter: Equatable, Sendable {
    package static let bytesCount = 512
    /// 2,040 GiB: the largest disk a VHD describes.
    package static let sizeBytesMax: UInt64 = 2040 << 30
    /// From 1970 to 2000, where VHD times begin.
    package static let secondsTo2000: Int64 = 946_684_800
    static let cookie = Array("conectix".utf8)
    static let noDataOffset = UInt64.max
    private static let reservedBytes = 427

    package enum DiskType: UInt32, Sendable {
        case fixed = 2
        case dynamic = 3
        case differencing = 4
    }

    package let diskType: DiskType
    package private(set) var currentSizeBytes: UInt64
    package let originalSizeBytes: UInt64
    package private(set) var geometry: VHDGeometry
    /// Where the dynamic header lies; all ones in a fixed disk.
    package let dataOffset: UInt64
    package let features: UInt32
    package private(set) var creatorApplication: [UInt8]
    package private(set) var creatorVersion: UInt32
    package private(set) var creatorHostSystem: [UInt8]
    /// Seconds since 2000-01-01 00:00 UTC.
    package let timeStamp: UInt32
    package let uniqueID: [UInt8]
    package internal(set) var savedState: Bool
    /// Kept as they are: XenServer has a flag there.
    private let reserved: [UInt8]

    /// What the disk's user sees. Virtual PC and QEMU's "qemu" images go by the geometry, all others by the current
    /// size, and so does every image whose geometry is at its maximum (docs/formats/vhd.md, section "Size").
    package var diskSizeBytes: UInt64 { goesByGeometry ? geometry.sectors * 512 : currentSizeBytes }

    var format: ImageFormat {
        switch diskType {
        case .fixed: .vhdFixed
        case .dynamic: .vhdDynamic
        case .differencing: .vhdDifferencing
        }
    }

    package var goesByGeometry: Bool {
        (creatorApplication == Array("vpc ".utf8) || creatorApplication == Array("qemu".utf8)) && geometry.sectors != VHDGeometry.sectorsMax
    }

    /// The footer of a new disk of our own making, always going by its current size.
    init(new diskType: DiskType, sizeBytes: UInt64, uniqueID: [UInt8], timeStamp: UInt32) {
        self.diskType = diskType
        currentSizeBytes = sizeBytes
        originalSizeBytes = sizeBytes
        geometry = VHDGeometry(sizeBytes: sizeBytes)
        dataOffset = diskType == .fixed ? Self.noDataOffset : 512
        features = 2
        creatorApplication = Array("win ".utf8)
        creatorVersion = 0x000A_0000
        creatorHostSystem = Array("Wi2k".utf8)
        self.timeStamp = timeStamp
        self.uniqueID = Array((uniqueID + [UInt8](repeating: 0, count: 16)).prefix(16))
        savedState = false
        reserved = [UInt8](repeating: 0, count: Self.reservedBytes)
    }

    /// The same disk with `sizeBytes`, which count whoever reads it: where the creator's disks go by their geometry, we are the creator now.
    func grown(to sizeBytes: UInt64) -> VHDFooter {
        let ours = VHDFooter(new: diskType, sizeBytes: sizeBytes, uniqueID: uniqueID, timeStamp: timeStamp)
        var grown = self
        grown.currentSizeBytes = sizeBytes
        grown.geometry = ours.geometry
        if grown.goesByGeometry {
            (grown.creatorApplication, grown.creatorVersion, grown.creatorHostSystem) = (ours.creatorApplication, ours.creatorVersion, ours.creatorHostSystem)
        }
        return grown
    }

    /// The footer that makes a flat disk of `sizeBytes` a fixed VHD; the same arguments give the same bytes.
    /// `uniqueID` is 16 bytes; `sizeBytes` a multiple of 512 up to `sizeBytesMax`.
    package static func fixed(sizeBytes: UInt64, uniqueID: [UInt8], timeStamp: UInt32) -> [UInt8] {
        VHDFooter(new: .fixed, sizeBytes: sizeBytes, uniqueID: uniqueID, timeStamp: timeStamp).encoded()
    }

    func encoded() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.bytesCount)
        bytes.withUnsafeMutableBytes { field in
            field.put(Self.cookie, at: 0)
            field.putBE(features, at: 8)
            field.putBE(VHDFormat.version, at: 12)
            field.putBE(dataOffset, at: 16)
            field.putBE(timeStamp, at: 24)
            field.put(creatorApplication, at: 28)
            field.putBE(creatorVersion, at: 32)
            field.put(creatorHostSystem, at: 36)
            field.putBE(originalSizeBytes, at: 40)
            field.putBE(currentSizeBytes, at: 48)
            field.putBE(geometry.cylinders, at: 56)
            field.putBE(geometry.heads, at: 58)
            field.putBE(geometry.sectorsPerTrack, at: 59)
            field.putBE(diskType.rawValue, at: 60)
            field.put(uniqueID, at: 68)
            field.putBE(UInt8(savedState ? 1 : 0), at: 84)
            field.put(reserved, at: 85)
        }
        return VHDFormat.withChecksum(bytes, at: 64)
    }

    /// Whether `bytes` start as a footer does; says nothing of the rest.
    static func hasCookie(_ bytes: [UInt8]) -> Bool { bytes.starts(with: cookie) }

    /// Reads and checks a footer that lies at `offset` of the file.
    init(parsing bytes: [UInt8], at offset: UInt64, of path: String) throws(ImageError) {
        let field = ImageField(bytes, structure: "footer", at: offset, path: path)
        try field.requireBytes(Self.cookie, "cookie", at: 0, meaning: "this is no VHD footer")
        try field.requireVHDChecksum(at: 64, count: Self.bytesCount)
        features = field.uint32(at: 8)
        try field.require(features & ~3 == 0, "features", at: 8, found: hex(features), expected: "only bits 0 and 1",
            meaning: "the image uses a feature that is not specified")
        try field.requireVHDVersion(at: 12)
        dataOffset = field.uint64(at: 16)
        timeStamp = field.uint32(at: 24)
        creatorApplication = field.bytes(at: 28, count: 4)
        creatorVersion = field.uint32(at: 32)
        creatorHostSystem = field.bytes(at: 36, count: 4)
        originalSizeBytes = field.uint64(at: 40)
        currentSizeBytes = field.uint64(at: 48)
        geometry = VHDGeometry(cylinders: field.uint16(at: 56), heads: field.uint8(at: 58), sectorsPerTrack: field.uint8(at: 59))
        let typeNumber = field.uint32(at: 60)
        guard let type = DiskType(rawValue: typeNumber) else {
            throw field.damage("disk type", at: 60, found: "\(typeNumber)", expected: "2 (fixed), 3 (dynamic) or 4 (differencing)",
                meaning: "the kind of image is not known")
        }
        diskType = type
        uniqueID = field.bytes(at: 68, count: 16)
        let saved = field.uint8(at: 84)
        try field.require(saved <= 1, "saved state", at: 84, found: "\(saved)", expected: "0 or 1", meaning: "the flag is damaged")
        savedState = saved == 1
        reserved = field.bytes(at: 85, count: Self.reservedBytes)
        try checkSize(field)
    }

    private func checkSize(_ field: ImageField) throws(ImageError) {
        try field.require(currentSizeBytes > 0 && currentSizeBytes % 512 == 0, "current size", at: 48, found: "\(currentSizeBytes)",
            expected: "a multiple of 512 above 0", meaning: "a disk consists of whole sectors")
        try field.require(currentSizeBytes <= Self.sizeBytesMax, "current size", at: 48, found: "\(currentSizeBytes)",
            expected: "at most \(Self.sizeBytesMax)", meaning: "a VHD holds at most 2,040 GiB")
        try field.require(!goesByGeometry || geometry.sectors > 0, "geometry", at: 56, found: "\(geometry)",
            expected: "cylinders, heads and sectors above 0", meaning: "this creator's disks are as large as their geometry says")
        if diskType == .fixed {
            try field.require(dataOffset == Self.noDataOffset || dataOffset == 0xFFFF_FFFF, "data offset", at: 16, found: hex(dataOffset),
                expected: hex(Self.noDataOffset), meaning: "a fixed disk has no dynamic header")
        }
    }

    /// The first field in which two footers of one disk must not differ but do.
    func disagreement(with other: VHDFooter) -> (field: String, offset: Int)? {
        if diskType != other.diskType { return ("disk type", 60) }
        if currentSizeBytes != other.currentSizeBytes { return ("current size", 48) }
        if geometry != other.geometry { return ("geometry", 56) }
        if dataOffset != other.dataOffset { return ("data offset", 16) }
        if uniqueID != other.uniqueID { return ("unique id", 68) }
        return nil
    }
}
