// What is on a disk, found by its own bytes: partitions (MBR with logical ones, GPT) and the file systems in them. Kernels need not be able
// to look for partitions on a loop device, and a disk is not to be believed: every number is checked against its size.

package struct DiskContent: Equatable, Sendable {
    package enum FileSystem: String, Sendable, CaseIterable {
        case ext4, xfs, ntfs
    }

    package struct Volume: Equatable, Sendable {
        /// As the partition is numbered; 0 for the whole disk.
        package let number: Int
        package let range: Range<UInt64>
        /// Nil for what is none of the known ones: swap, LVM, an encrypted volume.
        package let fileSystem: FileSystem?
    }

    private static let sectorBytes: UInt64 = 512
    private static let partitionsMax = 128

    /// By their number.
    package let volumes: [Volume]

    /// `read` gives `count` bytes at an offset of a disk of `sizeBytes`; it is asked for a few sectors only.
    package init<Failure: Error>(sizeBytes: UInt64, read: (_ offset: UInt64, _ count: Int) throws(Failure) -> [UInt8]) throws(Failure) {
        if let whole = try Self.fileSystem(in: 0..<sizeBytes, read) {
            volumes = [Volume(number: 0, range: 0..<sizeBytes, fileSystem: whole)]
            return
        }
        var found: [Volume] = []
        for (number, range) in try Self.partitions(sizeBytes, read).sorted(by: { $0.number < $1.number }) {
            found.append(Volume(number: number, range: range, fileSystem: try Self.fileSystem(in: range, read)))
        }
        volumes = found
    }

    // MARK: File systems

    private static func fileSystem<Failure: Error>(in range: Range<UInt64>, _ read: (UInt64, Int) throws(Failure) -> [UInt8]) throws(Failure) -> FileSystem? {
        guard range.upperBound - range.lowerBound >= 2_048 else { return nil }
        let start = try read(range.lowerBound, 2_048)
        if start[0..<4].elementsEqual("XFSB".utf8) { return .xfs }
        if start[3..<11].elementsEqual("NTFS    ".utf8) { return .ntfs }
        // ext2 and ext3 have the same mark, and the kernel's ext4 reads them.
        return start[1_080] == 0x53 && start[1_081] == 0xEF ? .ext4 : nil
    }

    // MARK: Partitions

    private static func partitions<Failure: Error>(
        _ sizeBytes: UInt64, _ read: (UInt64, Int) throws(Failure) -> [UInt8]
    ) throws(Failure) -> [(number: Int, range: Range<UInt64>)] {
        guard sizeBytes >= 2 * sectorBytes else { return [] }
        let record = try read(0, 512)
        guard record[510] == 0x55, record[511] == 0xAA else { return [] }
        if (0..<4).contains(where: { record[446 + 16 * $0 + 4] == 0xEE }) { return try tablePartitions(sizeBytes, read) }
        var found: [(number: Int, range: Range<UInt64>)] = []
        for slot in 0..<4 {
            let entry = Entry(record, slot)
            if entry.isExtended {
                found += try logicalPartitions(in: entry, sizeBytes, read)
            } else if let range = entry.range(from: 0, diskBytes: sizeBytes) {
                found.append((slot + 1, range))
            }
        }
        return found
    }

    /// One of the four entries of a boot record.
    private struct Entry {
        let kind: UInt8
        let start: UInt64
        let sectors: UInt64

        init(_ record: [UInt8], _ slot: Int) {
            let at = 446 + 16 * slot
            kind = record[at + 4]
            start = DiskContent.integer(record, at + 8, 4)
            sectors = DiskContent.integer(record, at + 12, 4)
        }

        var isExtended: Bool { kind == 0x05 || kind == 0x0F || kind == 0x85 }

        func range(from base: UInt64, diskBytes: UInt64) -> Range<UInt64>? {
            kind == 0 ? nil : DiskContent.range(first: base + start, sectors: sectors, diskBytes)
        }
    }

    /// A chain of boot records, each with one partition and the place of the next.
    private static func logicalPartitions<Failure: Error>(
        in extended: Entry, _ sizeBytes: UInt64, _ read: (UInt64, Int) throws(Failure) -> [UInt8]
    ) throws(Failure) -> [(number: Int, range: Range<UInt64>)] {
        var found: [(number: Int, range: Range<UInt64>)] = []
        var place = extended.start
        var seen: Set<UInt64> = []
        while seen.count < partitionsMax, seen.insert(place).inserted, range(first: place, sectors: 1, sizeBytes) != nil {
            let record = try read(place * sectorBytes, 512)
            guard record[510] == 0x55, record[511] == 0xAA else { break }
            if let range = Entry(record, 0).range(from: place, diskBytes: sizeBytes) { found.append((5 + found.count, range)) }
            let next = Entry(record, 1)
            guard next.isExtended else { break }
            place = extended.start + next.start
        }
        return found
    }

    private static func tablePartitions<Failure: Error>(
        _ sizeBytes: UInt64, _ read: (UInt64, Int) throws(Failure) -> [UInt8]
    ) throws(Failure) -> [(number: Int, range: Range<UInt64>)] {
        let header = try read(sectorBytes, 512)
        guard header[0..<8].elementsEqual("EFI PART".utf8) else { return [] }
        let place = integer(header, 72, 8)
        let count = min(Int(integer(header, 80, 4)), partitionsMax)
        let entryBytes = Int(integer(header, 84, 4))
        guard count > 0, (128...4_096).contains(entryBytes), entryBytes % 8 == 0,
            range(first: place, sectors: UInt64(count * entryBytes + 511) / sectorBytes, sizeBytes) != nil
        else { return [] }
        let table = try read(place * sectorBytes, (count * entryBytes + 511) / 512 * 512)
        return (0..<count).compactMap { number in
            let at = number * entryBytes
            guard table[at..<at + 16].contains(where: { $0 != 0 }) else { return nil }
            let (first, last) = (integer(table, at + 32, 8), integer(table, at + 40, 8))
            guard last >= first, last < UInt64.max, let range = range(first: first, sectors: last - first + 1, sizeBytes) else { return nil }
            return (number + 1, range)
        }
    }

    private static func range(first: UInt64, sectors: UInt64, _ diskBytes: UInt64) -> Range<UInt64>? {
        let all = diskBytes / sectorBytes
        guard first > 0, first < all, sectors > 0, sectors <= all - first else { return nil }
        return first * sectorBytes..<(first + sectors) * sectorBytes
    }

    private static func integer(_ bytes: [UInt8], _ at: Int, _ count: Int) -> UInt64 {
        (0..<count).reduce(0) { $0 | UInt64(bytes[at + $1]) << (8 * UInt64($1)) }
    }
}
