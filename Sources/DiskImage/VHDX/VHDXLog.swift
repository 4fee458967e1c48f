// The log: docs/formats/vhdx.md, section "Log". Entries are found and checked here, made for our own changes, and
// applied: in memory for a reader, to the file for a writer.

import BlockIO

/// One change that an entry makes to the file.
struct VHDXLogChange: Sendable {
    enum What: Sendable {
        case data([UInt8])
        case zeros(UInt64)
    }

    let offset: UInt64
    let what: What

    var bytesCount: UInt64 {
        switch what {
        case .data(let bytes): UInt64(bytes.count)
        case .zeros(let count): count
        }
    }
}

struct VHDXLogEntry: Sendable {
    let place: Int
    let bytesCount: Int
    let tail: Int
    let sequenceNumber: UInt64
    let flushedFileBytes: UInt64
    let lastFileBytes: UInt64
    let changes: [VHDXLogChange]
}

/// What an entry's header and descriptors take.
private func descriptorSectors(_ count: Int) -> Int { (64 + 32 * count + VHDXPlace.logSectorBytes - 1) / VHDXPlace.logSectorBytes }

extension VHDXLogEntry {
    /// The entry at `place` of the log, or nil when there is no valid one.
    init?(in log: [UInt8], at place: Int, id: [UInt8]) {
        guard let length = Self.length(of: log, at: place, id: id) else { return nil }
        let bytes = Self.bytes(of: log, at: place, length)
        let field = ImageField(bytes, structure: "log entry", at: 0, path: "")
        sequenceNumber = field.little(UInt64.self, at: 16)
        tail = Int(field.little(UInt32.self, at: 12))
        flushedFileBytes = field.little(UInt64.self, at: 48)
        lastFileBytes = field.little(UInt64.self, at: 56)
        guard sequenceNumber > 0, tail < log.count, tail % VHDXPlace.logSectorBytes == 0 else { return nil }
        guard let changes = Self.changes(field, bytes.count, sequenceNumber) else { return nil }
        // Last, because it is dear.
        guard field.little(UInt32.self, at: 4) == crc32c(bytes, zeroing: 4) else { return nil }
        self.place = place
        bytesCount = bytes.count
        self.changes = changes
    }

    /// What the header at `place` says, or nil where there is none.
    static func length(of log: [UInt8], at place: Int, id: [UInt8]) -> Int? {
        let header = ImageField(Array(log[place..<place + 64]), structure: "log entry", at: 0, path: "")
        guard header.bytes(at: 0, count: 4) == Array("loge".utf8), header.bytes(at: 32, count: 16) == id else { return nil }
        let length = Int(header.little(UInt32.self, at: 8))
        let count = Int(header.little(UInt32.self, at: 24))
        guard length > 0, length <= log.count, length % VHDXPlace.logSectorBytes == 0, count <= length / 32,
            descriptorSectors(count) * VHDXPlace.logSectorBytes <= length
        else { return nil }
        return length
    }

    private static func bytes(of log: [UInt8], at place: Int, _ length: Int) -> [UInt8] {
        let end = place + length
        return end <= log.count ? Array(log[place..<end]) : Array(log[place...]) + Array(log[..<(end - log.count)])
    }

    private static func changes(_ field: ImageField, _ bytesCount: Int, _ sequence: UInt64) -> [VHDXLogChange]? {
        let count = Int(field.little(UInt32.self, at: 24))
        var changes: [VHDXLogChange] = []
        var sector = descriptorSectors(count) * VHDXPlace.logSectorBytes
        for number in 0..<count {
            let place = 64 + number * 32
            let offset = field.little(UInt64.self, at: place + 16)
            guard field.little(UInt64.self, at: place + 24) == sequence, offset % 4096 == 0 else { return nil }
            switch field.little(UInt32.self, at: place) {
            case 0x6F72_657A:  // zero
                let length = field.little(UInt64.self, at: place + 8)
                guard length % 4096 == 0 else { return nil }
                changes.append(VHDXLogChange(offset: offset, what: .zeros(length)))
            case 0x6373_6564:  // desc
                guard sector + VHDXPlace.logSectorBytes <= bytesCount, field.bytes(at: sector, count: 4) == Array("data".utf8),
                    field.little(UInt32.self, at: sector + 4) == UInt32(truncatingIfNeeded: sequence >> 32),
                    field.little(UInt32.self, at: sector + 4092) == UInt32(truncatingIfNeeded: sequence)
                else { return nil }
                let data = field.bytes(at: place + 8, count: 8) + field.bytes(at: sector + 8, count: 4084) + field.bytes(at: place + 4, count: 4)
                changes.append(VHDXLogChange(offset: offset, what: .data(data)))
                sector += VHDXPlace.logSectorBytes
            default: return nil
            }
        }
        return changes
    }

