// Where the clusters of an open qcow2 image lie: the state behind QCOW2Image's lock.
//
// Invariant: an entry reaches the file only after what it names is durable. Until then it stands in `uncommitted`, over
// what the tables in the file say.

import BlockIO
import Glibc

struct QCOW2Clusters: Sendable {
    private static let cacheBytes = 32 << 20

    let header: QCOW2Header
    private(set) var l1: [UInt64]
    /// L2 tables as they are in the file, by L1 index.
    private var tables: [Int: [UInt64]] = [:]
    private var tablesByAge: [Int] = []
    /// The new places of disk clusters, by cluster.
    private(set) var uncommitted: [UInt64: UInt64] = [:]
    /// What they replaced: to be given up once they are committed.
    var replaced: [QCOW2Cluster] = []
    /// New L2 tables that the next commit writes, by L1 index.
    var newTables: [Int: UInt64] = [:]
    /// Where the next cluster goes: behind everything in the file.
    var endOffset: UInt64
    /// Tables that changed clusters hang on, by L1 index, and which of them this opening has made durable. One that is
    /// read from the page cache need not be on the disk: an earlier opening's sync may have failed.
    private(set) var unproven: Set<Int> = []
    private var proven: Set<Int> = []

    init(header: QCOW2Header, l1: [UInt64], endOffset: UInt64) {
        self.header = header
        self.l1 = l1
        self.endOffset = endOffset
    }

    func l1Index(_ cluster: UInt64) -> Int { Int(cluster / header.tableEntries) }

    func tableOffset(_ index: Int) -> UInt64 { QCOW2Cluster.tableOffset(l1Entry: l1[index], header: header) ?? 0 }

    /// What the disk's cluster is now. Nil when its table would have to be read and `file` is nil.
    mutating func cluster(_ cluster: UInt64, _ file: borrowing ChangedFile, mayRead: Bool) throws(SystemError) -> QCOW2Cluster? {
        if let place = uncommitted[cluster] { return .standard(at: place, isOwn: true) }
        let index = l1Index(cluster)
        guard tableOffset(index) != 0 else { return .zeros(reserved: nil) }
        if tables[index] == nil {
            guard mayRead else { return nil }
            try load(index, file)
        }
        let entry = tables[index]?[Int(cluster % header.tableEntries)] ?? 0
        guard let known = QCOW2Cluster(entry: entry, header: header) else {
            throw SystemError(errno: EIO, operation: "use L2 table \(index): an entry was damaged since the image was opened", path: file.descriptor.path)
        }
        return known
    }

    /// The end of the clusters from this one on that have no table, nil where that would have to be looked up.
    func holeEnd(_ cluster: UInt64) -> UInt64? {
        guard uncommitted.isEmpty, tableOffset(l1Index(cluster)) == 0 else { return nil }
        return (cluster / header.tableEntries + 1) * header.tableEntries
    }

    private mutating func load(_ index: Int, _ file: borrowing ChangedFile) throws(SystemError) {
        let bytes = try file.descriptor.read(count: Int(header.clusterBytes), at: tableOffset(index))
        while !tablesByAge.isEmpty, (tables.count + 1) * bytes.count > Self.cacheBytes { tables[tablesByAge.removeFirst()] = nil }
        tables[index] = bytes.withUnsafeBytes { raw in (0..<Int(header.tableEntries)).map { raw.getBE(UInt64.self, at: $0 * 8) } }
        tablesByAge.append(index)
    }

    /// The cluster is about to be changed.
    mutating func noteChange(_ cluster: UInt64) {
        let index = l1Index(cluster)
        if tableOffset(index) != 0, !proven.contains(index) { unproven.insert(index) }
    }

    mutating func noteProven(_ indexes: Set<Int>) {
        proven.formUnion(indexes)
        unproven.subtract(indexes)
    }

    mutating func setUncommitted(_ cluster: UInt64, at place: UInt64) { uncommitted[cluster] = place }

    /// The commit of `clusters` is durable.
    mutating func noteCommitted(_ clusters: [(cluster: UInt64, place: UInt64)], newTables written: [Int: UInt64]) {
        for (index, place) in written {
            l1[index] = place | QCOW2Cluster.ownBit
            newTables[index] = nil
            proven.insert(index)
        }
        for (cluster, place) in clusters {
            uncommitted[cluster] = nil
            tables[l1Index(cluster)]?[Int(cluster % header.tableEntries)] = place | QCOW2Cluster.ownBit
        }
    }
}
