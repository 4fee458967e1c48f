// Which part of a disk a page of the block map covers (docs/formats/vault.md section 6).

package enum MapGeometry {
    static let chunkBlocks = UInt64(FormatLimits.chunkBytes / FormatLimits.blockBytes)

    /// Blocks under a page of `level`.
    static func blocks(level: Int) -> UInt64 { FormatLimits.leafBlocks << UInt64(8 * level) }

    package static func blockCount(sizeBytes: UInt64) -> UInt64 {
        sizeBytes / UInt64(FormatLimits.blockBytes) + (sizeBytes % UInt64(FormatLimits.blockBytes) == 0 ? 0 : 1)
    }

    /// The smallest level whose one page covers the disk.
    package static func rootLevel(sizeBytes: UInt64) -> Int {
        (0..<FormatLimits.mapLevelMax).first { blocks(level: $0) >= blockCount(sizeBytes: sizeBytes) } ?? FormatLimits.mapLevelMax
    }
}
