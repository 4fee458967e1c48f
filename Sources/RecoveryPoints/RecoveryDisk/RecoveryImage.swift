// The image of a recovery disk: a local raw file, and the recovery point for the blocks that are not there yet. What destage writes is
// local; what a guest reads from the vault is kept; Hydration brings the rest. Invariants:
//  - a block becomes present after its data was written to the file, under `placing`; nothing but destage writes a present block;
//  - what comes from the vault is placed only where a block is absent still, under the same lock: it never covers newer data;
//  - a bit is durable only after its block is (docs/formats/recovery-disk.md, "Order of writes").
// A read beside a write of the same block may see either; VirtualDisk repeats it then, as with any image.

package import BlockIO
package import DiskImage
import Glibc
import Synchronization

package final class RecoveryImage: ImageFile {
    private static let blockBytes = UInt64(4096)

    package let base: RecoveryBase
    package let source: RecoverySource
    let presence: PresenceMap
    let local: any ImageFile
    private let placing = Mutex(Placing())
    /// One flush at a time: a sector that one is about to write must not be passed over by the next.
    private let flushing = Mutex<Void>(())
    private let durability = FailStopSync()
    private let isWhole = Atomic<Bool>(false)

    private struct Placing {
        /// Nothing from the vault is placed any more: the disk is being closed.
        var isSealed = false
    }

    /// `local` is the raw image, of the size of the disk now.
    package init(local: any ImageFile, base: RecoveryBase, presence: PresenceMap, source: RecoverySource) {
        self.local = local
        self.base = base
        self.presence = presence
        self.source = source
    }

    package var path: String { local.path }
    package var files: [OpenedFile] { local.files }
    package var sizeBytes: UInt64 { local.sizeBytes }

    /// Bytes of the point's range that the image holds: filled in, or written since.
    package var localBytes: UInt64 { min(UInt64(presence.presentBlocks) * Self.blockBytes, base.sizeBytes) }
    /// The vault is not needed any more.
    package var standsAlone: Bool { isWhole.load(ordering: .acquiring) }

    // MARK: Reading

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: UInt64(buffer.count), sizeBytes: sizeBytes, path: path)
        if standsAlone { return try local.read(into: buffer, at: offset) }
        var reached = offset
        try presence.forEachRun(blocks(offset, UInt64(buffer.count))) { (run, isPresent) throws(SystemError) in
            let end = min(UInt64(run.upperBound) * Self.blockBytes, offset + UInt64(buffer.count))
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[Int(reached - offset)..<Int(end - offset)])
            if isPresent {
                try local.read(into: part, at: reached)
            } else {
                // The last block of the point may end before the image's does only where the image did not grow.
                try source.read(into: part, at: reached)
                keep(UnsafeRawBufferPointer(part), at: reached)
            }
            reached = end
        }
        let end = offset + UInt64(buffer.count)
        guard reached < end else { return }
        try local.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[Int(reached - offset)...]), at: reached)
    }

    package func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool {
        let range = blocks(offset, UInt64(buffer.count))
        if standsAlone || range.isEmpty || presence.isPresent(range.lowerBound) && presence.runEnd(from: range.lowerBound, before: range.upperBound) == range.upperBound {
            return local.readIfCached(into: buffer, at: offset)
        }
        source.prefetch(at: offset, count: buffer.count)
        return false
    }

    /// The blocks of the point that a range touches; what the disk grew by since is always local.
    private func blocks(_ offset: UInt64, _ length: UInt64) -> Range<Int> {
        let start = min(offset, base.sizeBytes) / Self.blockBytes
        let end = (min(offset + length, base.sizeBytes) + Self.blockBytes - 1) / Self.blockBytes
        return length == 0 || offset >= base.sizeBytes ? 0..<0 : Int(start)..<Int(end)
    }

    /// The same, without those that are touched in part.
    private func wholeBlocks(_ offset: UInt64, _ length: UInt64) -> Range<Int> {
        let end = min(offset + length, base.sizeBytes)
        let first = (min(offset, base.sizeBytes) + Self.blockBytes - 1) / Self.blockBytes
        let last = end == base.sizeBytes ? (end + Self.blockBytes - 1) / Self.blockBytes : end / Self.blockBytes
        return first < last ? Int(first)..<Int(last) : 0..<0
    }

    // MARK: From the vault

    /// What a guest read need not be fetched again; where it cannot be kept, it is.
    private func keep(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) {
        do throws(SystemError) { try place(bytes, at: offset) } catch {
            // The read is right all the same; what stays absent, filling meets again and tells.
        }
    }

    /// Writes those whole blocks of `bytes`, which came from the vault, that are absent still.
    func place(_ bytes: UnsafeRawBufferPointer, at offset: UInt64, evenIfSealed: Bool = false) throws(SystemError) {
        let whole = wholeBlocks(offset, UInt64(bytes.count))
        guard !whole.isEmpty else { return }
        try placing.withLock { (placing) throws(SystemError) in
            guard !placing.isSealed || evenIfSealed else { return }
            try durability.check()
            try presence.forEachRun(whole) { (run, isPresent) throws(SystemError) in
                guard !isPresent else { return }
                let start = UInt64(run.lowerBound) * Self.blockBytes
                let end = min(UInt64(run.upperBound) * Self.blockBytes, offset + UInt64(bytes.count))
                try local.write(UnsafeRawBufferPointer(rebasing: bytes[Int(start - offset)..<Int(end - offset)]), at: start)
                presence.mark(run)
            }
        }
    }

    /// The point has no data in the blocks: what a killed run left in them, if they are absent still, must not show when the image stands alone.
    func clear(_ blocks: Range<Int>) throws(SystemError) {
        let end = UInt64(blocks.upperBound) * Self.blockBytes
        var from = UInt64(blocks.lowerBound) * Self.blockBytes
        while let data = try local.nextData(from: from), data < end {
            let hole = min(try local.nextHole(from: data), end, data + 64 << 20)
            let found = Int(data / Self.blockBytes)..<Int((hole + Self.blockBytes - 1) / Self.blockBytes)
            try placing.withLock { (placing) throws(SystemError) in
                guard !placing.isSealed else { return }
                try durability.check()
                try presence.forEachRun(found) { (run, isPresent) throws(SystemError) in
                    guard !isPresent else { return }
                    let start = UInt64(run.lowerBound) * Self.blockBytes
                    try local.zero(at: start, length: min(UInt64(run.upperBound) * Self.blockBytes, base.sizeBytes) - start)
                }
            }
            from = hole
        }
    }

    /// Makes the blocks at the edges of a range that are touched in part, and absent, present: a write covers only a part of them.
    private func completeEdges(_ offset: UInt64, _ length: UInt64) throws(SystemError) {
        let touched = blocks(offset, length)
        let whole = wholeBlocks(offset, length)
        guard touched != whole, !touched.isEmpty else { return }
        for block in Set([touched.lowerBound, touched.upperBound - 1]) where !whole.contains(block) && !presence.isPresent(block) {
            let start = UInt64(block) * Self.blockBytes
            let edge = AlignedBuffer(count: Int(min(Self.blockBytes, base.sizeBytes - start)))
            try source.read(into: edge.bytes, at: start)
            try place(UnsafeRawBufferPointer(edge.bytes), at: start, evenIfSealed: true)
        }
    }

    // MARK: Writing

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try change(offset, UInt64(buffer.count)) { () throws(SystemError) in try local.write(buffer, at: offset) }
    }

    package func zero(at offset: UInt64, length: UInt64) throws(SystemError) {
        try change(offset, length) { () throws(SystemError) in try local.zero(at: offset, length: length) }
    }

    private func change(_ offset: UInt64, _ length: UInt64, _ body: () throws(SystemError) -> Void) throws(SystemError) {
        try checkRange(at: offset, length: length, sizeBytes: sizeBytes, path: path)
        if standsAlone { return try body() }
        try durability.check()
        try completeEdges(offset, length)
        try placing.withLock { (_) throws(SystemError) in
            try body()
            presence.mark(blocks(offset, length))
        }
    }

    package func flush() throws(SystemError) {
        try flushing.withLock { (_) throws(SystemError) in try flushAll() }
    }

    private func flushAll() throws(SystemError) {
        if standsAlone { return try local.flush() }
        try durability.sync { () throws(SystemError) in
            var left = presence.unsyncedSectors
            let hasBits = left > 0
            repeat {
                // Before the image is synced: bits set meanwhile are of data that may not be.
                let snapshot = presence.takeUnsynced()
                try local.flush()
                try presence.write(snapshot)
                left -= max(1, snapshot.sectors.count)
            } while left > 0
            if hasBits { try presence.sync() }
        }
    }

    package func writeBack(at offset: UInt64, length: UInt64) throws(SystemError) { try local.writeBack(at: offset, length: length) }

    // MARK: Standing alone

    /// Nothing from the vault is placed any more when this returns, and filling flushes nothing and ends nothing: its thread may still wait for an
    /// answer. Before the disk is closed.
    package func seal() {
        source.close()
        flushing.withLock { _ in placing.withLock { $0.isSealed = true } }
    }

    /// For the thread that fills the image, which may be late.
    func flushUnlessSealed() throws(SystemError) {
        try flushing.withLock { (_) throws(SystemError) in
            if !placing.withLock({ $0.isSealed }) { try flushAll() }
        }
    }

    /// Every block that has data in the point is present: makes that durable and removes what ties the image to the vault. False when the disk is
    /// being closed.
    func standAlone(basePath: String, presencePath: String) throws(SystemError) -> Bool {
        try flushing.withLock { (_) throws(SystemError) in
            if placing.withLock({ $0.isSealed }) { return false }
            try flushAll()
            return try placing.withLock { (placing) throws(SystemError) in
                guard !placing.isSealed else { return false }
                try DurableFile.remove(basePath)
                isWhole.store(true, ordering: .releasing)
                try DurableFile.remove(presencePath)
                return true
            }
        }
    }

    // MARK: Data and holes

    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? { try next(data: true, from: offset) }

    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 { try next(data: false, from: offset) ?? sizeBytes }

    private func next(data: Bool, from offset: UInt64) throws(SystemError) -> UInt64? {
        // Asked once for each of its extents: what it says holds from `offset` to there.
        var localFrom: UInt64?
        func nextLocal(_ position: UInt64) throws(SystemError) -> UInt64 {
            if let known = localFrom, known >= position { return known }
            let found = data ? try local.nextData(from: position) ?? sizeBytes : try local.nextHole(from: position)
            localFrom = found
            return found
        }
        var position = offset
        while !standsAlone, position < min(base.sizeBytes, sizeBytes) {
            let block = Int(position / Self.blockBytes)
            let end = min(UInt64(presence.runEnd(from: block, before: presence.blockCount)) * Self.blockBytes, base.sizeBytes)
            if presence.isPresent(block) {
                let found = try nextLocal(position)
                if found < end { return found }
            } else if let found = source.next(data: data, from: position, before: end) {
                return max(found, position)
            }
            position = end
        }
        guard position < sizeBytes else { return nil }
        let found = try nextLocal(position)
        return found < sizeBytes ? found : nil
    }
}
