// The region table: where block allocation table and metadata lie. docs/formats/vhdx.md, section "Region table".

import BlockIO

struct VHDXRegion: Equatable, Sendable {
    let name: String
    let offset: UInt64
    let bytesCount: UInt64

    var end: UInt64 { offset + bytesCount }
}

struct VHDXRegions: Sendable {
    static let tableID = vhdxID(0x2DC2_7766, 0xF623, 0x4200, 0x9D64_115E_9BFD_4A08)
    static let metadataID = vhdxID(0x8B7C_A206, 0x4790, 0x4B9A, 0xB8FE_575F_050F_886E)
    private static let entriesMax: UInt32 = 2047

    let table: VHDXRegion
    let metadata: VHDXRegion
    /// Every place that is taken, the log included.
    let all: [VHDXRegion]

    /// Reads the table as it is after the log's replay, the copy where the first is damaged.
    init(reading file: borrowing VHDXReplayedFile, log: VHDXRegion) throws(ImageError) {
        do throws(ImageError) {
            try self.init(reading: file, at: VHDXPlace.regionTables[0], log: log)
        } catch {
            guard case .damaged = error, let copy = try? VHDXRegions(reading: file, at: VHDXPlace.regionTables[1], log: log) else { throw error }
            self = copy
        }
    }

    private init(reading file: borrowing VHDXReplayedFile, at offset: UInt64, log: VHDXRegion) throws(ImageError) {
        let field = ImageField(try file.read(count: VHDXPlace.regionTableBytes, at: offset), structure: "region table", at: offset, path: file.path)
        try field.requireBytes(Array("regi".utf8), "signature", at: 0, meaning: "this is no region table")
        try field.requireCRC32C(at: 4)
        let count = field.little(UInt32.self, at: 8)
        try field.require(count <= Self.entriesMax, "entry count", at: 8, found: "\(count)", expected: "at most \(Self.entriesMax)", meaning: "the table holds no more")
        var found: [[UInt8]: VHDXRegion] = [:]
        var all = [log]
        for entry in 0..<Int(count) {
            let place = 16 + entry * 32
            let id = field.bytes(at: place, count: 16)
            let region = try Self.region(field, at: place, id: id, fileBytes: file.sizeBytes)
            try field.require(found[id] == nil, "entry \(entry)", at: place, found: "the id of an earlier entry", expected: "an id that stands once",
                meaning: "two regions claim to be the same")
            if let other = all.first(where: { region.offset < $0.end && $0.offset < region.end }) {
                throw field.damage("entry \(entry), file offset", at: place + 16, found: "\(region.offset)", expected: "no overlap with the \(other.name) at \(other.offset)",
                    meaning: "two structures claim the same bytes")
            }
            found[id] = region
            all.append(region)
        }
        guard let table = found[Self.tableID], let metadata = found[Self.metadataID] else {
            throw field.damage("entry count", at: 8, found: "no \(found[Self.tableID] == nil ? "block allocation table" : "metadata region")",
                expected: "both regions", meaning: "without it the disk cannot be found in the file")
        }
        self.table = table
        self.metadata = metadata
        self.all = all
    }

    private static func region(_ field: ImageField, at place: Int, id: [UInt8], fileBytes: UInt64) throws(ImageError) -> VHDXRegion {
        let offset = field.little(UInt64.self, at: place + 16)
        let length = UInt64(field.little(UInt32.self, at: place + 24))
        let isKnown = id == tableID || id == metadataID
        try field.require(isKnown || field.little(UInt32.self, at: place + 28) == 0, "region id", at: place, found: printable(id),
            expected: "a region that is known, or need not be", meaning: "the image uses a feature that is not known")
        let end = offset.addingReportingOverflow(length)
        try field.require(offset % VHDXPlace.mebibyte == 0 && offset >= VHDXPlace.headerSectionEnd && !end.overflow && end.partialValue <= fileBytes,
            "file offset", at: place + 16, found: "\(offset)", expected: "a multiple of 1 MiB with \(length) bytes behind it in the file's \(fileBytes)",
            meaning: "the region lies outside of the file: it was cut")
        try field.require(length % VHDXPlace.mebibyte == 0 && length > 0, "length", at: place + 24, found: "\(length)", expected: "a multiple of 1 MiB",
            meaning: "regions are whole MiB")
        let name = id == tableID ? "block allocation table" : id == metadataID ? "metadata region" : "region \(printable(id))"
        return VHDXRegion(name: name, offset: offset, bytesCount: length)
    }

    /// The table of a new disk.
    static func encoded(table: VHDXRegion, metadata: VHDXRegion) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: VHDXPlace.regionTableBytes)
        bytes.withUnsafeMutableBytes { field in
            field.put(Array("regi".utf8), at: 0)
            field.putLE(UInt32(2), at: 8)
            for (index, (id, region)) in [(tableID, table), (metadataID, metadata)].enumerated() {
                let place = 16 + index * 32
                field.put(id, at: place)
                field.putLE(region.offset, at: place + 16)
                field.putLE(UInt32(region.bytesCount), at: place + 24)
                field.putLE(UInt32(1), at: place + 28)
            }
        }
        let sum = crc32c(bytes, zeroing: 4)
        bytes.withUnsafeMutableBytes { $0.putLE(sum, at: 4) }
        return bytes
    }
}
