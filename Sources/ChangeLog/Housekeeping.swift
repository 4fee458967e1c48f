// The log's own thread: seals closed segments in order, recycles what is in the image and at the targets, prepares spare
// segments ahead of need, so that a guest's write meets none of this.

package import BlockIO
import Glibc
import Synchronization

extension ChangeLog {
    /// Spare segments kept ready: new files are made up to the first number, old ones wiped ahead up to the second.
    private static let newSparesWanted = 4
    private static let sparesWanted = 8
    /// A guest that flushes this often within a segment gains from segments whose blocks are written already.
    private static let flushesThatPayForFilling: UInt64 = 64
    private static let pollMilliseconds = 1000
    /// While guests' writes wait or are refused for want of room: they go on as soon as there is some.
    private static let fullPollMilliseconds = 100

    func keepHouse() {
        monitor.lock()
        while !isStopping {
            // Whoever waits for a segment goes before the syncs of sealing.
            if roomWaiterCount > 0, spares.isEmpty, prepareSpare() {}
            else if let segment = segmentToSeal { seal(segment) }
            else if prepareSpare() {}
            else { idle() }
        }
        monitor.unlock()
    }

    private func idle() {
        monitor.unlock()
        // Numbers run out only if this fails for half a million appends; then the append reports the error.
        let reserved = Result { () throws(SystemError) in try sequencer.reserveAhead() }
        let (replicated, sent) = (folder.replicatedThrough(currentState), folder.sentThrough(currentState))
        monitor.lock()
        if case .failure(let error) = reserved, sequencer.isShort { noteSpaceError(error) }
        // Only a rise: what is sent again after a failure is no progress.
        if sent > sentThrough {
            sentThrough = sent
            replicatedAtNanoseconds = Clock.monotonicNanoseconds()
        }
        if replicated > replicatedThrough {
            replicatedThrough = replicated
            replicatedAtNanoseconds = Clock.monotonicNanoseconds()
            spaceError = nil
            return
        }
        sealIfIdle()
        guard !isStopping, segmentToSeal == nil, failure != nil || spaceError != nil || isReserveLent || !isSpareWanted else { return }
        // Who waits for a target that does not catch up any more is told.
        if roomWaiterCount > 0, !isRoomComing { progress.wakeAll() }
        monitor.wait(for: chores, milliseconds: roomWaiterCount > 0 || isStarved ? Self.fullPollMilliseconds : Self.pollMilliseconds)
        // Not at each wake-up: whoever waits for room wakes this thread, and would be woken by each new failure.
        if Clock.monotonicNanoseconds() >= spaceRetryNanoseconds { spaceError = nil }
    }

    /// Closes the active segment when nothing was reserved for a while. Only when it is the last one that holds anything: a
    /// disk that is written now and then, with its vault away, must not use up its budget with nearly empty segments.
    private func sealIfIdle() {
        let now = Clock.monotonicNanoseconds()
        if lastReserved != idleSequence {
            idleSequence = lastReserved
            idleSince = now
        }
        guard now - idleSince >= options.idleSealNanoseconds, let active, active.nextSlot > 0, live.count == 1, !spares.isEmpty else { return }
        closeActive()
    }

    private func noteSpaceError(_ error: SystemError) {
        spaceError = error
        let wait = isStarved ? Self.fullPollMilliseconds : Self.pollMilliseconds
        spaceRetryNanoseconds = Clock.monotonicNanoseconds() + UInt64(wait) * 1_000_000
    }

    // MARK: - sealing

    /// The oldest closed segment, once all its records are complete: seals are written in index order.
    private var segmentToSeal: Segment? {
        guard failure == nil, let first = live.first(where: { $0.phase != .sealed }), first.phase == .closing, first.inFlightCount == 0 else { return nil }
        return first
    }

    private func seal(_ segment: Segment) {
        var seal = SegmentSeal(recordCount: UInt32(segment.nextSlot), lastSequence: segment.lastSequence)
        monitor.unlock()
        let result = Result { () throws(SystemError) in
            seal.footer = try segment.writeFooter(recordCount: Int(seal.recordCount))
            try sync(segment)
            try segment.writeSeal(seal) { (segment) throws(SystemError) in try sync(segment) }
        }
        monitor.lock()
        switch result {
        case .success:
            // Not before the sync ended: a flush in between must still sync the segment itself.
            segment.isDirty = false
            dirty.removeAll { $0 === segment }
            segment.phase = .sealed
            durableThrough = max(durableThrough, segment.lastSequence)
        case .failure(let error): if failure == nil { failure = error }
        }
        wakeEveryone()
    }

    // MARK: - space

