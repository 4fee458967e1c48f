// Space pressure: while a target stays away, the oldest sealed segments that the image holds and the target lacks are merged into fewer.
// What is lost is granularity: of what was merged only the end can be had (`MergedInterval`), so it costs points, and spares a
// resynchronisation. On a thread of its own that lives while there is something to do; guests' writes meet none of it.
// Order, which makes a crash at any step harmless: the new segment is whole and durable but for its header; its header, durably; then what
// it replaces is wiped. An opening finds all of the old ones, or a new one that is durable (`SegmentScan.dropReplaced`).

import BlockIO
import Glibc
import Synchronization

struct Merging {
    var thread: OwnThread?
    var isRunning = false
    /// Files in its hands.
    var fileCount = 0
    var lostPoints: UInt64 = 0
    var failure: String?
    /// Not before, by the monotonic clock.
    var retryNanoseconds: UInt64 = 0
    /// So many segments could be merged when there was nothing more to win.
    var exhaustedAt = 0
}

extension ChangeLog {
    /// A smaller log has no room for a segment that guests do not get.
    private static let segmentsForMergingMin = 12
    private static let retrySeconds: UInt64 = 30
    /// Less is not worth merging, as less is not worth resynchronising (`LogFill`).
    private static let bytesMin: UInt64 = 256 << 20

    /// The budget without the one segment that merging needs when all others are in use.
    var segmentCountForRecords: Int { keepsForMerging && segmentCountMax >= Self.segmentsForMergingMin ? segmentCountMax - 1 : segmentCountMax }

    /// A disk that a target lacks half of is resynchronised sooner than sent all writes; before it comes to that they are merged.
    private var unsentSegmentsMax: Int {
        let bytes = min(budgetBytes, max(currentState.diskBytes / 2, Self.bytesMin))
        return min(segmentCountMax, Int(clamping: bytes / UInt64(geometry.segmentBytes)))
    }

    var unsentCount: Int { live.count { $0.lastSequence > replicatedThrough } }

    /// Of what targets lack, the intervals that they get the end of only. The monitor is held.
    var unsentMerges: [MergedInterval] {
        live.reduce(into: []) { intervals, segment in
            guard let interval = segment.header?.mergedInterval else { return }
            intervals.join(MergedInterval(after: max(interval.after, replicatedThrough), through: interval.through))
        }
    }

    // MARK: - the thread

    /// Called by the housekeeper; the monitor is held, and let go of when a thread has ended.
    func tendMerging() {
        if !merging.isRunning, let thread = merging.thread {
            merging.thread = nil
            monitor.unlock()
            thread.join()
            monitor.lock()
        }
        guard merging.thread == nil, isMergeDue else { return }
        merging.isRunning = true
        merging.exhaustedAt = 0
        do throws(SystemError) {
            merging.thread = try OwnThread(name: "log-merge") { [self] in runMerge() }
        } catch {
            merging.isRunning = false
            merging.failure = "\(error)"
            merging.retryNanoseconds = Clock.monotonicNanoseconds() + Self.retrySeconds * 1_000_000_000
        }
    }

    /// Called when the housekeeper has ended.
    func endMerging() {
        merging.thread?.join()
        merging.thread = nil
    }

    private var isMergeDue: Bool { isPressed && isMergeWorthATry }

    /// Merging makes room, or destage does that merging then can use. Asked by who waits for room; the monitor is held.
    var isMergeComing: Bool {
        if merging.isRunning { return true }
        guard isPressed else { return false }
        return isMergeWorthATry || (destageObstacle == nil && live.contains { $0.currentIndex > destagedSegment && $0.phase != .active })
    }

    /// A target that has nothing of the disk yet gets its image.
    private var isPressed: Bool {
        segmentCountForRecords < segmentCountMax && replicatedThrough > 0 && !isMergeOver && unsentCount >= unsentSegmentsMax * 3 / 4
            && Clock.monotonicNanoseconds() >= merging.retryNanoseconds
    }

    /// Each try reads the tables of all of them: after one without a gain only with some more, or when guests wait.
    private var isMergeWorthATry: Bool {
        let count = live.count { isMergeable($0) }
        let more = spares.isEmpty ? 1 : max(1, unsentSegmentsMax / 16)
        return count > 1 && (merging.exhaustedAt == 0 || count < merging.exhaustedAt || count >= merging.exhaustedAt + more)
    }

    /// The target is back, or the log is being closed. The monitor is held.
    private var isMergeOver: Bool { isStopping || failure != nil || isTargetRising }

