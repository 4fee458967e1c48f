// Refcounts of new and of replaced clusters: docs/formats/qcow2.md, section "Writing". New clusters lie behind each other at
// the end of the file, so their counts are a run of ones. Behind QCOW2Image's flush lock.

import BlockIO

struct QCOW2Refcounts: Sendable {
    private let clusterBytes: UInt64
    private let order: UInt64
    private let countsOfBlock: UInt64
    private let tableClustersMax: UInt64
    /// The refcount table as it is in the file.
    private var table: [UInt64]
    private var tableOffset: UInt64
    /// Clusters before this one are counted.
    private var counted: UInt64
    /// Refcount blocks that the next commit writes, by their index in the table.
    private var newBlocks: [Int: UInt64] = [:]
    /// A larger table that the next commit writes.
    private var newTable: (offset: UInt64, entries: Int)?

    init(header: QCOW2Header, table: [UInt64], endOffset: UInt64) {
        clusterBytes = header.clusterBytes
        order = UInt64(header.refcountOrder)
        countsOfBlock = header.countsOfBlock
        tableClustersMax = header.refcountTableClustersMax
        self.table = table
        tableOffset = header.refcountTableOffset
        counted = endOffset / header.clusterBytes
    }

    /// Finds places for all that is missing to count every cluster before `end`, which moves when `place` is called with
    /// the number of clusters wanted. Returns the end that is covered.
    mutating func prepare(end: () -> UInt64, place: (UInt64) throws(SystemError) -> UInt64) throws(SystemError) -> UInt64 {
        while true {
            let covered = end()
            let last = Int((covered / clusterBytes - 1) / countsOfBlock)
            if last >= max(table.count, newTable?.entries ?? 0) {
                let needed = UInt64(last + 2) * 8 / clusterBytes + 1
                // It counts itself too. The largest counts all that `QCOW2Header.fileClustersMax` lets into the file.
                let counting = needed + needed * 8 / (countsOfBlock * clusterBytes) + 2
                let clusters = min(max(UInt64(table.count) * 8 / clusterBytes * 2, counting), tableClustersMax)
                newTable = (try place(clusters), Int(clusters * clusterBytes / 8))
            } else if let missing = stride(from: Int(counted / countsOfBlock), through: last, by: 1).first(where: { block($0) == nil }) {
                newBlocks[missing] = try place(1)
            } else {
                return covered
            }
        }
    }

    private func block(_ index: Int) -> UInt64? {
        if index < table.count, table[index] != 0 { return table[index] }
        return newBlocks[index]
    }

    /// All that earlier openings wrote, once more: see `QCOW2Clusters.unproven`.
    func rewrite(_ file: borrowing ChangedFile) throws(SystemError) {
        for block in table where block != 0 { try file.rewrite(at: block, length: clusterBytes) }
        try file.rewrite(at: tableOffset, length: UInt64(table.count) * 8)
    }

    /// Step 1: a count of one for every cluster before `end`, and the larger table.
    func write(end: UInt64, _ file: borrowing ChangedFile) throws(SystemError) {
        let endCluster = end / clusterBytes
        var cluster = counted
        while cluster < endCluster {
            let index = Int(cluster / countsOfBlock)
            let next = min((UInt64(index) + 1) * countsOfBlock, endCluster)
            guard let place = block(index) else { return }
            // A new block's place is a hole so far.
            let (first, last) = (((cluster % countsOfBlock) << order) / 8, (((next - 1) % countsOfBlock) << order) / 8)
            let bytesCount = Int(last - first) + max(1, (1 << Int(order)) / 8)
            var counts = try file.descriptor.read(count: bytesCount, at: place + first)
            for member in cluster..<next { set(&counts, member % countsOfBlock - ((first * 8) >> order), 1) }
            try file.write(counts, at: place + first)
            cluster = next
        }
        guard let newTable else { return }
        var entries = table + [UInt64](repeating: 0, count: newTable.entries - table.count)
        for (index, place) in newBlocks { entries[index] = place }
        try file.write(Self.encoded(entries), at: newTable.offset)
    }

    /// Step 2. Returns false when there is nothing to make durable.
    func point(_ file: borrowing ChangedFile) throws(SystemError) -> Bool {
        if let newTable {
            var field = [UInt8](repeating: 0, count: 12)
            let clusters = UInt32(UInt64(newTable.entries) * 8 / clusterBytes)
            field.withUnsafeMutableBytes { bytes in
                bytes.putBE(newTable.offset, at: 0)
                bytes.putBE(clusters, at: 8)
            }
            try file.write(field, at: QCOW2Header.refcountTableField)
            return true
        }
        for (index, place) in newBlocks { try file.write(Self.encoded([place]), at: tableOffset + UInt64(index) * 8) }
        return !newBlocks.isEmpty
    }

    /// The commit is durable. Returns what it left behind: the smaller table.
    mutating func noteCommitted(end: UInt64) -> Range<UInt64>? {
        var left: Range<UInt64>?
        if let newTable {
            left = tableOffset..<tableOffset + UInt64(table.count) * 8
            table += [UInt64](repeating: 0, count: newTable.entries - table.count)
            tableOffset = newTable.offset
        }
        for (index, place) in newBlocks { table[index] = place }
        newBlocks = [:]
        newTable = nil
        counted = end / clusterBytes
        return left
    }

    /// Step 4: one reference less to each cluster that the range touches.
    func release(_ range: Range<UInt64>, _ file: borrowing ChangedFile) throws(SystemError) {
        for cluster in range.lowerBound / clusterBytes...(range.upperBound - 1) / clusterBytes {
            let index = Int(cluster / countsOfBlock)
            guard index < table.count, table[index] != 0 else { continue }
            let number = cluster % countsOfBlock
            let width = max(1, (1 << order) / 8)
            let place = table[index] + (number << order) / 8
            var bytes = try file.descriptor.read(count: Int(width), at: place)
            let inBytes = order < 3 ? number % (8 >> order) : 0
            let count = get(bytes, inBytes)
            guard count > 0 else { continue }
            set(&bytes, inBytes, count - 1)
            try file.write(bytes, at: place)
        }
    }

    /// The largest count of less than a byte.
    private var largest: UInt64 { (1 << (1 << order)) - 1 }

    private func set(_ counts: inout [UInt8], _ number: UInt64, _ value: UInt64) {
        if order < 3 {
            let (byte, shift) = (Int((number << order) / 8), (number << order) % 8)
            let mask = UInt8(largest << shift)
            counts[byte] = (counts[byte] & ~mask) | UInt8((value & largest) << shift)
        } else {
            let width = (1 << Int(order)) / 8
            for place in 0..<width { counts[Int(number) * width + place] = UInt8(truncatingIfNeeded: value >> UInt64(8 * (width - 1 - place))) }
        }
    }

    private func get(_ counts: [UInt8], _ number: UInt64) -> UInt64 {
        if order < 3 { return (UInt64(counts[Int((number << order) / 8)]) >> ((number << order) % 8)) & largest }
        let width = (1 << Int(order)) / 8
        return counts[(Int(number) * width)..<(Int(number) * width + width)].reduce(0) { $0 << 8 | UInt64($1) }
    }

    static func encoded(_ entries: [UInt64]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: entries.count * 8)
        bytes.withUnsafeMutableBytes { raw in
            for (index, entry) in entries.enumerated() { raw.putBE(entry, at: index * 8) }
        }
        return bytes
    }
}
