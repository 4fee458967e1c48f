// Where an image of unknown content may differ from a state in the vault. Where one chunk holds a whole MiB, the keyed hash of what the image has
// there is compared with the chunk's name, and nothing is fetched if they agree; all else is fetched and compared. Used by one thread.

import BlockIO
import DiskImage
import RecoveryPoints
import Vault

final class ContentDifference {
    private static let blockBytes = UInt64(FormatLimits.blockBytes)
    private static let regionBlocks = UInt64(FormatLimits.chunkBytes) / blockBytes

    private let image: any ImageFile
    private let newer: PointReader
    private let vault: Vault
    private let buffer = AlignedBuffer(count: FormatLimits.chunkBytes)
    /// Of the region that was looked at last, from the end.
    private var pending: [MapExtent] = []

    init(_ image: any ImageFile, to newer: PointReader, _ vault: Vault) {
        self.image = image
        self.newer = newer
        self.vault = vault
    }

    /// The first range from `block` on that may differ; called with rising blocks, each the end of the range before.
    func next(from start: UInt64) throws(RefreshError) -> MapExtent? {
        let end = (newer.sizeBytes + Self.blockBytes - 1) / Self.blockBytes
        var block = start
        while pending.isEmpty, block < end {
            let first = try extent(at: block, before: end)
            // Zeros are looked for in the image when they are written.
            guard first.source != nil else { return first }
            let border = min(end, (block / Self.regionBlocks + 1) * Self.regionBlocks)
            var extents: [MapExtent] = []
            var position = block
            while position < border {
                let extent = try extent(at: position, before: border)
                extents.append(extent)
                position = extent.startBlock + extent.blockCount
            }
            if try !isHeld(extents) { pending = extents.reversed() }
            block = border
        }
        return pending.popLast()
    }

    private func isHeld(_ extents: [MapExtent]) throws(RefreshError) -> Bool {
        let first = extents[0]
        guard extents.count == 1, case .chunk(let chunk)? = first.source, first.sourceBlock == 0, first.startBlock % Self.regionBlocks == 0 else { return false }
        let offset = first.startBlock * Self.blockBytes
        let count = Int(min(first.blockCount * Self.blockBytes, newer.sizeBytes - offset))
        do throws(SystemError) {
            // A hole holds no chunk: those of zeros are not stored.
            guard let data = try image.nextData(from: offset), data < offset + UInt64(count) else { return false }
            let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<count])
            try image.read(into: bytes, at: offset)
            return vault.chunkRef(of: UnsafeRawBufferPointer(bytes), epoch: chunk.epoch) == chunk
        } catch { throw .system(error) }
    }

    private func extent(at block: UInt64, before end: UInt64) throws(RefreshError) -> MapExtent {
        do throws(VaultError) { return try newer.extent(at: block, before: end) } catch { throw .vault(error) }
    }
}