    /// The image holds it, and a target has nothing of it. The monitor is held.
    private func isMergeable(_ segment: Segment) -> Bool {
        guard let header = segment.header, segment.phase == .sealed else { return false }
        return header.index <= destagedSegment && header.afterSequence >= max(replicatedThrough, sentThrough)
    }

    private func runMerge() {
        let result = Result { () throws(LogError) in try mergeOldest() }
        monitor.lock()
        for segment in live { segment.isBeingMerged = false }
        merging.isRunning = false
        switch result {
        case .success: merging.failure = nil
        // The target is back.
        case .failure(.system(let error)) where error.errno == ECANCELED: merging.failure = nil
        case .failure(let error):
            merging.failure = "\(error)"
            merging.retryNanoseconds = Clock.monotonicNanoseconds() + Self.retrySeconds * 1_000_000_000
        }
        wakeEveryone()
        monitor.unlock()
    }

    /// Oldest first; they stay until the thread ends.
    private func takeMergeable() -> [MergeInput] {
        monitor.lock()
        defer { monitor.unlock() }
        return live.compactMap { segment in
            guard let header = segment.header, isMergeable(segment) else { return nil }
            segment.isBeingMerged = true
            return MergeInput(segment: segment, header: header, recordCount: segment.nextSlot, lastSequence: segment.lastSequence)
        }
    }

    /// How many segments are to become free.
    private var wantedCount: Int {
        monitor.lock()
        defer { monitor.unlock() }
        return isMergeOver ? 0 : max(0, unsentCount - unsentSegmentsMax * 5 / 8)
    }

    private func refuseWhenOver() throws(LogError) {
        monitor.lock()
        defer { monitor.unlock() }
        if isMergeOver { throw .system(SystemError(errno: ECANCELED, operation: "merge", path: folder.path)) }
    }

    private func mergeOldest() throws(LogError) {
        var scratch: Segment?
        defer { giveBack(scratch) }
        for overAppPoints in [false, true] {
            let inputs = takeMergeable()
            var first = 0
            while first < inputs.count {
                let wanted = wantedCount
                guard wanted > 0 else { return }
                let end = try MergePlan.end(inputs, from: first, wanted: wanted, overAppPoints: overAppPoints, geometry)
                if let plan = try worthwhile(inputs[first..<end]) { try carryOut(plan, &scratch) }
                first = max(end, first + 1)
            }
        }
        monitor.lock()
        // Without those that came to the image meanwhile: they were not tried.
        merging.exhaustedAt = live.count { $0.isBeingMerged && isMergeable($0) }
        monitor.unlock()
    }

    private func worthwhile(_ inputs: ArraySlice<MergeInput>) throws(LogError) -> MergePlan? {
        var inputs = Array(inputs)
        while inputs.count > 1 {
            let plan = try MergePlan(inputs, geometry)
            if plan.isWithinLimits { return plan.gain > 0 && plan.gain >= inputs.count / 8 ? plan : nil }
            inputs.removeLast((inputs.count + 1) / 2)
        }
        return nil
    }

    // MARK: - one merge

    private func carryOut(_ plan: MergePlan, _ scratch: inout Segment?) throws(LogError) {
        var lostPoints = plan.lostPoints
        for group in plan.groups where group.count > 1 {
            try refuseWhenOver()
            var file = scratch.take()
            if file == nil { file = try mergeFile() }
            guard let file else { return }
            let replaced = plan.inputs[group].map(\.segment)
            do throws(LogError) {
                try write(plan, group, into: file)
            } catch {
                abandon(file)
                throw error
            }
            guard exchange(replaced, for: file, reach: plan.through, lostPoints: lostPoints) else { return }
            lostPoints = 0
            for segment in replaced { release(segment, &scratch) }
        }
    }

    /// A file that nobody uses: the one that guests do not get, or a spare one. Nil when there is none.
    private func mergeFile() throws(LogError) -> Segment? {
        monitor.lock()
        if fileCount >= segmentCountMax || spaceError != nil || isReserveLent {
            defer { monitor.unlock() }
            guard let spare = takeSpare() else { return nil }
            merging.fileCount += 1
            return spare
        }
        let number = nextNumber
        nextNumber += 1
        merging.fileCount += 1
        monitor.unlock()
        do throws(SystemError) { return try makeSegmentFile(number) } catch {
            monitor.lock()
            merging.fileCount -= 1
            monitor.unlock()
            throw .system(error)
        }
    }

