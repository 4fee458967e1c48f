// From damaged objects to the states and bytes that need them. Walks every map again, so it runs only when there is damage.

struct DamageTrace {
    let vault: Vault
    let disk: Catalog.Disk
    let survey: HistorySurvey
    let damaged: Set<MapSource>

    /// Adds to each finding what it affects.
    func widen(_ findings: inout [String: CheckFinding]) throws(VaultError) {
        for (root, first, last) in survey.roots where first <= last {
            var effects: [String: [ByteRange]] = [:]
            // A page is shared between maps but stands once in each.
            let walk = MapWalk(
                vault: vault, enters: { _ in true },
                onLeaf: { leaf in
                    for run in leaf.runs where damaged.contains(leaf.sources[Int(run.source)]) {
                        let start = leaf.firstBlock + UInt64(run.start)
                        effects[key(leaf.sources[Int(run.source)]), default: []].append(bytes(start..<start + UInt64(run.count)))
                    }
                },
                onDamage: { id, blocks, _ in effects[ObjectPlace.mapPage(id).key, default: []].append(bytes(blocks)) })
            try walk.visit(root)
            for (object, ranges) in effects { findings[object]?.widen(from: first, to: last, ranges: ranges) }
        }
        try widenBySegmentLists(&findings)
    }

    /// States between two maps read the segments over them.
    private func widenBySegmentLists(_ findings: inout [String: CheckFinding]) throws(VaultError) {
        for (manifest, first, last) in survey.coverings {
            for entry in manifest.segments {
                let segment = SegmentID(lineage: entry.lineage ?? manifest.lineage, first: entry.first, last: entry.last)
                guard max(first, entry.first) <= last, damaged.contains(.segment(segment)) else { continue }
                findings[key(.segment(segment))]?.widen(from: max(first, entry.first), to: last, ranges: try ranges(entry, manifest))
            }
        }
    }

    /// What the segment's records write; the whole disk when not even its index can be read.
    private func ranges(_ entry: SegmentEntry, _ manifest: Manifest) throws(VaultError) -> [ByteRange] {
        do {
            let index = try SegmentIndex.read(vault, disk: disk.id, entry: entry, manifestLineage: manifest.lineage)
            return ByteRange.joined(index.records.filter { $0.kind == .write }.map { ByteRange(offset: $0.diskOffset, length: $0.length) })
        } catch {
            guard error.damage != nil else { throw error }
            return [ByteRange(offset: 0, length: survey.state.sizeBytes)]
        }
    }

    private func bytes(_ blocks: Range<UInt64>) -> ByteRange {
        let block = UInt64(FormatLimits.blockBytes)
        let start = min(blocks.lowerBound * block, survey.state.sizeBytes)
        return ByteRange(offset: start, length: min(blocks.upperBound * block, survey.state.sizeBytes) - start)
    }

    private func key(_ source: MapSource) -> String {
        switch source {
        case .chunk(let chunk): ObjectPlace.chunk(chunk).key
        case .segment(let segment): ObjectPlace.segment(disk: disk.id, lineage: segment.lineage, first: segment.first, last: segment.last).key
        }
    }
}