    /// Recycles the oldest segment or makes a new file; false when neither can be had now. The monitor is held.
    private func prepareSpare() -> Bool {
        guard failure == nil else { return false }
        if !hasReserve, !isReserveLent, remakeReserve() { return true }
        guard isSpareWanted else { return false }
        let failedBefore = spaceError == nil ? retired.popLast() : nil
        if let segment = failedBefore ?? takeRecyclable() {
            prepare { () throws(SystemError) in try self.wipe(segment) } orKeep: { self.retired.append(segment) }
            return true
        }
        // Not in the room that destage was lent.
        guard spaceError == nil, hasReserve else { return false }
        let number = nextNumber
        nextNumber += 1
        prepare { () throws(SystemError) in try self.makeSegmentFile(number) } orKeep: {}
        return true
    }

    private func prepare(_ work: () throws(SystemError) -> Segment, orKeep: () -> Void) {
        isPreparing = true
        monitor.unlock()
        let result = Result { () throws(SystemError) in try work() }
        monitor.lock()
        isPreparing = false
        switch result {
        case .success(let segment):
            spares.append(segment)
            // The next append that needs a segment gets this one: also when nobody writes, health must say so.
            isStarved = false
        case .failure(let error):
            noteSpaceError(error)
            orKeep()
        }
        wakeEveryone()
    }

    /// First in room that is there, else in place of a segment that is out of use. True when something was done.
    private func remakeReserve() -> Bool {
        guard spaceError == nil || !retired.isEmpty || isOldestRecyclable else { return false }
        let segment = spaceError == nil ? nil : retired.popLast() ?? takeRecyclable()
        monitor.unlock()
        let result = Result { () throws(SystemError) in
            if let segment { try removeFile(segment) }
            try makeReserve()
        }
        monitor.lock()
        isPreparing = false
        switch result {
        case .success: hasReserve = true
        case .failure(let error): noteSpaceError(error)
        }
        wakeEveryone()
        return true
    }

    /// Out of the live list, with no reader left.
    private func takeRecyclable() -> Segment? {
        guard isOldestRecyclable else { return nil }
        let segment = live.removeFirst()
        segment.leaveIndex()
        isPreparing = true
        monitor.unlock()
        while segment.pins.load(ordering: .sequentiallyConsistent) > 0 { usleep(50) }
        monitor.lock()
        segment.phase = .spare
        return segment
    }

    private func wipe(_ segment: Segment) throws(SystemError) -> Segment {
        try segment.wipe()
        try sync(segment)
        return segment
    }

    /// Space reserved, so that appends cannot fail for want of it. For a guest that flushes often also all blocks written, so
    /// that a flush changes no metadata (twice the durable appends); for others that would only be twice the writing. Nobody
    /// waits for it.
    private func makeSegmentFile(_ number: Int) throws(SystemError) -> Segment {
        let path = folder.segmentFile(number)
        let file = try Descriptor.open(path, O_RDWR | O_CREAT | O_EXCL)
        do {
            try file.truncate(to: UInt64(geometry.segmentBytes))
            try file.allocate(at: 0, length: UInt64(geometry.segmentBytes))
            let zeros = AlignedBuffer(count: min(geometry.segmentBytes, 1 << 20))
            var offset = 0
            while offset < geometry.segmentBytes, isFillingWorthwhile {
                let count = min(zeros.bytes.count, geometry.segmentBytes - offset)
                try file.write(UnsafeRawBufferPointer(rebasing: zeros.bytes[..<count]), at: UInt64(offset))
                offset += count
            }
            try file.syncData()
            try Directory.sync(folder.path)
        } catch {
            unlink(path)
            throw error
        }
        options.didSync?(path)
        return Segment(number: number, file: file, geometry: geometry)
    }

    private var isFillingWorthwhile: Bool {
        monitor.lock()
        defer { monitor.unlock() }
        return roomWaiterCount == 0 && max(flushesInLastSegment, flushCount - flushCountAtActivation) >= Self.flushesThatPayForFilling
    }

    private var fileCount: Int { live.count + spares.count + retired.count }

    private var isOldestRecyclable: Bool {
        guard let oldest = live.first, oldest.phase == .sealed else { return false }
        return oldest.currentIndex <= destagedSegment && oldest.lastSequence <= replicatedThrough
    }

    private var isSpareWanted: Bool {
        if !retired.isEmpty || isOldestRecyclable { return spares.count < Self.sparesWanted }
        return spares.count < Self.newSparesWanted && fileCount < segmentCountMax
    }

    /// Whether a thread that needs a segment may wait for one. Waiting for destage, and for a target that is catching up, is
    /// back-pressure; waiting for a target that may be down for days is not: the guest gets ENOSPC.
    var isRoomComing: Bool {
        if isPreparing { return true }
        if spaceError == nil, !retired.isEmpty || (fileCount < segmentCountMax && !isReserveLent) { return true }
        if isOldestRecyclable { return true }
        // Also when no new file can be had for want of disk space: destage frees an old one.
        guard let oldest = live.first, oldest.phase != .active else { return false }
        if oldest.currentIndex > destagedSegment, destageObstacle != nil { return false }
        return oldest.lastSequence <= replicatedThrough || isTargetCatchingUp
    }

