// A qcow2 image, read and written: docs/formats/qcow2.md, section "Writing". Opened by `openQCOW2`.
//
// What a write cannot put into a cluster of the disk's own goes to a new place behind the end of the file; entries
// follow at the next flush, each after what it names. A crash at any point leaves old or new entries and at worst leaks.
// Opening writes nothing, so that whoever opens the image can still tell whether somebody changed it.

package import BlockIO
import Glibc
import Synchronization

package final class QCOW2Image: MappedImage {
    /// From here on a write commits first: what is not committed stands in memory.
    private static let uncommittedMax = 1 << 16
    /// No look-up holds the lock for a longer run.
    private static let runBytesMax: UInt64 = 1 << 30

    package let path: String
    package let sizeBytes: UInt64
    let file: MappedFile
    private let header: QCOW2Header
    /// Held for look-ups and while clusters are placed, never across a sync.
    private let clusters: Mutex<QCOW2Clusters>
    /// One flush at a time: a second must not return before the first has committed what it took.
    private let flushing: Mutex<QCOW2Refcounts>
    /// The file ends with a whole cluster.
    private let hasBegun = Atomic(false)
    /// Header, L1 table and refcounts were written by this opening: see `QCOW2Clusters.unproven`.
    private let isProven = Atomic(false)
    /// The compressed cluster that was unpacked last: it is mostly read in pieces.
    private let unpacked = Mutex<(place: QCOW2Cluster, bytes: [UInt8])?>(nil)

    init(_ file: MappedFile, header: QCOW2Header, l1: [UInt64], refcountTable: [UInt64], endOffset: UInt64) {
        path = file.changes.descriptor.path
        sizeBytes = header.sizeBytes
        self.file = file
        self.header = header
        clusters = Mutex(QCOW2Clusters(header: header, l1: l1, endOffset: endOffset))
        flushing = Mutex(QCOW2Refcounts(header: header, table: refcountTable, endOffset: endOffset))
    }

    // MARK: - reading

    func run(at offset: UInt64, limit: UInt64) throws(SystemError) -> MappedRun {
        try run(at: offset, limit: limit, mayRead: true) ?? MappedRun(place: .packed, length: 0)
    }

    func knownRun(at offset: UInt64, limit: UInt64) -> MappedRun? {
        do throws(SystemError) { return try run(at: offset, limit: limit, mayRead: false) } catch { return nil }
    }

    private func run(at offset: UInt64, limit: UInt64, mayRead: Bool) throws(SystemError) -> MappedRun? {
        let (limit, offsetInCluster) = (min(limit, Self.runBytesMax), offset % header.clusterBytes)
        return try clusters.withLock { (state) throws(SystemError) in
            var cluster = offset / header.clusterBytes
            guard let first = try state.cluster(cluster, file.changes, mayRead: mayRead) else { return nil }
            let place = place(first, offsetInCluster)
            var length = header.clusterBytes - offsetInCluster
            while place != .packed, length < limit {
                cluster += 1
                if place == .hole, let end = state.holeEnd(cluster), end > cluster {
                    length += (end - cluster) * header.clusterBytes
                    cluster = end - 1
                    continue
                }
                guard let next = try state.cluster(cluster, file.changes, mayRead: mayRead) else { break }
                switch (place, self.place(next, 0)) {
                case (.hole, .hole): break
                case (.stored(let start), .stored(let more)) where more == start + length: break
                default: return MappedRun(place: place, length: min(length, limit))
                }
                length += header.clusterBytes
            }
            return MappedRun(place: place, length: min(length, limit))
        }
    }

    private func place(_ cluster: QCOW2Cluster, _ offsetInCluster: UInt64) -> MappedRun.Place {
        switch cluster {
        case .zeros: .hole
        case .standard(let place, _): .stored(at: place + offsetInCluster)
        case .compressed: .packed
        }
    }

    func readPacked(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        let now = try clusters.withLock { (state) throws(SystemError) in
            try state.cluster(offset / header.clusterBytes, file.changes, mayRead: true)
        }
        // Somebody has written to another part of the cluster meanwhile: it has a place of its own now.
        guard let now, case .compressed = now else { return try read(into: buffer, at: offset) }
        let bytes = try content(of: now)
        let start = Int(offset % header.clusterBytes)
        bytes.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<start + buffer.count])) }
    }

    /// All bytes of a cluster that has no place of its own.
    private func content(of cluster: QCOW2Cluster) throws(SystemError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(header.clusterBytes))
        switch cluster {
        case .zeros: break
        case .standard(let place, _): bytes = try file.changes.descriptor.read(count: bytes.count, at: place)
        case .compressed(let place, let count):
            if let known = unpacked.withLock({ $0?.place == cluster ? $0?.bytes : nil }) { return known }
            let packed = try readUpTo(count, at: place)
            guard bytes.withUnsafeMutableBytes({ unpack(packed, header.compression, into: $0) }) else {
                throw SystemError(errno: EIO, operation: "unpack the compressed cluster at \(place): it is damaged", path: path)
            }
            let whole = bytes
            unpacked.withLock { $0 = (cluster, whole) }
        }
        return bytes
    }

    /// The last sector of compressed data may be cut by the end of the file.
    private func readUpTo(_ count: Int, at offset: UInt64) throws(SystemError) -> [UInt8] {
        let buffer = AlignedBuffer(count: count)
        let there = try file.changes.descriptor.readUpTo(buffer.bytes, at: offset)
        return Array(UnsafeRawBufferPointer(rebasing: buffer.bytes[..<there]))
    }

    // MARK: - writing

    func makeWritable(at offset: UInt64, length: UInt64) throws(SystemError) -> [WritableRun] {
        if clusters.withLock({ $0.uncommitted.count }) >= Self.uncommittedMax { try flush() }
        return try clusters.withLock { (state) throws(SystemError) in
            var runs: [WritableRun] = []
            var done: UInt64 = 0
            if !hasBegun.load(ordering: .relaxed) {
                try file.changes.truncate(to: state.endOffset)
                file.noteComplete()
                hasBegun.store(true, ordering: .relaxed)
            }
            try place(offset, length, &state)
            while done < length {
                let position = offset + done
                let offsetInCluster = position % header.clusterBytes
                let count = min(header.clusterBytes - offsetInCluster, length - done)
                guard case .standard(let place, true)? = try state.cluster(position / header.clusterBytes, file.changes, mayRead: true) else {
                    throw SystemError(errno: EIO, operation: "find the place of the disk's byte \(position)", path: path)
                }
                append(place + offsetInCluster, count, to: &runs)
                done += count
            }
            return runs
        }
    }

    /// Gives a new place to each cluster of the range that has none of its own. The file is extended first: when that fails
    /// nothing has changed.
    private func place(_ offset: UInt64, _ length: UInt64, _ state: inout QCOW2Clusters) throws(SystemError) {
        let clusterBytes = header.clusterBytes
        var missing: [(cluster: UInt64, now: QCOW2Cluster)] = []
        for cluster in offset / clusterBytes...(offset + length - 1) / clusterBytes {
            state.noteChange(cluster)
            guard let now = try state.cluster(cluster, file.changes, mayRead: true) else { continue }
            if case .standard(_, true) = now { continue }
            missing.append((cluster, now))
        }
        guard !missing.isEmpty else { return }
        try requireRoom(state.endOffset, missing.count, below: header.dataClustersMax)
        try file.changes.truncate(to: state.endOffset + UInt64(missing.count) * clusterBytes)
        for (cluster, now) in missing {
            let isCovered = offset <= cluster * clusterBytes && (cluster + 1) * clusterBytes <= offset + length
            let newPlace = state.endOffset
            // Before the write: what a failed one left there must not be taken for a hole.
            state.endOffset += clusterBytes
            if !isCovered, place(now, 0) != .hole { try file.changes.write(try content(of: now), at: newPlace) }
            state.setUncommitted(cluster, at: newPlace)
            if now != .zeros(reserved: nil) { state.replaced.append(now) }
        }
    }

    package func flush() throws(SystemError) {
        try flushing.withLock { (refcounts) throws(SystemError) in
            let committing = try clusters.withLock { (state) throws(SystemError) in try takeCommit(&state) }
            guard !committing.clusters.isEmpty || !committing.unproven.isEmpty else { return try file.changes.sync() }
            let smaller: Range<UInt64>?
            do throws(SystemError) {
                smaller = try commit(committing, &refcounts)
            } catch {
                clusters.withLock { $0.replaced += committing.replaced }
                throw error
            }
            // Each once: what cannot be given back stays a leak.
            for range in committing.replaced.compactMap({ $0.fileRange(header) }) + (smaller.map { [$0] } ?? []) {
                try refcounts.release(range, file.changes)
            }
        }
    }

    private struct Commit {
        /// In rising order.
        let clusters: [(cluster: UInt64, place: UInt64)]
        let newTables: [Int: UInt64]
        let replaced: [QCOW2Cluster]
        let unproven: Set<Int>
    }

    private func takeCommit(_ state: inout QCOW2Clusters) throws(SystemError) -> Commit {
        let taken = state.uncommitted.sorted { $0.key < $1.key }.map { (cluster: $0.key, place: $0.value) }
        for (cluster, _) in taken {
            let index = state.l1Index(cluster)
            guard state.tableOffset(index) == 0, state.newTables[index] == nil else { continue }
            state.newTables[index] = try extend(&state, clusters: 1)
        }
        defer { state.replaced = [] }
        return Commit(clusters: taken, newTables: state.newTables, replaced: state.replaced, unproven: state.unproven)
    }

    /// A larger file would be refused when it is opened again.
    private func requireRoom(_ end: UInt64, _ clusters: Int, below most: UInt64) throws(SystemError) {
        guard end / header.clusterBytes + UInt64(clusters) <= most else {
            throw SystemError(
                errno: EFBIG, operation: "place \(clusters) clusters: a qcow2 file with clusters of \(header.clusterBytes) bytes may have \(most)", path: path)
        }
    }

    private func extend(_ state: inout QCOW2Clusters, clusters count: UInt64) throws(SystemError) -> UInt64 {
        let place = state.endOffset
        try requireRoom(place, Int(count), below: header.fileClustersMax)
        try file.changes.truncate(to: place + count * header.clusterBytes)
        state.endOffset = place + count * header.clusterBytes
        return place
    }

    /// What the commit's entries hang on, written over itself.
    private func rewrite(_ commit: Commit, _ refcounts: borrowing QCOW2Refcounts) throws(SystemError) {
        if !isProven.load(ordering: .relaxed) {
            try refcounts.rewrite(file.changes)
            try file.changes.rewrite(at: header.l1Offset, length: UInt64(header.l1Entries) * 8)
            try file.changes.rewrite(at: 0, length: 512)
        }
        for index in commit.unproven.sorted() {
            try file.changes.rewrite(at: clusters.withLock { $0.tableOffset(index) }, length: header.clusterBytes)
        }
    }

    /// Steps 1 to 3. Returns the refcount table that a larger one has replaced.
    private func commit(_ commit: Commit, _ refcounts: inout QCOW2Refcounts) throws(SystemError) -> Range<UInt64>? {
        // Not what others place from here on: the next commit counts it.
        let end = try refcounts.prepare(end: { clusters.withLock { $0.endOffset } }, place: { (count) throws(SystemError) in
            try clusters.withLock { (state) throws(SystemError) in try extend(&state, clusters: count) }
        })
        try rewrite(commit, refcounts)
        try refcounts.write(end: end, file.changes)
        try writeEntries(commit, ofNewTables: true)
        try file.changes.sync()
        if try refcounts.point(file.changes) { try file.changes.sync() }
        let smaller = refcounts.noteCommitted(end: end)
        try writeEntries(commit, ofNewTables: false)
        try file.changes.sync()
        isProven.store(true, ordering: .relaxed)
        clusters.withLock { state in
            state.noteCommitted(commit.clusters, newTables: commit.newTables)
            state.noteProven(commit.unproven)
        }
        return smaller
    }

    /// A new table's place is a hole so far: entries that are not written read as not allocated.
    private func writeEntries(_ commit: Commit, ofNewTables: Bool) throws(SystemError) {
        var run: [UInt64] = []
        var runPlace: UInt64 = 0
        for (cluster, place) in commit.clusters {
            let index = Int(cluster / header.tableEntries)
            guard (commit.newTables[index] != nil) == ofNewTables else { continue }
            let table = commit.newTables[index] ?? clusters.withLock { $0.tableOffset(index) }
            let entryPlace = table + cluster % header.tableEntries * 8
            if entryPlace != runPlace + UInt64(run.count) * 8 {
                if !run.isEmpty { try file.changes.write(QCOW2Refcounts.encoded(run), at: runPlace) }
                (run, runPlace) = ([], entryPlace)
            }
            run.append(place | QCOW2Cluster.ownBit)
        }
        if !run.isEmpty { try file.changes.write(QCOW2Refcounts.encoded(run), at: runPlace) }
        guard !ofNewTables else { return }
        for (index, place) in commit.newTables {
            try file.changes.write(QCOW2Refcounts.encoded([place | QCOW2Cluster.ownBit]), at: header.l1Offset + UInt64(index) * 8)
        }
    }
}
