// Fields of a VHD structure read at named offsets, big-endian, each checked where it is read, so that a refusal
// names the field and its place in the file.

import BlockIO

struct VHDField {
    static let formatVersion: UInt32 = 0x0001_0000

    private let structure: [UInt8]
    private let name: String
    private let offset: UInt64
    private let path: String

    init(_ bytes: [UInt8], structure name: String, at offset: UInt64, path: String) {
        structure = bytes
        self.name = name
        self.offset = offset
        self.path = path
    }

    func uint8(at place: Int) -> UInt8 { structure[place] }
    func uint16(at place: Int) -> UInt16 { number(at: place) }
    func uint32(at place: Int) -> UInt32 { number(at: place) }
    func uint64(at place: Int) -> UInt64 { number(at: place) }
    func bytes(at place: Int, count: Int) -> [UInt8] { Array(structure[place..<place + count]) }

    private func number<T: FixedWidthInteger & BitwiseCopyable>(at place: Int) -> T {
        structure.withUnsafeBytes { $0.getBE(T.self, at: place) }
    }

    func damage(_ field: String, at place: UInt64, found: String, expected: String, meaning: String) -> ImageError {
        .damaged(ImageDamage(path: path, field: "\(name), \(field)", offset: offset + place, found: found, expected: expected, meaning: meaning))
    }

    func require(
        _ condition: Bool, _ field: String, at place: UInt64, found: @autoclosure () -> String, expected: @autoclosure () -> String,
        meaning: @autoclosure () -> String
    ) throws(ImageError) {
        if !condition { throw damage(field, at: place, found: found(), expected: expected(), meaning: meaning()) }
    }

    func requireBytes(_ wanted: [UInt8], _ field: String, at place: Int, meaning: String) throws(ImageError) {
        let there = bytes(at: place, count: wanted.count)
        try require(there == wanted, field, at: UInt64(place), found: printable(there), expected: printable(wanted), meaning: meaning)
    }

    func requireVersion(at place: Int) throws(ImageError) {
        let version = uint32(at: place)
        try require(version == Self.formatVersion, "format version", at: UInt64(place), found: hex(version), expected: hex(Self.formatVersion),
            meaning: "a version of the format that is not known")
    }

    func requireChecksum(at place: Int, count: Int) throws(ImageError) {
        let found = uint32(at: place)
        let computed = Self.checksum(structure[..<count], skipping: place)
        try require(found == computed, "checksum", at: UInt64(place), found: hex(found), expected: hex(computed),
            meaning: "the structure was damaged or torn")
    }

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

extension UnsafeMutableRawBufferPointer {
    func put(_ bytes: [UInt8], at offset: Int) {
        for (index, byte) in bytes.enumerated() { self[offset + index] = byte }
    }
}

func hex(_ number: some FixedWidthInteger & UnsignedInteger) -> String { "0x" + String(number, radix: 16) }

/// Bytes as text where they are text, as hexadecimal where not.
func printable(_ bytes: [UInt8]) -> String {
    if bytes.allSatisfy({ (32...126).contains($0) }) { return "\"" + String(decoding: bytes, as: UTF8.self) + "\"" }
    return bytes.map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }.joined(separator: " ")
}
