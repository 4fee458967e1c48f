// What `image check` does beyond opening an image, which checks all its structures: sector bitmaps are compared with what
// repeats or contradicts them, in each file of a chain. Reads only.

import BlockIO

package struct ImageCheck: Equatable, Sendable {
    package let image: ImageDescription
    /// What deserves a word in a sound image.
    package let remarks: [String]
}

/// Throws at the first damage.
package func checkImage(_ path: String, format: ImageFormat? = nil, parentFolders: [String] = []) throws(ImageError) -> ImageCheck {
    let image = try inspectImage(path, format: format, parentFolders: parentFolders)
    var remarks: [String] = []
    if try ImageLock.isHeldByWriter(path) {
        remarks.append("\(path): somebody has it open for writing, so this was read while it may change; check again when it is closed")
    }
    if let damage = image.vhdx?.headerDamage {
        remarks.append("\(path): one of the two headers is damaged, the other one is sound: a new one is put in its place at the next write (\(damage))")
    }
    if let qcow2 = image.qcow2 { remarks += writingRemarks(qcow2.header, path) }
    if image.dynamic?.isClean == false { remarks.append("\(path): a footer is missing or damaged, the other one is sound: it is put back at the next write") }
    if image.vhd?.savedState == true { remarks.append("\(path): belongs to a saved virtual machine, and is not written until that is shut down") }
    for file in [(path: path, format: image.format)] + image.parents.map({ (path: $0.path, format: $0.format) }) {
        guard file.format == .vhdDynamic || file.format == .vhdDifferencing else { continue }
        let container = try ContainerFile.open(file.path, access: .readOnly)
        let layout = try readDynamicLayout(container, file.format == .vhdDynamic ? .dynamic : .differencing)
        try checkBatmap(layout, container)
        if file.format == .vhdDynamic, let hidden = try firstHiddenSector(layout, container) {
            remarks.append("\(file.path): sector \(hidden) holds data that its bit calls absent: QEMU and Farshore show it, other programs show zeros")
        }
    }
    return ImageCheck(image: image, remarks: remarks.map(\.shown))
}

/// What keeps a sound qcow2 image from being protected.
private func writingRemarks(_ header: QCOW2Header, _ path: String) -> [String] {
    do throws(ImageError) {
        try header.requireWritable(path)
        return []
    } catch {
        guard case .unsupported(_, let what, let remedy) = error else { return ["\(error)"] }
        return ["\(path): it can be read and converted, not protected: \(what) (\(remedy))"]
    }
}

/// A block that the batmap calls full has a full bitmap.
private func checkBatmap(_ layout: DynamicVHDLayout, _ container: borrowing ContainerFile) throws(ImageError) {
    guard let batmap = layout.batmap else { return }
    for block in try batmap.fullBlocks(of: layout.blockCount, container) {
        let bitmap = try VHDBlockBitmap(ofBlock: block, layout, container)
        guard let absent = bitmap.firstAbsent(in: 0..<layout.sectorCount(ofBlock: block)) else { continue }
        throw .damaged(ImageDamage(path: container.path, field: "sector bitmap of block \(block)", offset: layout.bitmapOffset(ofBlock: block),
            found: "sector \(absent) absent", expected: "all sectors present", meaning: "the batmap calls the block full: programs that go by it show something else"))
    }
}

/// The first sector of a dynamic disk that is not zeros though its bit is not set.
private func firstHiddenSector(_ layout: DynamicVHDLayout, _ container: borrowing ContainerFile) throws(ImageError) -> UInt64? {
    for block in 0..<layout.blockCount where layout.table.sectors[block] != VHDBlockTable.unallocated {
        let start = layout.bitmapOffset(ofBlock: block) + layout.header.bitmapBytes
        var rest = start..<start + UInt64(layout.sectorCount(ofBlock: block)) * 512
        var bitmap: VHDBlockBitmap?
        while let data = try container.nextData(in: rest) {
            let part = data.lowerBound..<min(data.upperBound, data.lowerBound + 1 << 20)
            let known = if let bitmap { bitmap } else { try VHDBlockBitmap(ofBlock: block, layout, container) }
            bitmap = known
            if let sector = try known.firstHidden(in: part, ofBlockAt: start, container) {
                return UInt64(block) * UInt64(layout.header.blockBytes / 512) + UInt64(sector)
            }
            rest = part.upperBound..<rest.upperBound
        }
    }
    return nil
}

/// Which sectors of an allocated block are said to be there.
private struct VHDBlockBitmap {
    private let bits: [UInt8]

    init(ofBlock block: Int, _ layout: DynamicVHDLayout, _ container: borrowing ContainerFile) throws(ImageError) {
        bits = try container.read(count: Int(layout.header.bitmapBytes), at: layout.bitmapOffset(ofBlock: block))
    }

    func firstAbsent(in sectors: Range<Int>) -> Int? { sectors.first { bits[$0 / 8] & (0x80 >> UInt8($0 % 8)) == 0 } }

    /// The first sector that is absent and not zeros, in a part of the file; the block's data begins at `start`.
    func firstHidden(in part: Range<UInt64>, ofBlockAt start: UInt64, _ container: borrowing ContainerFile) throws(ImageError) -> Int? {
        let sectors = Int((part.lowerBound - start) / 512)..<Int((part.upperBound - start) / 512)
        guard var absent = firstAbsent(in: sectors) else { return nil }
        let bytes = try container.read(count: part.count, at: part.lowerBound)
        while true {
            let place = (absent - sectors.lowerBound) * 512
            if !bytes.withUnsafeBytes({ isZero(UnsafeRawBufferPointer(rebasing: $0[place..<place + 512])) }) { return absent }
            guard let next = firstAbsent(in: absent + 1..<sectors.upperBound) else { return nil }
            absent = next
        }
    }
}

extension DynamicVHDLayout {
    /// Blocks that hold a part of the disk.
    fileprivate var blockCount: Int { Int(header.blocks(ofDiskBytes: footer.diskSizeBytes)) }

    /// Sectors of the disk in the block.
    fileprivate func sectorCount(ofBlock block: Int) -> Int {
        let blockBytes = UInt64(header.blockBytes)
        return Int(min(blockBytes, footer.diskSizeBytes - UInt64(block) * blockBytes) / 512)
    }

    /// Of an allocated block.
    fileprivate func bitmapOffset(ofBlock block: Int) -> UInt64 { UInt64(table.sectors[block]) * 512 }
}