    /// Its header goes last: until then the file is a spare one.
    private func write(_ plan: MergePlan, _ group: Range<Int>, into output: Segment) throws(LogError) {
        let (first, last) = (plan.inputs[group.lowerBound], plan.inputs[group.upperBound - 1])
        var header = first.header
        header.index = last.index
        header.lineage = last.header.lineage
        header.nonce = .random(in: 1 ... .max)
        header.merge = SegmentHeader.Merge(firstIndex: first.header.firstIndex, through: plan.through, slotCount: last.segment.slotCountToFollow)
        output.begin(header)
        let table = AlignedBuffer(count: geometry.tableBytes)
        let buffer = AlignedBuffer(count: recordPayloadBytesMax)
        for place in group {
            try refuseWhenOver()
            let input = plan.inputs[place]
            let records = try input.table(geometry)
            let source = SealedSegment(segment: input.segment, index: input.index, recordCount: input.recordCount, lastSequence: input.lastSequence)
            for kept in plan.kept[place] {
                var record = try input.record(kept.slot, records)
                if kept.pages > 0 {
                    let payload = try source.payload(record, into: buffer.bytes)
                    let start = kept.skippedBlocks * blockBytes
                    let span = UnsafeRawBufferPointer(rebasing: payload[start..<min(payload.count, start + kept.pages * blockBytes)])
                    try asLogError { () throws(SystemError) in try output.file.write(span, at: SegmentGeometry.pageOffset(output.nextPage)) }
                    record.diskOffset += UInt64(start)
                    record.length = UInt64(span.count)
                    record.payloadChecksum = crc32c(span)
                }
                record.payloadPage = UInt32(output.nextPage)
                let slot = output.nextSlot * SegmentGeometry.headerBytes
                record.encode(
                    slot: output.nextSlot, seed: output.seed,
                    into: UnsafeMutableRawBufferPointer(rebasing: table.bytes[slot..<slot + SegmentGeometry.headerBytes]))
                output.nextSlot += 1
                output.nextPage += kept.pages
            }
        }
        output.lastSequence = last.lastSequence
        output.phase = .sealed
        output.isBeingMerged = true
        let seal = SegmentSeal(recordCount: UInt32(output.nextSlot), lastSequence: last.lastSequence)
        let sync = { (segment: Segment) throws(SystemError) in
            try segment.syncData()
            self.options.didSync?(segment.file.path)
        }
        try asLogError { () throws(SystemError) in
            if !output.isNameDurable { try Directory.sync(folder.path) }
            output.isNameDurable = true
            try output.file.write(UnsafeRawBufferPointer(table.bytes), at: SegmentGeometry.tableOffset)
            try output.writeSeal(seal, sync)
            try output.writeHeader()
            try sync(output)
        }
    }

    /// From here on the log has the new one. False when it is being closed: then it has both, and an opening takes the old ones.
    private func exchange(_ replaced: [Segment], for output: Segment, reach: UInt64, lostPoints: UInt64) -> Bool {
        monitor.lock()
        defer { monitor.unlock() }
        guard !isStopping, let first = live.firstIndex(where: { $0 === replaced[0] }) else { return false }
        live.replaceSubrange(first..<first + replaced.count, with: [output])
        for segment in replaced { segment.leaveIndex() }
        merging.fileCount += replaced.count - 1
        merging.lostPoints += lostPoints
        mergedReach = max(mergedReach, reach)
        return true
    }

    /// The first one is used for the next merge, the others are spare.
    private func release(_ segment: Segment, _ scratch: inout Segment?) {
        while segment.pins.load(ordering: .sequentiallyConsistent) > 0 { usleep(50) }
        segment.isBeingMerged = false
        let result = Result { () throws(SystemError) in try wipe(segment) }
        monitor.lock()
        defer { monitor.unlock() }
        segment.phase = .spare
        switch result {
        case .success(let wiped?) where scratch == nil:
            scratch = wiped
            return
        case .success(let wiped?):
            spares.append(wiped)
            isStarved = false
        case .success(nil): break
        case .failure(let error):
            keepRetired(segment)
            noteSpaceError(error)
        }
        merging.fileCount -= 1
        wakeEveryone()
    }

    private func giveBack(_ scratch: Segment?) {
        guard let scratch else { return }
        monitor.lock()
        merging.fileCount -= 1
        let isSpare = fileCount < segmentCountForRecords
        if isSpare {
            spares.append(scratch)
            wakeEveryone()
        }
        monitor.unlock()
        if !isSpare { remove(scratch) }
    }

    /// It has no header, or one that may not be durable: an opening that finds it finds all of the old ones as well.
    private func abandon(_ file: Segment) {
        monitor.lock()
        merging.fileCount -= 1
        monitor.unlock()
        remove(file)
    }

    private func remove(_ file: Segment) {
        file.leaveIndex()
        do throws(SystemError) { try removeFile(file) } catch {
            monitor.lock()
            file.phase = .spare
            keepRetired(file)
            noteSpaceError(error)
            monitor.unlock()
        }
    }
}
