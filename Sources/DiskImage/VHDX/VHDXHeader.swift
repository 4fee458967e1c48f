// The header, of which a VHDX has two: docs/formats/vhdx.md, section "Header". The only structure that is rewritten
// outside of the log: always the one that is not current, so that a torn write leaves the other.

import BlockIO

enum VHDXPlace {
    static let mebibyte: UInt64 = 1 << 20
    static let headers: [UInt64] = [64 << 10, 128 << 10]
    static let regionTables: [UInt64] = [192 << 10, 256 << 10]
    static let regionTableBytes = 64 << 10
    /// Headers and region tables lie before this, everything else behind.
    static let headerSectionEnd: UInt64 = 1 << 20
    /// No file is that large; keeps sums of places in bounds.
    static let fileBytesMax: UInt64 = 1 << 56
    static let logSectorBytes = 4096
}

/// A GUID in its binary form, the first three groups little-endian.
func vhdxID(_ first: UInt32, _ second: UInt16, _ third: UInt16, _ rest: UInt64) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 16)
    bytes.withUnsafeMutableBytes { field in
        field.putLE(first, at: 0)
        field.putLE(second, at: 4)
        field.putLE(third, at: 6)
        field.putBE(rest, at: 8)
    }
    return bytes
}

func newVHDXID() -> [UInt8] {
    var random = SystemRandomNumberGenerator()
    return vhdxID(.random(in: 0...UInt32.max, using: &random), .random(in: 0...UInt16.max, using: &random), 0x4000, random.next())
}

struct VHDXHeader: Equatable, Sendable {
    static let bytesCount = 4096
    static let logBytesMax: UInt32 = 16 << 20
    static let noLog = [UInt8](repeating: 0, count: 16)
    private static let versionKnown: UInt16 = 1
    private static let logVersionKnown: UInt16 = 0

    var sequenceNumber: UInt64
    var fileWriteID: [UInt8]
    var dataWriteID: [UInt8]
    var logID: [UInt8]
    private let logVersion: UInt16
    private let version: UInt16
    let logBytes: UInt32
    let logOffset: UInt64

    var hasLog: Bool { logID != Self.noLog }
    var logEnd: UInt64 { logOffset + UInt64(logBytes) }

    init(new uniqueID: [UInt8], logOffset: UInt64, logBytes: UInt32) {
        sequenceNumber = 1
        fileWriteID = uniqueID
        dataWriteID = uniqueID
        logID = Self.noLog
        logVersion = Self.logVersionKnown
        version = Self.versionKnown
        self.logBytes = logBytes
        self.logOffset = logOffset
    }

