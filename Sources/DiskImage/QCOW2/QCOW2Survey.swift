// The walk over every table at opening: docs/formats/qcow2.md, section "Clusters". A bit for each cluster of the file tells
// whether something lies there already, so that no two structures are believed to hold the same bytes.

import BlockIO

struct QCOW2Survey: ~Copyable {
    private let header: QCOW2Header
    private let path: String
    private let fileBytes: UInt64
    private var taken: [UInt64]
    /// Clusters with compressed data, which several disk clusters share; none until the first.
    private var packed: [UInt64] = []
    private(set) var allocatedClusters: UInt64 = 0
    private(set) var compressedClusters: UInt64 = 0

    init(_ header: QCOW2Header, fileBytes: UInt64, path: String) throws(ImageError) {
        self.header = header
        self.path = path
        self.fileBytes = fileBytes
        let clusters = (fileBytes + header.clusterBytes - 1) / header.clusterBytes
        guard clusters <= header.fileClustersMax else {
            throw .unsupported(path: path, what: "a file of \(clusters) clusters of \(header.clusterBytes) bytes: at most \(header.fileClustersMax) are served",
                remedy: "qemu-img convert -O qcow2 -o cluster_size=2M \(path) LARGER.qcow2")
        }
        taken = [UInt64](repeating: 0, count: Int((clusters + 63) / 64))
    }

    /// Checks all that `l1` and `refcounts`, the tables' entries, lead to.
    mutating func walk(_ container: borrowing ContainerFile, l1: [UInt64], refcounts: [UInt64]) throws(ImageError) {
        try take(0..<header.clusterBytes, "header", at: 0, entry: nil)
        try take(header.l1Offset..<header.l1Offset + UInt64(header.l1Entries) * 8, "L1 table offset", at: 40, entry: nil)
        let refcountBytes = UInt64(header.refcountTableClusters) * header.clusterBytes
        try take(header.refcountTableOffset..<header.refcountTableOffset + refcountBytes, "refcount table offset", at: 48, entry: nil)
        for (index, entry) in refcounts.enumerated() where entry != 0 {
            let (name, place) = ("refcount table, entry \(index)", header.refcountTableOffset + UInt64(index) * 8)
            guard entry % header.clusterBytes == 0, entry >> 56 == 0 else { throw malformed(name, place, entry) }
            try takeWhole(entry, name, at: place)
        }
        for (index, entry) in l1.enumerated() where entry != 0 {
            let (name, place) = ("L1 table, entry \(index)", header.l1Offset + UInt64(index) * 8)
            guard let table = QCOW2Cluster.tableOffset(l1Entry: entry, header: header) else { throw malformed(name, place, entry) }
            guard table != 0 else { continue }
            try takeWhole(table, name, at: place)
            var rest = table..<table + header.clusterBytes
            while let part = try container.nextData(in: rest) {
                try walkEntries(try container.read(count: part.count, at: part.lowerBound), at: part.lowerBound, ofTable: index, at: table)
                rest = part.upperBound..<rest.upperBound
            }
        }
    }

    private mutating func walkEntries(_ bytes: [UInt8], at start: UInt64, ofTable index: Int, at table: UInt64) throws(ImageError) {
        for offset in stride(from: 0, to: bytes.count, by: 8) {
            let entry = bytes.withUnsafeBytes { $0.getBE(UInt64.self, at: offset) }
            guard entry != 0 else { continue }
            let place = start + UInt64(offset)
            let name = "L2 table \(index), entry \((place - table) / 8)"
            guard let cluster = QCOW2Cluster(entry: entry, header: header) else { throw malformed(name, place, entry) }
            if case .compressed(let offset, let count) = cluster {
                try takePacked(offset..<offset + UInt64(count), name, at: place, entry)
                compressedClusters += 1
            } else if let range = cluster.fileRange(header) {
                try take(range, name, at: place, entry: entry)
                allocatedClusters += 1
            }
        }
    }

    /// A table of one cluster, which must be all there.
    private mutating func takeWhole(_ offset: UInt64, _ name: String, at place: UInt64) throws(ImageError) {
        guard offset <= fileBytes, fileBytes - offset >= header.clusterBytes else { throw outside(name, place, hex(offset)) }
        try take(offset..<offset + header.clusterBytes, name, at: place, entry: offset)
    }

    private mutating func take(_ range: Range<UInt64>, _ name: String, at place: UInt64, entry: UInt64?) throws(ImageError) {
        guard range.lowerBound < fileBytes else { throw outside(name, place, hex(entry ?? range.lowerBound)) }
        for cluster in range.lowerBound / header.clusterBytes...(range.upperBound - 1) / header.clusterBytes {
            guard !Self.has(taken, cluster) else { throw overlap(name, place, entry ?? range.lowerBound, cluster) }
            taken[Int(cluster / 64)] |= 1 << (cluster % 64)
        }
    }

    private mutating func takePacked(_ range: Range<UInt64>, _ name: String, at place: UInt64, _ entry: UInt64) throws(ImageError) {
        // The last sector of the file may be cut; what follows the compressed stream is not needed.
        guard range.lowerBound < fileBytes, range.upperBound <= fileBytes.roundedUp(to: header.clusterBytes) else { throw outside(name, place, hex(entry)) }
        if packed.isEmpty { packed = [UInt64](repeating: 0, count: taken.count) }
        for cluster in range.lowerBound / header.clusterBytes...(range.upperBound - 1) / header.clusterBytes {
            guard !Self.has(taken, cluster) || Self.has(packed, cluster) else { throw overlap(name, place, entry, cluster) }
            taken[Int(cluster / 64)] |= 1 << (cluster % 64)
            packed[Int(cluster / 64)] |= 1 << (cluster % 64)
        }
    }

    private static func has(_ bits: [UInt64], _ cluster: UInt64) -> Bool { bits[Int(cluster / 64)] & (1 << (cluster % 64)) != 0 }

    private func malformed(_ name: String, _ place: UInt64, _ entry: UInt64) -> ImageError {
        damage(name, place, hex(entry), expected: "a multiple of \(header.clusterBytes) and no reserved bits", meaning: "the entry is damaged")
    }

    private func outside(_ name: String, _ place: UInt64, _ found: String) -> ImageError {
        damage(name, place, found, expected: "a place within the file's \(fileBytes) bytes", meaning: "it names bytes outside of the file: it was cut")
    }

    private func overlap(_ name: String, _ place: UInt64, _ entry: UInt64, _ cluster: UInt64) -> ImageError {
        damage(name, place, hex(entry), expected: "no overlap with what else lies at \(cluster * header.clusterBytes)", meaning: "two structures claim the same bytes")
    }

    private func damage(_ name: String, _ place: UInt64, _ found: String, expected: String, meaning: String) -> ImageError {
        .damaged(ImageDamage(path: path, field: name, offset: place, found: found, expected: expected, meaning: meaning))
    }
}
