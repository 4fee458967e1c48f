// Opening a log as its owner: recovery, then the state that says this boot is now writing it, then the housekeeper.

import BlockIO

extension ChangeLog {
    /// Opens the log and replays to `replay` every record that changes the disk and that the image does not hold yet, in order,
    /// with its segment's index.
    package static func open(
        _ folder: LogFolder, lock: consuming OwnerLock, sequencer: Sequencer, options: Options,
        replay: @escaping (RecordBlocks, UInt64) -> Void
    ) throws(LogError) -> (log: ChangeLog, lastStop: LastStop) {
        try folder.refuseDuringFailback()
        var state = try folder.readState()
        guard let geometry = SegmentGeometry(segmentBytes: state.segmentBytes) else {
            throw .invalidFile(path: folder.stateFile, reason: "a segment cannot have \(state.segmentBytes) bytes")
        }
        var scan = try SegmentScan(folder, state, geometry)
        try scan.wipeLeftovers(through: state.destagedSegment, replicated: folder.replicatedThrough(state))
        let sync = { (segment: Segment) throws(SystemError) in
            try folder.sync(segment)
            options.didSync?(segment.file.path)
        }
        var recovery = Recovery(state, geometry, spares: scan.spares, sync: sync, replay: replay)
        var hasFailedSync = folder.hasFailedSync
        let found = state
        var lastStop = LastStop.never
        if let cleanStop = state.cleanStop { lastStop = .clean(cleanStop) } else if !state.bootID.isEmpty { lastStop = .killed }
        let place = try asLogError { () throws(SystemError) in try FilesystemPlace.of(folder: folder.path) }
        var isPageCacheLost = state.bootID != options.bootID
        if lastStop == .killed, !isPageCacheLost, let then = state.place {
            isPageCacheLost = try recovery.hasLostPageCache(scan.live, place.relation(to: then), hasFailedSync: hasFailedSync)
        }
        if lastStop == .killed, isPageCacheLost {
            try recovery.cutAfterPowerLoss(scan.live)
            // What it says is of the log before the cut.
            if hasFailedSync { try asLogError { () throws(SystemError) in try DurableFile.remove(folder.failedSyncFile) } }
            hasFailedSync = false
            lastStop = .powerLost(lastSequence: recovery.lastSequence)
            state.lineages.append(LogState.Lineage(id: .random(), branchSequence: recovery.lastSequence))
        } else {
            if hasFailedSync { try recovery.checkAfterFailedSync(scan.live, folder.readFailedSync(), folder: folder) }
            try recovery.keepAll(scan.live, byFooters: lastStop == .killed && !hasFailedSync)
        }
        state.bootID = options.bootID
        state.place = place
        state.parentsStamp = options.parentsStamp
        state.cleanStop = nil
        state.endGrowth(after: recovery.lastSequence)
        try asLogError { () throws(SystemError) in
            // After a kill nothing changed: its successor waits for the folder's sync only.
            if state != found { try state.store(folder.stateFile) }
            // What a killed owner renamed or removed may not be durable; all that follows builds upon it.
            if state == found { try Directory.sync(folder.path) }
            try sequencer.raise(above: recovery.lastSequence)
        }
        let log = ChangeLog(
            folder: folder, lock: lock, state: state, geometry: geometry, sequencer: sequencer, options: options,
            segments: recovery.kept + recovery.spares)
        log.adopt(recovery, isUnproven: lastStop == .killed || hasFailedSync)
        if hasFailedSync { log.endFailedSync() }
        // Whether a target catches up is not known yet: writes that waited for it go on waiting.
        if lastStop == .killed { log.replicatedAtNanoseconds = Clock.monotonicNanoseconds() }
        try asLogError { () throws(SystemError) in try log.startHousekeeping() }
        return (log, lastStop)
    }

    /// Before any other thread knows the log.
    private func adopt(_ recovery: borrowing Recovery, isUnproven: Bool) {
        live = recovery.kept
        // What is not known to be durable: the next flush syncs it.
        dirty = live.filter(\.isDirty)
        if isUnproven { unproven = UnprovenRecords(after: recovery.flushedSequence, segments: dirty) }
        // A killed owner may have wiped one and not synced it: its old header must not come back after it is used again.
        // The housekeeper wipes and syncs each before it becomes a spare.
        retired = recovery.spares
        // The others are in no map, and with merged segments among them their indexes may be farther apart than the directory is long.
        for segment in live where segment.currentIndex > destagedSegment { directory.enter(segment, index: segment.currentIndex) }
        mergedReach = live.compactMap { $0.header?.merge?.through }.max() ?? 0
        active = live.last.flatMap { $0.phase == .active ? $0 : nil }
        nextIndex = (live.last?.currentIndex ?? destagedSegment) + 1
        previousSlotCount = live.last?.slotCountToFollow ?? 0
        lastReserved = recovery.lastSequence
        unsealedAtOpening = recovery.unsealed
        lastAtOpening = recovery.lastSequence
        durableThrough = recovery.flushedSequence
        replicatedThrough = folder.replicatedThrough(currentState)
        sentThrough = folder.sentThrough(currentState)
        furthestThrough = folder.furthestThrough(currentState)
    }
}
