// The log's own thread: seals closed segments in order, recycles what is in the image and at the targets, prepares spare
// segments ahead of need (SpareSegments.swift), so that a guest's write meets none of this.

package import BlockIO
import Glibc

extension ChangeLog {
    private static let pollMilliseconds = 1000
    /// While guests' writes wait or are refused for want of room: they go on as soon as there is some.
    private static let fullPollMilliseconds = 100

    func keepHouse() {
        monitor.lock()
        while !isStopping {
            restockSpares()
            tendMerging()
            if let segment = segmentToSeal { seal(segment) }
            else if prepareSpare() || prepareForFlushes() {}
            else { idle() }
        }
        monitor.unlock()
    }

    private func idle() {
        monitor.unlock()
        // Numbers run out only if this fails for half a million appends; then the append reports the error.
        let reserved = Result { () throws(SystemError) in try sequencer.reserveAhead() }
        let (replicated, sent, furthest) = (folder.replicatedThrough(currentState), folder.sentThrough(currentState), folder.furthestThrough(currentState))
        monitor.lock()
        if case .failure(let error) = reserved, sequencer.isShort { noteSpaceError(error) }
        // Only a rise: what is sent again after a failure is no progress. Any target's: while one goes on there is an uploader that gives up those that fail.
        if sent > sentThrough || furthest > furthestThrough {
            (sentThrough, furthestThrough) = (max(sent, sentThrough), max(furthest, furthestThrough))
            replicatedAtNanoseconds = Clock.monotonicNanoseconds()
        }
        if replicated > replicatedThrough {
            replicatedThrough = replicated
            replicatedAtNanoseconds = Clock.monotonicNanoseconds()
            notePressure()
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

    func noteSpaceError(_ error: SystemError) {
        spaceError = error
        let wait = isStarved ? Self.fullPollMilliseconds : Self.pollMilliseconds
        spaceRetryNanoseconds = Clock.monotonicNanoseconds() + UInt64(wait) * 1_000_000
    }

    // MARK: - sealing

    /// The oldest closed segment, once all its records are complete: seals are written in index order.
    var segmentToSeal: Segment? {
        guard failure == nil, let first = live.first(where: { $0.phase != .sealed }), first.phase == .closing, first.inFlightCount == 0 else { return nil }
        return first
    }

    private func seal(_ segment: Segment) {
        var seal = SegmentSeal(recordCount: UInt32(segment.nextSlot), lastSequence: segment.lastSequence)
        let isNameDurable = segment.isNameDurable
        monitor.unlock()
        let result = Result { () throws(SystemError) in
            do throws(SystemError) {
                seal.footer = try segment.writeFooter(recordCount: Int(seal.recordCount))
            } catch {
                // It only saves time; of a page that was lost the sync tells.
            }
            try sync(segment)
            if !isNameDurable { try syncFolder() }
            try segment.writeSeal(seal) { (segment) throws(SystemError) in try sync(segment) }
        }
        monitor.lock()
        switch result {
        case .success:
            segment.isNameDurable = true
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

    /// With those that the housekeeper and the merging thread have in hand: each makes new ones.
    var fileCount: Int { live.count + spares.count + retired.count + merging.fileCount + (isPreparing ? 1 : 0) }

    var isOldestRecyclable: Bool {
        guard let oldest = live.first, oldest.phase == .sealed else { return false }
        return oldest.currentIndex <= destagedSegment && oldest.lastSequence <= replicatedThrough && !oldest.isBeingMerged
    }

    /// Whether a thread that needs a segment may wait for one. Waiting for destage, and for a target that is catching up, is
    /// back-pressure; waiting for a target that may be down for days is not: the guest gets ENOSPC.
    var isRoomComing: Bool {
        if isPreparing || isMergeComing { return true }
        if spaceError == nil, !retired.isEmpty || (fileCount < segmentCountForRecords && !isReserveLent) { return true }
        if isOldestRecyclable { return true }
        // Also when no new file can be had for want of disk space: destage frees an old one.
        guard let oldest = live.first, oldest.phase != .active else { return false }
        if oldest.currentIndex > destagedSegment, destageObstacle != nil { return false }
        return oldest.lastSequence <= replicatedThrough || isTargetRising || isTargetJustAsked
    }

    var isTargetRising: Bool { isWithinCatchingUp(since: replicatedAtNanoseconds) }

    /// One that has all that was to be sent, or waits for its interval, does not stand still: a burst that fills the log at once gives it as long
    /// as any other, from when the uploader is to hurry. One that has nothing of the disk yet gets its image first.
    private var isTargetJustAsked: Bool { replicatedThrough > 0 && isWithinCatchingUp(since: pressedAtNanoseconds) }

    private func isWithinCatchingUp(since nanoseconds: UInt64) -> Bool {
        nanoseconds > 0 && Clock.monotonicNanoseconds() < nanoseconds + options.catchingUpSeconds * 1_000_000_000
    }

    /// After each change of what waits for a target.
    func notePressure() {
        if unsentCount * 2 < segmentCountForRecords { pressedAtNanoseconds = 0 } else if pressedAtNanoseconds == 0 { pressedAtNanoseconds = Clock.monotonicNanoseconds() }
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