    private var isTargetCatchingUp: Bool {
        replicatedAtNanoseconds > 0 && Clock.monotonicNanoseconds() < replicatedAtNanoseconds + options.catchingUpSeconds * 1_000_000_000
    }

    var starvation: Starvation {
        if let spaceError { return Starvation(cause: .noSegment, description: "no new segment: \(spaceError)") }
        if let oldest = live.first, oldest.lastSequence > replicatedThrough {
            return Starvation(cause: .notReplicated, description: "the log budget of \(budgetBytes) bytes is used up by changes that are not replicated")
        }
        return Starvation(cause: .notMerged, description: "the log budget of \(budgetBytes) bytes is used up: \(destageObstacle ?? "destage is behind")")
    }

    // MARK: - destage's side

    /// Waits until a sealed segment is there to destage, at most `milliseconds`.
    package func waitForSealedSegment(milliseconds: Int) {
        monitor.lock()
        defer { monitor.unlock() }
        guard !isStopping, !live.contains(where: { $0.phase == .sealed && $0.currentIndex > destagedSegment }) else { return }
        monitor.wait(for: chores, milliseconds: milliseconds)
    }

    /// What destage's pace depends on: sealed bytes that the image does not hold, and whether a write waits for them.
    package var destageSpace: (pendingBytes: UInt64, isAwaited: Bool) {
        monitor.lock()
        defer { monitor.unlock() }
        var count: UInt64 = 0
        for segment in live.reversed() {
            if segment.currentIndex <= destagedSegment { break }
            if segment.phase == .sealed { count += 1 }
        }
        return (count * UInt64(geometry.segmentBytes), roomWaiterCount > 0 || isStarved || spaceError != nil || isReserveLent || isStopping)
    }

    /// All bytes that ever got a place in this log, roughly: grows with the guest's writes.
    package var reservedBytes: UInt64 {
        monitor.lock()
        defer { monitor.unlock() }
        guard let active else { return nextIndex &* UInt64(geometry.segmentBytes) }
        return (nextIndex &- 1) &* UInt64(geometry.segmentBytes) &+ UInt64(active.nextPage * blockBytes)
    }

    /// Waits until anything about the log's space changed, at most `milliseconds`.
    package func waitForChore(milliseconds: Int) {
        monitor.lock()
        if !isStopping { monitor.wait(for: chores, milliseconds: milliseconds) }
        monitor.unlock()
    }

    /// Wakes whoever waits for a sealed segment.
    package func wakeDestage() {
        monitor.lock()
        chores.wakeAll()
        monitor.unlock()
    }

    /// Runs `body` while no record has a place that is not complete, hence no map entry is about to be inserted; false
    /// (and nothing done) when some record is in flight. Keep it short: it holds up appends.
    package func whileNothingIsInFlight(_ body: () -> Void) -> Bool {
        monitor.lock()
        defer { monitor.unlock() }
        guard inFlight.isEmpty else { return false }
        body()
        return true
    }

    /// Closes the active segment and waits until it is sealed: everything reserved before the call can be destaged.
    package func sealAll() throws(SystemError) {
        monitor.lock()
        defer { monitor.unlock() }
        let last = nextIndex
        if let active, active.nextSlot > 0 { closeActive() }
        while live.contains(where: { $0.phase == .closing && $0.currentIndex < last }) {
            if let failure { throw SystemError(errno: EIO, operation: "seal: \(failure)", path: folder.path) }
            if isStopping { throw SystemError(errno: ESHUTDOWN, operation: "seal", path: folder.path) }
            sleep()
        }
    }

    /// Sealed segments above the destaged ones, oldest first, at most `limit`.
    package func sealedSegments(limit: Int) -> [SealedSegment] {
        monitor.lock()
        defer { monitor.unlock() }
        return live.filter { $0.phase == .sealed && $0.currentIndex > destagedSegment }.prefix(limit).map {
            SealedSegment(segment: $0, index: $0.currentIndex, recordCount: $0.nextSlot, lastSequence: $0.lastSequence)
        }
    }

    /// The newest sealed segment; 0 when there is none.
    package var lastSealedIndex: UInt64 {
        monitor.lock()
        defer { monitor.unlock() }
        return live.last { $0.phase == .sealed }?.currentIndex ?? 0
    }

    /// The image holds all up to `segment`, durably: note it durably. Call before map entries are cleared.
    package func noteDestaged(_ segment: SealedSegment) throws(SystemError) {
        try updateState {
            $0.destagedSegment = segment.index
            $0.destagedSequence = segment.lastSequence
        }
    }

    /// The map names none of the segments up to `segment` any more: they may be recycled.
    package func releaseDestaged(_ segment: SealedSegment) {
        monitor.lock()
        destagedSegment = max(destagedSegment, segment.index)
        spaceError = nil
        isReserveLent = false
        wakeEveryone()
        monitor.unlock()
    }

    package func setDestageObstacle(_ reason: String?) {
        monitor.lock()
        if destageObstacle != reason {
            destageObstacle = reason
            wakeEveryone()
        }
        monitor.unlock()
    }
}
