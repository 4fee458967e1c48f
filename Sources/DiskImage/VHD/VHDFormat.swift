// What all structures of a VHD share: big-endian fields, one version, one kind of checksum.

import BlockIO

enum VHDFormat {
    static let version: UInt32 = 0x0001_0000

    /// The one's complement of the sum of all bytes but the checksum's own four.
    static func checksum(_ bytes: ArraySlice<UInt8>, skipping place: Int) -> UInt32 {
        var sum: UInt32 = 0
        for (index, byte) in bytes.enumerated() where index < place || index >= place + 4 { sum &+= UInt32(byte) }
        return ~sum
    }

    static func withChecksum(_ bytes: [UInt8], at place: Int) -> [UInt8] {
        var summed = bytes
        let sum = checksum(bytes[...], skipping: place)
        summed.withUnsafeMutableBytes { $0.putBE(sum, at: place) }
        return summed
    }
}

extension ImageField {
    func uint8(at place: Int) -> UInt8 { big(UInt8.self, at: place) }
    func uint16(at place: Int) -> UInt16 { big(UInt16.self, at: place) }
    func uint32(at place: Int) -> UInt32 { big(UInt32.self, at: place) }
    func uint64(at place: Int) -> UInt64 { big(UInt64.self, at: place) }

    func requireVHDVersion(at place: Int) throws(ImageError) {
        let version = uint32(at: place)
        try require(version == VHDFormat.version, "format version", at: place, found: hex(version), expected: hex(VHDFormat.version),
            meaning: "a version of the format that is not known")
    }

    /// Over the structure's first `count` bytes.
    func requireVHDChecksum(at place: Int, count: Int) throws(ImageError) {
        let found = uint32(at: place)
        let computed = VHDFormat.checksum(bytes(at: 0, count: count)[...], skipping: place)
        try require(found == computed, "checksum", at: place, found: hex(found), expected: hex(computed), meaning: "the structure was damaged or torn")
    }
}
