// Fields of an image's structure read at named offsets, each checked where it is read, so that a refusal names the
// field and its place in the file. VHDX is little-endian, VHD and qcow2 are big-endian.

import BlockIO

struct ImageField {
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

    func little<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, at place: Int) -> T {
        structure.withUnsafeBytes { $0.getLE(type, at: place) }
    }

    func big<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, at place: Int) -> T {
        structure.withUnsafeBytes { $0.getBE(type, at: place) }
    }

    func bytes(at place: Int, count: Int) -> [UInt8] { Array(structure[place..<place + count]) }

    func damage(_ field: String, at place: Int, found: String, expected: String, meaning: String) -> ImageError {
        .damaged(ImageDamage(path: path, field: "\(name), \(field)", offset: offset + UInt64(place), found: found, expected: expected, meaning: meaning))
    }

    func require(
        _ condition: Bool, _ field: String, at place: Int, found: @autoclosure () -> String, expected: @autoclosure () -> String,
        meaning: @autoclosure () -> String
    ) throws(ImageError) {
        if !condition { throw damage(field, at: place, found: found(), expected: expected(), meaning: meaning()) }
    }

    func requireBytes(_ wanted: [UInt8], _ field: String, at place: Int, meaning: String) throws(ImageError) {
        let there = bytes(at: place, count: wanted.count)
        try require(there == wanted, field, at: place, found: printable(there), expected: printable(wanted), meaning: meaning)
    }

    /// The structure's CRC-32C with its own four bytes taken for zeros, as VHDX computes it.
    func requireCRC32C(at place: Int) throws(ImageError) {
        let (found, computed) = (little(UInt32.self, at: place), crc32c(structure, zeroing: place))
        try require(found == computed, "checksum", at: place, found: hex(found), expected: hex(computed), meaning: "the structure was damaged or torn")
    }
}

/// CRC-32C of `bytes` with the four bytes at `place` taken for zeros.
func crc32c(_ bytes: [UInt8], zeroing place: Int) -> UInt32 {
    bytes.withUnsafeBytes { all in
        let head = crc32c(UnsafeRawBufferPointer(rebasing: all[..<place]))
        let middle = [UInt8](repeating: 0, count: 4).withUnsafeBytes { crc32c($0, seed: head) }
        return crc32c(UnsafeRawBufferPointer(rebasing: all[(place + 4)...]), seed: middle)
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
