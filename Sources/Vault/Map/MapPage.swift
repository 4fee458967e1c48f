// Pages of the block map, field by field (docs/formats/vault.md section 6). Decoding checks everything that a reader
// relies on, so that code behind it can index without doubt.

import BlockIO

/// What holds a block.
package enum MapSource: Hashable, Sendable {
    case chunk(ChunkRef)
    case segment(SegmentID)
}

package struct MapRun: Equatable, Sendable {
    package let start: UInt16
    package let count: UInt16
    /// Index into the leaf's sources.
    package let source: UInt16
    /// Block of the source's plaintext.
    package let sourceBlock: UInt32
}

package struct MapLeaf: Equatable, Sendable {
    package let firstBlock: UInt64
    package let epoch: UInt32
    package let sources: [MapSource]
    package let runs: [MapRun]
}

package struct MapInner: Equatable, Sendable {
    package let level: Int
    package let firstBlock: UInt64
    package let epoch: UInt32
    /// 256 entries; nil reads as zeros.
    package let children: [Hash256?]
}

package enum MapPage: Equatable, Sendable {
    case leaf(MapLeaf)
    case inner(MapInner)

    static let headerBytes = 32
    private static let magic = Array("FMAP".utf8)
    private static let sourceBytes = 40
    private static let runBytes = 12
    private static let bitmapBytes = 32

    // MARK: Writing

    func encoded() -> [UInt8] {
        switch self {
        case .leaf(let leaf): Self.encode(leaf)
        case .inner(let inner): Self.encode(inner)
        }
    }

    private static func encode(_ leaf: MapLeaf) -> [UInt8] {
        var page = [UInt8](repeating: 0, count: headerBytes + sourceBytes * leaf.sources.count + runBytes * leaf.runs.count)
        page.withUnsafeMutableBytes { bytes in
            putHeader(bytes, level: 0, firstBlock: leaf.firstBlock, epoch: leaf.epoch, first: leaf.sources.count, second: leaf.runs.count)
            var offset = headerBytes
            for source in leaf.sources {
                put(source, bytes, at: offset)
                offset += sourceBytes
            }
            for run in leaf.runs {
                bytes.putLE(run.start, at: offset)
                bytes.putLE(run.count, at: offset + 2)
                bytes.putLE(run.source, at: offset + 4)
                bytes.putLE(run.sourceBlock, at: offset + 8)
                offset += runBytes
            }
        }
        return page
    }

    private static func put(_ source: MapSource, _ bytes: UnsafeMutableRawBufferPointer, at offset: Int) {
        func copy(_ value: [UInt8], at place: Int) { UnsafeMutableRawBufferPointer(rebasing: bytes[place..<place + value.count]).copyBytes(from: value) }
        switch source {
        case .chunk(let chunk):
            bytes.putLE(UInt8(1), at: offset)
            bytes.putLE(chunk.epoch, at: offset + 4)
            copy(chunk.id.bytes, at: offset + 8)
        case .segment(let segment):
            bytes.putLE(UInt8(2), at: offset)
            copy(segment.lineage.bytes, at: offset + 8)
            bytes.putLE(segment.first, at: offset + 24)
            bytes.putLE(segment.last, at: offset + 32)
        }
    }

    private static func encode(_ inner: MapInner) -> [UInt8] {
        let present = inner.children.indices.filter { inner.children[$0] != nil }
        var page = [UInt8](repeating: 0, count: headerBytes + bitmapBytes)
        page.withUnsafeMutableBytes { bytes in
            putHeader(bytes, level: inner.level, firstBlock: inner.firstBlock, epoch: inner.epoch, first: present.count, second: 0)
            for child in present { bytes[headerBytes + child / 8] |= 1 << UInt8(child % 8) }
        }
        return page + present.flatMap { inner.children[$0]!.bytes }
    }

    private static func putHeader(_ bytes: UnsafeMutableRawBufferPointer, level: Int, firstBlock: UInt64, epoch: UInt32, first: Int, second: Int) {
        bytes.copyBytes(from: magic)
        bytes.putLE(UInt8(level), at: 4)
        bytes.putLE(firstBlock, at: 8)
        bytes.putLE(epoch, at: 16)
        bytes.putLE(UInt32(first), at: 20)
        bytes.putLE(UInt32(second), at: 24)
    }

    // MARK: Reading

    /// The page of `level` that covers from `firstBlock`; nil when the bytes are anything else.
    package init?(_ page: [UInt8], level: Int, firstBlock: UInt64) {
        guard page.count >= Self.headerBytes else { return nil }
        let decoded: MapPage? = page.withUnsafeBytes { bytes in
            guard bytes[..<4].elementsEqual(Self.magic), Int(bytes[4]) == level, bytes[5..<8].allSatisfy({ $0 == 0 }),
                bytes.getLE(UInt64.self, at: 8) == firstBlock, bytes.getLE(UInt32.self, at: 28) == 0
            else { return nil }
            let first = Int(bytes.getLE(UInt32.self, at: 20))
            let second = Int(bytes.getLE(UInt32.self, at: 24))
            return level == 0 ? Self.leaf(bytes, firstBlock, sources: first, runs: second) : Self.inner(bytes, level, firstBlock, children: first, second)
        }
        guard let decoded else { return nil }
        self = decoded
    }

    private static func leaf(_ bytes: UnsafeRawBufferPointer, _ firstBlock: UInt64, sources: Int, runs: Int) -> MapPage? {
        let blocks = Int(FormatLimits.leafBlocks)
        guard (1...blocks).contains(sources), (1...blocks).contains(runs), bytes.count == headerBytes + sourceBytes * sources + runBytes * runs else { return nil }
        var list: [MapSource] = []
        for index in 0..<sources {
            guard let source = source(bytes, at: headerBytes + sourceBytes * index) else { return nil }
            list.append(source)
        }
        var found: [MapRun] = []
        var end = 0
        var used = [Bool](repeating: false, count: sources)
        for index in 0..<runs {
            let offset = headerBytes + sourceBytes * sources + runBytes * index
            let run = MapRun(
                start: bytes.getLE(UInt16.self, at: offset), count: bytes.getLE(UInt16.self, at: offset + 2), source: bytes.getLE(UInt16.self, at: offset + 4),
                sourceBlock: bytes.getLE(UInt32.self, at: offset + 8))
            guard run.count > 0, Int(run.start) >= end, Int(run.start) + Int(run.count) <= blocks, Int(run.source) < sources,
                bytes.getLE(UInt16.self, at: offset + 6) == 0, fits(run, list[Int(run.source)])
            else { return nil }
            end = Int(run.start) + Int(run.count)
            used[Int(run.source)] = true
            found.append(run)
        }
        guard used.allSatisfy({ $0 }), Set(list).count == list.count else { return nil }
        return .leaf(MapLeaf(firstBlock: firstBlock, epoch: bytes.getLE(UInt32.self, at: 16), sources: list, runs: found))
    }

    /// A run cannot reach beyond what its kind of source can hold.
    private static func fits(_ run: MapRun, _ source: MapSource) -> Bool {
        let limit = switch source {
        case .chunk: FormatLimits.chunkBytes
        case .segment: FormatLimits.segmentPlaintextBytesMax
        }
        return Int(run.sourceBlock) + Int(run.count) <= limit / FormatLimits.blockBytes
    }

    private static func source(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> MapSource? {
        guard bytes[offset + 1..<offset + 4].allSatisfy({ $0 == 0 }) else { return nil }
        let word = bytes.getLE(UInt32.self, at: offset + 4)
        switch bytes[offset] {
        case 1:
            return Hash256(bytes: Array(bytes[offset + 8..<offset + 40])).map { .chunk(ChunkRef(id: $0, epoch: word)) }
        case 2:
            let first = bytes.getLE(UInt64.self, at: offset + 24)
            let last = bytes.getLE(UInt64.self, at: offset + 32)
            guard word == 0, first <= last, let lineage = VaultID(bytes: Array(bytes[offset + 8..<offset + 24])) else { return nil }
            return .segment(SegmentID(lineage: lineage, first: first, last: last))
        default:
            return nil
        }
    }

    private static func inner(_ bytes: UnsafeRawBufferPointer, _ level: Int, _ firstBlock: UInt64, children: Int, _ second: Int) -> MapPage? {
        let start = headerBytes + bitmapBytes
        guard (1...FormatLimits.innerChildren).contains(children), second == 0, bytes.count == start + 32 * children,
            bytes[headerBytes..<start].reduce(0, { $0 + $1.nonzeroBitCount }) == children
        else { return nil }
        var list = [Hash256?](repeating: nil, count: FormatLimits.innerChildren)
        var offset = start
        for child in list.indices where bytes[headerBytes + child / 8] & (1 << UInt8(child % 8)) != 0 {
            guard let id = Hash256(bytes: Array(bytes[offset..<offset + 32])), id != .zero else { return nil }
            list[child] = id
            offset += 32
        }
        return .inner(MapInner(level: level, firstBlock: firstBlock, epoch: bytes.getLE(UInt32.self, at: 16), children: list))
    }
}

extension Vault {
    package func mapPage(_ id: Hash256, level: Int, firstBlock: UInt64) throws(VaultError) -> MapPage {
        let place = ObjectPlace.mapPage(id)
        let plaintext = try read(place)
        guard plaintext.withUnsafeBytes({ keys.contentID($0) }) == id else { throw .damaged(object: place.key, reason: "its content does not have its id") }
        guard let page = MapPage(plaintext, level: level, firstBlock: firstBlock) else {
            throw .damaged(object: place.key, reason: "it is no valid map page of level \(level) from block \(firstBlock)")
        }
        return page
    }

    /// Stores a page, verified, and returns its id.
    func putMapPage(_ page: MapPage) throws(VaultError) -> Hash256 {
        let plaintext = page.encoded()
        let id = plaintext.withUnsafeBytes { keys.contentID($0) }
        let place = ObjectPlace.mapPage(id)
        _ = try putVerified(place, try seal(plaintext, place: place)) { stored throws(VaultError) in
            try SealedObject.open(stored, place: place, keys: keys) == plaintext
        }
        return id
    }
}