    /// How many times the log's size its entries claim together. Once is what a writer leaves, and what newer entries have overwritten
    /// of older ones; entries that lie over each other many times would each be read and summed.
    static func claims(of log: [UInt8], id: [UInt8]) -> Int {
        stride(from: 0, to: log.count, by: VHDXPlace.logSectorBytes).reduce(0) { $0 + (length(of: log, at: $1, id: id) ?? 0) } / log.count
    }

    /// The sequence to replay, oldest entry first: of the runs of consecutive entries whose head's tail lies in the run,
    /// the one with the newest head. Empty when there is none.
    static func activeSequence(of log: [UInt8], id: [UInt8]) -> [VHDXLogEntry] {
        var entries: [Int: VHDXLogEntry] = [:]
        for place in stride(from: 0, to: log.count, by: VHDXPlace.logSectorBytes) {
            if let entry = VHDXLogEntry(in: log, at: place, id: id) { entries[place] = entry }
        }
        func next(_ entry: VHDXLogEntry) -> VHDXLogEntry? {
            guard let next = entries[(entry.place + entry.bytesCount) % log.count], next.sequenceNumber == entry.sequenceNumber &+ 1 else { return nil }
            return next
        }
        for head in entries.values.sorted(by: { $0.sequenceNumber > $1.sequenceNumber }) where next(head) == nil {
            var sequence: [VHDXLogEntry] = []
            var entry = entries[head.tail]
            while let member = entry, member.sequenceNumber <= head.sequenceNumber {
                sequence.append(member)
                if member.place == head.place { return sequence }
                entry = next(member)
            }
        }
        return []
    }

    /// An entry of our own that stands alone: its tail is itself. `sectors` are at most 126 pieces of 4,096 bytes.
    static func encoded(_ sectors: [(offset: UInt64, bytes: [UInt8])], id: [UInt8], place: UInt64, fileBytes: UInt64) -> [UInt8] {
        let head = descriptorSectors(sectors.count) * VHDXPlace.logSectorBytes
        var bytes = [UInt8](repeating: 0, count: head + sectors.count * VHDXPlace.logSectorBytes)
        let (length, sequence) = (UInt32(bytes.count), UInt64(1))
        bytes.withUnsafeMutableBytes { field in
            field.put(Array("loge".utf8), at: 0)
            field.putLE(length, at: 8)
            field.putLE(UInt32(place), at: 12)
            field.putLE(sequence, at: 16)
            field.putLE(UInt32(sectors.count), at: 24)
            field.put(id, at: 32)
            field.putLE(fileBytes / VHDXPlace.mebibyte * VHDXPlace.mebibyte, at: 48)
            field.putLE(fileBytes.roundedUp(to: VHDXPlace.mebibyte), at: 56)
            for (number, sector) in sectors.enumerated() {
                let (descriptor, data) = (64 + number * 32, head + number * VHDXPlace.logSectorBytes)
                field.put(Array("desc".utf8), at: descriptor)
                field.put(Array(sector.bytes[4092...]), at: descriptor + 4)
                field.put(Array(sector.bytes[..<8]), at: descriptor + 8)
                field.putLE(sector.offset, at: descriptor + 16)
                field.putLE(sequence, at: descriptor + 24)
                field.put(Array("data".utf8), at: data)
                field.putLE(UInt32(sequence >> 32), at: data + 4)
                field.put(Array(sector.bytes[8..<4092]), at: data + 8)
                field.putLE(UInt32(truncatingIfNeeded: sequence), at: data + 4092)
            }
        }
        let sum = crc32c(bytes, zeroing: 4)
        bytes.withUnsafeMutableBytes { $0.putLE(sum, at: 4) }
        return bytes
    }
}
