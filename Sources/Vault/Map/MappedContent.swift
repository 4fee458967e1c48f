// What a map's state holds, to compare a disk with: a chunk that is there as a whole is compared by its name, which is a keyed
// hash of the content; ranges of other objects are fetched. Used by a resynchronisation, from several threads.

import Synchronization

package final class MappedContent: Sendable {
    /// Frame tables kept.
    private static let objectsMax = 1_024
    /// Frames of one request.
    private static let framesMax = 32
    private static let blockBytes = UInt64(FormatLimits.blockBytes)

    /// A part of what is compared: from one place of an object.
    private struct Piece {
        let offset: Int
        let count: Int
        let sourceOffset: Int
    }

    private let vault: Vault
    private let disk: VaultID
    private let root: MapRoot
    private let sizeBytes: UInt64
    private let maps: MapReader
    /// A chunk that a map names may be gone all the same: the target was rolled back.
    private let isThere: @Sendable (ChunkRef) throws -> Bool
    private let objects = Mutex<[MapSource: SealedObject]>([:])

    package init(vault: Vault, disk: VaultID, root: MapRoot, sizeBytes: UInt64, isThere: @escaping @Sendable (ChunkRef) throws -> Bool) {
        self.isThere = isThere
        self.vault = vault
        self.disk = disk
        self.root = root
        self.sizeBytes = sizeBytes
        maps = MapReader(vault: vault)
    }

    /// The first byte from `offset` on that an object holds.
    package func nextData(from offset: UInt64) throws(VaultError) -> UInt64? {
        let end = MapGeometry.blockCount(sizeBytes: sizeBytes)
        var block = offset / Self.blockBytes
        while block < end {
            let extent = try maps.extent(root, at: block, before: end)
            if extent.source != nil { return max(offset, block * Self.blockBytes) }
            block = extent.startBlock + extent.blockCount
        }
        return nil
    }

    /// Whether the state has `bytes` at `offset`, the beginning of a chunk. What is damaged or missing does not have them.
    package func holds(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws -> Bool {
        let extents = try extents(at: offset, count: bytes.count)
        if extents.count == 1, case .chunk(let chunk) = extents[0].source, extents[0].sourceBlock == 0 { return try vault.keys.contentID(bytes) == chunk.id && isThere(chunk) }
        var pieces: [MapSource: [Piece]] = [:]
        var position = 0
        for extent in extents {
            let count = min(Int(extent.blockCount * Self.blockBytes), bytes.count - position)
            if let source = extent.source {
                pieces[source, default: []].append(Piece(offset: position, count: count, sourceOffset: Int(UInt64(extent.sourceBlock) * Self.blockBytes)))
            } else if bytes[position..<position + count].contains(where: { $0 != 0 }) {
                return false
            }
            position += count
        }
        do throws(VaultError) {
            for (source, parts) in pieces where try !holds(bytes, source, parts.sorted { $0.sourceOffset < $1.sourceOffset }) { return false }
        } catch {
            guard error.isIntegrityDamage else { throw error }
            return false
        }
        return true
    }

    private func extents(at offset: UInt64, count: Int) throws(VaultError) -> [MapExtent] {
        let end = (offset + UInt64(count) + Self.blockBytes - 1) / Self.blockBytes
        var extents: [MapExtent] = []
        var block = offset / Self.blockBytes
        while block < end {
            let extent = try maps.extent(root, at: block, before: end)
            extents.append(extent)
            block = extent.startBlock + extent.blockCount
        }
        return extents
    }

    /// `pieces` by their place in the source; neighbours are one request.
    private func holds(_ bytes: UnsafeRawBufferPointer, _ source: MapSource, _ pieces: [Piece]) throws(VaultError) -> Bool {
        let object = try object(source)
        let frameBytes = object.header.frameBytes
        var first = 0
        while first < pieces.count {
            var (end, frames) = (first, pieces[first].sourceOffset / frameBytes..<pieces[first].sourceOffset / frameBytes)
            while end < pieces.count {
                let last = (pieces[end].sourceOffset + pieces[end].count - 1) / frameBytes + 1
                guard end == first || pieces[end].sourceOffset / frameBytes <= frames.upperBound && last - frames.lowerBound <= Self.framesMax else { break }
                frames = frames.lowerBound..<max(frames.upperBound, last)
                end += 1
            }
            guard frames.upperBound <= object.header.frameCount else { throw .damaged(object: object.place.key, reason: "it ends before what a map names of it") }
            let plain = try vault.frames(frames, of: object).flatMap { $0 }
            let start = frames.lowerBound * frameBytes
            for piece in pieces[first..<end] {
                let from = piece.sourceOffset - start
                // The last block of a chunk or payload may be shorter than a block, at the end of a disk only.
                guard from + piece.count <= plain.count, bytes[piece.offset..<piece.offset + piece.count].elementsEqual(plain[from..<from + piece.count]) else { return false }
            }
            first = end
        }
        return true
    }

    private func object(_ source: MapSource) throws(VaultError) -> SealedObject {
        if let known = objects.withLock({ $0[source] }) { return known }
        let place: ObjectPlace =
            switch source {
            case .chunk(let chunk): .chunk(chunk)
            case .segment(let segment): .segment(disk: disk, lineage: segment.lineage, first: segment.first, last: segment.last)
            }
        let object = try vault.sealedObject(place).object
        objects.withLock { objects in
            if objects.count >= Self.objectsMax { objects = [:] }
            objects[source] = object
        }
        return object
    }
}
