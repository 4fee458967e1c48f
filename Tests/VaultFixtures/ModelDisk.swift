// A disk that is replicated step by step and whose true content is known at every sequence.

package import Vault

/// A disk that is written to, replicated step by step, and remembered as it was at every step.
package final class ModelDisk {
    package let vault: Vault
    package let id = VaultID.random()
    package private(set) var lineage = VaultID.random()
    package let name: String
    package private(set) var content: [UInt8]
    package private(set) var sequence: UInt64 = 10
    /// What the disk held when it was first replicated, and every write since: whole states would fill the memory.
    private var base: [UInt8] = []
    private var writes: [(sequence: UInt64, range: Range<Int>, data: [UInt8])] = []
    /// Where a branch began, the sequences it left behind do not count for what comes after.
    private var abandoned: Range<UInt64>?
    /// Its sizes before it grew.
    private var grown: [GrownSize] = []
    package private(set) var sequences: [UInt64] = []
    package private(set) var points: [RecoveryPoint] = []
    /// The sequences a branch left behind.
    package var left: Range<UInt64> { abandoned ?? 0..<0 }
    /// Flush boundaries that some record tells of.
    package private(set) var boundaries: Set<UInt64> = []
    private var flushed: UInt64 = 0
    package private(set) var epoch: UInt64 = 0
    package let writer: HistoryWriter
    /// Set: what it copied goes into the full manifests.
    package var cleaning: Cleaning?
    package var numbers: SeededNumbers
    /// Payload of all steps.
    package private(set) var writtenBytes = 0

    package init(_ vault: Vault, name: String = "disk", sizeBytes: Int, seed: UInt64, limits: HistoryWriter.Limits = HistoryWriter.Limits()) throws {
        self.vault = vault
        self.name = name
        numbers = SeededNumbers(seed: seed)
        content = [UInt8](repeating: 0, count: sizeBytes)
        writer = HistoryWriter(vault: vault, disk: id, limits: limits)
        _ = try vault.register(disk: id, name: name, sizeBytes: UInt64(sizeBytes))
        for _ in 0..<6 {
            let range = randomRange(maxBlocks: 300)
            content.replaceSubrange(range, with: numbers.bytes(range.count))
        }
    }

    private func randomRange(maxBlocks: Int) -> Range<Int> {
        let blocks = (content.count + 4095) / 4096
        let start = Int.random(in: 0..<blocks, using: &numbers)
        let count = Int.random(in: 1...min(maxBlocks, blocks - start), using: &numbers)
        return start * 4096..<min(content.count, (start + count) * 4096)
    }

    /// Gives every 1 MiB its own content, without zeros.
    package func fill() {
        for start in stride(from: 0, to: content.count, by: 8) {
            withUnsafeBytes(of: UInt64(start) &* 0x9E37_79B9_7F4A_7C15 | 1) { content.replaceSubrange(start..<start + 8, with: $0) }
        }
    }

    /// Initial replication of what the disk holds.
    package func replicateInitially() throws {
        let epoch = try vault.catalog().document.collectionEpoch
        let map = InitialMap(vault: vault, sizeBytes: UInt64(content.count), epoch: epoch)
        for (number, start) in stride(from: 0, to: content.count, by: 1 << 20).enumerated() {
            let chunk = content[start..<min(content.count, start + (1 << 20))]
            guard chunk.contains(where: { $0 != 0 }) else { continue }
            try chunk.withUnsafeBytes { bytes in
                let ref = vault.chunkRef(of: bytes, epoch: epoch)
                try vault.putChunk(bytes, as: ref)
                try map.append(chunk: UInt64(number), ref)
            }
        }
        let root = try map.finish()
        let point = RecoveryPoint(sequence: sequence, timeMicros: 1_000_000 * sequence, kind: .crash, tag: nil)
        let state = try writer.start(lineage: lineage, sequence: sequence, sizeBytes: UInt64(content.count), root: root, point: point)
        self.epoch = try vault.heads(group: id).claim(host: "test").document.writer.epoch
        try vault.heads(group: id).update(epoch: self.epoch) { $0.set(state) }
        points.append(point)
        base = content
        sequences.append(sequence)
    }

    /// From now on the disk goes on from its state at `branch`, in another lineage.
    package func branched(at branch: UInt64, lineage: VaultID) throws {
        content = content(at: branch)
        abandoned = branch + 1..<sequence + 1
        flushed = branch
        self.lineage = lineage
    }

    /// From the next step on.
    package func grow(to bytes: Int) {
        grown.append(GrownSize(through: sequence, sizeBytes: UInt64(content.count)))
        content += [UInt8](repeating: 0, count: bytes - content.count)
    }

    package func content(at sequence: UInt64) -> [UInt8] {
        let sizeBytes = grown.first { $0.through >= sequence }.map { Int($0.sizeBytes) } ?? content.count
        var content = base + [UInt8](repeating: 0, count: sizeBytes - base.count)
        for write in writes where write.sequence <= sequence && !(sequence >= (abandoned?.upperBound ?? .max) && abandoned!.contains(write.sequence)) {
            content.replaceSubrange(write.range, with: write.data)
        }
        return content
    }

    /// Blocks that were written after `sequence`, or on the history that a branch left behind.
    package func blocksWritten(after sequence: UInt64) -> Set<UInt64> {
        writes.filter { $0.sequence > sequence || abandoned?.contains($0.sequence) == true }.reduce(into: []) { blocks, write in
            blocks.formUnion((write.range.lowerBound / 4096..<(write.range.upperBound + 4095) / 4096).map(UInt64.init))
        }
    }

    /// Writes `count` random records, puts them as segments, adds the manifest and the head.
    package func step(records count: Int, segmentBytes: Int = 1 << 20, checkpoint: Bool = false, tag: String? = nil, timeMicros: UInt64? = nil) throws {
        let segments = SegmentWriter(vault: vault, disk: id, lineage: lineage, payloadBytesMax: segmentBytes)
        var entries: [SegmentEntry] = []
        var flushing = flushed
        for number in 0..<count {
            // Every third record is followed by a flush; of every second one the next record does not know yet.
            if number % 6 != 4 { flushed = flushing }
            if flushed > 0 { boundaries.insert(flushed) }
            sequence += UInt64.random(in: 1...3, using: &numbers)
            if number % 3 == 0 { flushing = sequence }
            let range = randomRange(maxBlocks: 40)
            let kind: SegmentRecordKind = [.write, .write, .write, .zero, .discard].randomElement(using: &numbers)!
            let data = kind == .write ? compressible(range.count) : []
            let record = SegmentRecord(
                kind: kind, sequence: sequence, diskOffset: UInt64(range.lowerBound), length: UInt64(range.count),
                wallNanoseconds: 1_000_000_000 * sequence, flushedThrough: flushed)
            if !segments.fits(payloadBytes: data.count) { entries.append(try segments.finish()) }
            try data.withUnsafeBytes { try segments.append(record, payload: $0) }
            let result = kind == .write ? data : [UInt8](repeating: 0, count: range.count)
            content.replaceSubrange(range, with: result)
            writes.append((sequence, range, result))
            writtenBytes += data.count
            sequences.append(sequence)
        }
        if !segments.isEmpty { entries.append(try segments.finish()) }
        sequence += 1
        sequences.append(sequence)
        let point = RecoveryPoint(sequence: sequence, timeMicros: timeMicros ?? 1_000_000 * sequence, kind: .crash, tag: tag)
        points.append(point)
        let heads = vault.heads(group: id)
        let head = try heads.newest()!.document
        var state = head.state(of: id)!
        state.noteSize(UInt64(content.count), after: grown.filter { $0.through >= state.newestSequence })
        let moved = cleaning?.ready ?? []
        let next = try writer.extend(state, through: sequence, segments: entries, points: [point], moved: moved, checkpoint: checkpoint, epoch: head.collectionEpoch)
        try heads.update(epoch: epoch) { head in
            var state = head.state(of: id)!
            state.follow(next)
            head.set(state)
        }
        cleaning?.note(fullness: writer.fullness(of: next), moved: next.current?.full == state.current?.full ? 0 : moved.count)
    }

    /// Cleans as far as it is due; returns what was copied.
    @discardableResult
    package func clean() throws -> (objects: Int, bytes: Int) {
        let head = try vault.heads(group: id).newest()!.document
        var sum = (objects: 0, bytes: 0)
        while let cleaning, cleaning.isDue(head.state(of: id)!) {
            let step = try cleaning.step(head.state(of: id)!, epoch: head.collectionEpoch) { chunk, bytes in
                _ = try vault.putChunk(bytes, as: chunk)
                return chunk
            }
            sum = (sum.objects + (step?.objects ?? 0), sum.bytes + (step?.bytes ?? 0))
        }
        return sum
    }

    /// As an uploader does between two things it makes.
    package func acknowledge() throws {
        let newest = try vault.catalog().document.collectionEpoch
        try vault.heads(group: id).update(epoch: epoch) { $0.collectionEpoch = newest }
    }

    /// Lets points go; false when none went.
    @discardableResult
    package func thin(_ thinning: Thinning) throws -> Bool {
        let head = try vault.heads(group: id).newest()!.document
        let retention = Retention(vault: vault, thinning: thinning, epoch: head.collectionEpoch)
        guard let pruning = try retention.pruning(of: head, try vault.catalog().document) else { return false }
        var applied = false
        try vault.heads(group: id).update(epoch: epoch) { applied = pruning.apply(to: &$0) }
        return applied
    }

    /// Half of it text-like, so that some frames are compressed and some not.
    private func compressible(_ count: Int) -> [UInt8] {
        Bool.random(using: &numbers) ? numbers.bytes(count) : (0..<count).map { UInt8(truncatingIfNeeded: $0 / 7) }
    }
}
