// Reads the whole state of a disk at a sequence from the vault, the plain way: map, then records. Slow on purpose, so
// that it shares nothing with the reader of recovery points.

import Vault

func vaultContent(_ history: DiskHistory, at sequence: UInt64) throws -> [UInt8] {
    let plan = try history.plan(at: sequence)
    let disk = history.state.disk
    var content = [UInt8](repeating: 0, count: Int(plan.sizeBytes))
    var plaintexts: [MapSource: [UInt8]] = [:]
    func plaintext(_ source: MapSource) throws -> [UInt8] {
        if let known = plaintexts[source] { return known }
        let bytes: [UInt8]
        switch source {
        case .chunk(let ref): bytes = try history.vault.readChunk(ref)
        case .segment(let id): bytes = try history.vault.read(.segment(disk: disk, lineage: id.lineage, first: id.first, last: id.last))
        }
        plaintexts[source] = bytes
        return bytes
    }
    func put(_ bytes: ArraySlice<UInt8>, at offset: Int) {
        let count = min(bytes.count, content.count - offset)
        content.replaceSubrange(offset..<offset + count, with: bytes.prefix(count))
    }
    let map = MapReader(vault: history.vault)
    let blockBytes = FormatLimits.blockBytes
    let end = MapGeometry.blockCount(sizeBytes: plan.sizeBytes)
    var block: UInt64 = 0
    while block < end {
        let extent = try map.extent(plan.root, at: block, before: end)
        if let source = extent.source {
            let start = Int(extent.sourceBlock) * blockBytes
            put(try plaintext(source).dropFirst(start).prefix(Int(extent.blockCount) * blockBytes), at: Int(block) * blockBytes)
        }
        block += extent.blockCount
    }
    for entry in plan.segments {
        let index = try SegmentIndex.read(history.vault, disk: disk, entry: entry, manifestLineage: history.state.current!.id)
        let bytes = try plaintext(.segment(index.id))
        for record in index.records where record.sequence <= sequence && record.changesDisk {
            let length = Int(record.length)
            let data = record.kind == .write ? bytes[Int(record.position)..<Int(record.position) + length] : ArraySlice(repeatElement(0, count: length))
            put(data, at: Int(record.diskOffset))
        }
    }
    return content
}