    func encoded() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.bytesCount)
        bytes.withUnsafeMutableBytes { field in
            field.put(Array("head".utf8), at: 0)
            field.putLE(sequenceNumber, at: 8)
            field.put(fileWriteID, at: 16)
            field.put(dataWriteID, at: 32)
            field.put(logID, at: 48)
            field.putLE(logVersion, at: 64)
            field.putLE(version, at: 66)
            field.putLE(logBytes, at: 68)
            field.putLE(logOffset, at: 72)
        }
        let sum = crc32c(bytes, zeroing: 4)
        bytes.withUnsafeMutableBytes { $0.putLE(sum, at: 4) }
        return bytes
    }

    /// Sound by signature and checksum, as §2.2.2 has it. What it says is checked of the header that counts, and of no other: refused
    /// here, a newer one would make the older one count, and the log that it names be overlooked.
    init(parsing bytes: [UInt8], at offset: UInt64, of path: String) throws(ImageError) {
        let field = ImageField(bytes, structure: "header", at: offset, path: path)
        try field.requireBytes(Array("head".utf8), "signature", at: 0, meaning: "this is no header of a VHDX")
        try field.requireCRC32C(at: 4)
        sequenceNumber = field.little(UInt64.self, at: 8)
        fileWriteID = field.bytes(at: 16, count: 16)
        dataWriteID = field.bytes(at: 32, count: 16)
        logID = field.bytes(at: 48, count: 16)
        logVersion = field.little(UInt16.self, at: 64)
        version = field.little(UInt16.self, at: 66)
        logBytes = field.little(UInt32.self, at: 68)
        logOffset = field.little(UInt64.self, at: 72)
    }

    /// Throws where the image is not served by this header, or the header contradicts the file.
    func check(at offset: UInt64, fileBytes: UInt64, of path: String) throws(ImageError) {
        let field = ImageField(encoded(), structure: "header", at: offset, path: path)
        for (name, found, known) in [("version", version, Self.versionKnown), ("log version", logVersion, Self.logVersionKnown)] where found != known {
            throw .unsupported(
                path: path, what: "a VHDX of an unknown version: \(found) where \(known) is known (header, \(name), byte \(offset))",
                remedy: "a copy made with the program that wrote it: Convert-VHD on Hyper-V, or qemu-img convert -O vhdx")
        }
        try field.require(logBytes % UInt32(VHDXPlace.mebibyte) == 0 && logBytes > 0, "log length", at: 68,
            found: "\(logBytes)", expected: "a multiple of 1 MiB above 0", meaning: "a log has no other lengths")
        let end = logOffset.addingReportingOverflow(UInt64(logBytes))
        let isInFile = !end.overflow && end.partialValue <= fileBytes
        guard logBytes <= Self.logBytesMax || !isInFile else {
            throw .unsupported(
                path: path, what: "a log of \(logBytes) bytes: a limit of Farshore is \(Self.logBytesMax) (header, log length)",
                remedy: "copy it to a VHDX with a log of 1 MiB: qemu-img convert -O vhdx \(path) COPY.vhdx")
        }
        try field.require(logBytes <= Self.logBytesMax, "log length", at: 68, found: "\(logBytes)", expected: "a log within the file's \(fileBytes) bytes",
            meaning: "the log lies outside of the file")
        try field.require(logOffset % VHDXPlace.mebibyte == 0 && logOffset >= VHDXPlace.headerSectionEnd && isInFile,
            "log offset", at: 72, found: "\(logOffset)", expected: "a multiple of 1 MiB with \(logBytes) bytes behind it in the file's \(fileBytes)",
            meaning: "the log lies outside of the file")
    }
}

/// The header that counts and the place of the other one, which the next change overwrites.
struct VHDXHeaders: Sendable {
    private(set) var current: VHDXHeader
    private var place: Int
    /// Of the other header, where that is none; the next change puts one there.
    let otherDamage: ImageError?

    init(current: VHDXHeader, place: Int, otherDamage: ImageError? = nil) {
        self.current = current
        self.place = place
        self.otherDamage = otherDamage
    }

    init(reading container: borrowing ContainerFile) throws(ImageError) {
        let first = Self.read(container, 0)
        let second = Self.read(container, 1)
        switch (first, second) {
        case (.failure(.system(let error)), _), (_, .failure(.system(let error))): throw .system(error)
        case (.failure(let damage), .failure): throw damage
        case (.success(let header), .failure(let damage)): self.init(current: header, place: 0, otherDamage: damage)
        case (.failure(let damage), .success(let header)): self.init(current: header, place: 1, otherDamage: damage)
        case (.success(let one), .success(let two)):
            guard one.sequenceNumber != two.sequenceNumber || one == two else {
                throw .damaged(ImageDamage(path: container.path, field: "header, sequence number", offset: VHDXPlace.headers[1] + 8,
                    found: "\(two.sequenceNumber), as in the other header", expected: "different numbers in different headers",
                    meaning: "it cannot be told which header counts"))
            }
            self.init(current: one.sequenceNumber > two.sequenceNumber ? one : two, place: one.sequenceNumber > two.sequenceNumber ? 0 : 1)
        }
        try current.check(at: VHDXPlace.headers[place], fileBytes: container.status.sizeBytes, of: container.path)
    }

    private static func read(_ container: borrowing ContainerFile, _ place: Int) -> Result<VHDXHeader, ImageError> {
        let offset = VHDXPlace.headers[place]
        do throws(ImageError) {
            let bytes = try container.read(count: VHDXHeader.bytesCount, at: offset)
            return .success(try VHDXHeader(parsing: bytes, at: offset, of: container.path))
        } catch {
            return .failure(error)
        }
    }

    /// Writes a header with the change over the one that is not current; durable only after a sync of the caller's.
    mutating func change(_ file: borrowing ChangedFile, _ change: (inout VHDXHeader) -> Void) throws(SystemError) {
        var next = current
        change(&next)
        next.sequenceNumber = current.sequenceNumber &+ 1
        try file.write(next.encoded(), at: VHDXPlace.headers[1 - place])
        current = next
        place = 1 - place
    }
}
