// After a power loss: everything up to the first record that is not whole is kept, the rest is cut off durably.
// What a later record or seal says was flushed must be there: if not, the disk lost data it had acknowledged as durable.

import BlockIO

extension Recovery {
    mutating func cutAfterPowerLoss(_ found: [FoundSegment]) throws(LogError) {
        let flushed = try flushedThrough(found)
        // An opening before this one may have wiped some of them, and have ended before that was durable.
        for spare in spares { try wipeDurably(spare) }
        var place = 0
        while place < found.count, let seal = found[place].seal, continues(found, place) {
            try keepSealed(found[place], seal, byFooter: false)
            place += 1
        }
        var isCut = false
        while place < found.count, !isCut, continues(found, place), found[place].seal == nil {
            isCut = try !keepWholeRecords(found[place], flushed)
            place += 1
        }
        guard lastSequence >= flushed else {
            let suspect = found[max(0, place - 1)]
            throw damage(suspect, suspect.segment.nextSlot, after: lastSequence, "records up to \(flushed) had been flushed and are not there")
        }
        try sealKept(found[..<place])
        for lost in found[place...].reversed() { try wipe(lost) }
        flushedSequence = lastSequence
    }

    /// Whether, in one and the same boot, the filesystem has begun anew since the log was written. Where that cannot be told, what
    /// was not flushed tells: all of it is whole, and stays, or it is not, and then it did not come from the page cache.
    func hasLostPageCache(_ found: [FoundSegment], _ relation: FilesystemPlace.Relation, hasFailedSync: Bool) throws(LogError) -> Bool {
        switch relation {
        case .same: return false
        case .another: return true
        case .unsure:
            // There what is not whole is named, and nothing is cut.
            if hasFailedSync { return false }
        }
        let flushed = try flushedThrough(found)
        let buffer = AlignedBuffer(count: recordPayloadBytesMax)
        for one in found where one.seal == nil {
            let table = try asLogError { () throws(SystemError) in try SegmentTable(one.segment.file, one.header, geometry) }
            for slot in 0..<geometry.slotCount {
                guard let record = table.record(slot), record.sequence > flushed else { continue }
                guard try asLogError({ () throws(SystemError) in try one.segment.isWhole(record, buffer.bytes) }) else { return true }
            }
        }
        return false
    }

    /// The first one may be lost as any other: its header is durable only with the first flush.
    private func continues(_ found: [FoundSegment], _ place: Int) -> Bool {
        place > 0 ? follows(found[place - 1], found[place]) : found[0].index <= state.destagedSegment + 1
    }

    private func follows(_ lower: FoundSegment, _ upper: FoundSegment) -> Bool {
        upper.header.firstIndex == lower.index + 1 && upper.header.previousSlotCount == lower.segment.slotCountToFollow
            && upper.header.afterSequence == lower.segment.lastSequence
    }

    /// The highest sequence that anything in the log says was durable.
    func flushedThrough(_ found: [FoundSegment]) throws(LogError) -> UInt64 {
        var flushed = state.destagedSequence
        for one in found {
            if let seal = one.seal {
                flushed = max(flushed, seal.lastSequence)
                continue
            }
            let table = try asLogError { () throws(SystemError) in try SegmentTable(one.segment.file, one.header, geometry) }
            for slot in 0..<geometry.slotCount {
                if let record = table.record(slot) { flushed = max(flushed, record.flushedSequence) }
            }
        }
        return flushed
    }

    /// False when a slot above the kept ones holds a record: then this is where the log is cut.
    private mutating func keepWholeRecords(_ found: FoundSegment, _ flushed: UInt64) throws(LogError) -> Bool {
        let segment = found.segment
        guard found.index > state.destagedSegment else {
            throw damage(found, 0, after: found.header.afterSequence, "the image is said to hold it, but it is not sealed")
        }
        let table = try asLogError { () throws(SystemError) in try SegmentTable(segment.file, found.header, geometry) }
        let end = table.endSlot
        let buffer = AlignedBuffer(count: recordPayloadBytesMax)
        var slot = 0
        while slot < end, let record = table.record(slot), record.sequence > segment.lastSequence {
            if record.sequence > flushed {
                guard try asLogError({ () throws(SystemError) in try segment.isWhole(record, buffer.bytes) }) else { break }
            }
            try apply(record, found, slot)
            segment.lastSequence = record.sequence
            slot += 1
        }
        segment.nextSlot = slot
        kept.append(segment)
        lastSequence = max(lastSequence, segment.lastSequence)
        return slot == end
    }

    /// In index order, so that a seal always vouches for all segments before it. The newest one that is there already may
    /// be of an opening that was killed before it had synced it, or whose sync failed: it is written again, since its page may be clean
    /// in memory and not on the disk.
    private func sealKept(_ found: ArraySlice<FoundSegment>) throws(LogError) {
        if let sealed = found.last(where: { $0.seal != nil }), let seal = sealed.seal, sealed.index > state.destagedSegment {
            try asLogError { () throws(SystemError) in try sealed.segment.writeSeal(seal, sync) }
        }
        for one in found where one.seal == nil {
            try asLogError { () throws(SystemError) in try sync(one.segment) }
            try seal(one, one.segment.nextSlot)
        }
    }

    private mutating func wipe(_ lost: FoundSegment) throws(LogError) {
        try wipeDurably(lost.segment)
        lost.segment.leaveIndex()
        lost.segment.phase = .spare
        spares.append(lost.segment)
    }

    private func wipeDurably(_ segment: Segment) throws(LogError) {
        try asLogError { () throws(SystemError) in
            try segment.wipe()
            try sync(segment)
        }
    }
}
