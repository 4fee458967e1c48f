// Spare segments: made, wiped, and for a guest that flushes often written once, by the log's own thread.

import BlockIO
import Glibc
import Synchronization

extension ChangeLog {
    /// Spare segments kept ready: new files are made up to the first number, or the second while segments are being filled;
    /// old ones are wiped ahead up to the third.
    private static let idleSparesWanted = 2
    private static let busySparesWanted = 4
    private static let sparesWanted = 8
    /// A guest that flushes this often within a segment gains from segments whose blocks are written already.
    static let flushesThatPayForFilling: UInt64 = 64

    /// One whose blocks are all written is taken first: to append to it changes no metadata.
    func takeSpare() -> Segment? {
        guard !spares.isEmpty else { return nil }
        return spares.remove(at: spares.lastIndex(where: \.isWritten) ?? spares.count - 1)
    }

    /// Called before each seal, which waits for the disk while the guest fills what is ready. Bounded, so that seals have their
    /// turn however fast that is.
    func restockSpares() {
        guard segmentToSeal != nil else { return }
        for _ in 0..<Self.busySparesWanted where spares.count < Self.busySparesWanted {
            guard prepareSpare() else { return }
        }
    }

    /// Recycles the oldest segment or makes a new file; false when neither can be had now. The monitor is held.
    func prepareSpare() -> Bool {
        guard failure == nil else { return false }
        if !hasReserve, !isReserveLent, remakeReserve() { return true }
        guard isSpareWanted else { return false }
        let failedBefore = spaceError == nil ? retired.popLast() : nil
        if let segment = failedBefore ?? takeRecyclable() {
            prepare { () throws(SystemError) in try self.wipe(segment) } orKeep: { self.keepRetired(segment) }
            return true
        }
        // Not in the room that destage was lent.
        guard spaceError == nil, hasReserve else { return false }
        let number = nextNumber
        nextNumber += 1
        prepare { () throws(SystemError) in try self.makeSegmentFile(number) } orKeep: {}
        return true
    }

    /// `work` gives nil where the segment is no more.
    private func prepare(_ work: () throws(SystemError) -> Segment?, orKeep: () -> Void) {
        isPreparing = true
        monitor.unlock()
        let result = Result { () throws(SystemError) in try work() }
        monitor.lock()
        isPreparing = false
        switch result {
        case .success(nil): break
        case .success(let segment?):
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
        var left = segment
        let result = Result { () throws(SystemError) in
            if let segment { try removeFile(segment) }
            left = nil
            try makeReserve()
        }
        monitor.lock()
        isPreparing = false
        switch result {
        case .success: hasReserve = true
        case .failure(let error):
            noteSpaceError(error)
            if let left { keepRetired(left) }
        }
        wakeEveryone()
        // One that could not be removed is tried again when the housekeeper has rested.
        return left == nil
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

    /// Others first, when it is tried again.
    func keepRetired(_ segment: Segment) { retired.insert(segment, at: 0) }

    func wipe(_ segment: Segment) throws(SystemError) -> Segment? {
        if segment.isRemoved {
            // The folder's sync failed behind it.
            try removeFile(segment)
            return nil
        }
        try segment.wipe()
        guard try syncSpare(segment) else { return nil }
        segment.isWritten = segment.hasNoHole
        return segment
    }

    /// Of one that holds nothing nothing is lost, but no later sync could vouch for it: its file is removed, and another is made
    /// when it is needed. False then.
    private func syncSpare(_ segment: Segment) throws(SystemError) -> Bool {
        do throws(SystemError) { try segment.syncData() } catch {
            try removeFile(segment)
            return false
        }
        options.didSync?(segment.file.path)
        return true
    }

    /// Space reserved, so that appends cannot fail for want of it. No sync: the first one of the segment's data also makes its
    /// name durable (`Segment.isNameDurable`).
    func makeSegmentFile(_ number: Int) throws(SystemError) -> Segment {
        let path = folder.segmentFile(number)
        let file = try Descriptor.open(path, O_RDWR | O_CREAT | O_EXCL)
        do throws(SystemError) {
            // Not by its size first: a file of full size and without blocks would be taken for a spare one after a kill.
            try file.allocate(at: 0, length: UInt64(geometry.segmentBytes))
        } catch {
            unlink(path)
            throw error
        }
        let segment = Segment(number: number, file: file, geometry: geometry)
        segment.isNameDurable = false
        return segment
    }

    // MARK: - for a guest that flushes

    /// A flush of blocks that are written for the first time waits for the filesystem's metadata too, which halves the durable
    /// appends. So spares are filled with zeros, and a segment in use that has unwritten blocks is left as soon as there is a
    /// better one. A guest that never flushes would only pay twice for its writing. False when there is nothing to do.
    func prepareForFlushes() -> Bool {
        guard failure == nil, roomWaiterCount == 0, spares.count > 1, isGuestFlushing else { return false }
        if let active, !active.isWritten, active.nextSlot > 0, spares.contains(where: \.isWritten) {
            closeActive()
            return true
        }
        guard spaceError == nil, let place = spares.firstIndex(where: { !$0.isWritten }) else { return false }
        let segment = spares.remove(at: place)
        prepare { () throws(SystemError) in
            try fill(segment)
        } orKeep: { keepRetired(segment) }
        return true
    }

    private var isGuestFlushing: Bool {
        max(flushesInLastSegment, flushCount - flushCountAtActivation) >= Self.flushesThatPayForFilling
    }

    /// Gives up when a write waits for room.
    private func fill(_ segment: Segment) throws(SystemError) -> Segment? {
        let zeros = AlignedBuffer(count: min(geometry.segmentBytes, 1 << 20))
        for offset in stride(from: 0, to: geometry.segmentBytes, by: zeros.bytes.count) {
            if isRoomAwaited { return segment }
            let count = min(zeros.bytes.count, geometry.segmentBytes - offset)
            try segment.file.write(UnsafeRawBufferPointer(rebasing: zeros.bytes[..<count]), at: UInt64(offset))
        }
        guard try syncSpare(segment) else { return nil }
        try Directory.sync(folder.path)
        segment.isNameDurable = true
        segment.isWritten = true
        return segment
    }

    private var isRoomAwaited: Bool {
        monitor.lock()
        defer { monitor.unlock() }
        return roomWaiterCount > 0
    }

    var isSpareWanted: Bool {
        // With the merged segments go those behind them that hold lost points.
        if isOldestRecyclable, live.first?.header?.afterSequence ?? .max < mergedReach { return true }
        if !retired.isEmpty || isOldestRecyclable { return spares.count < Self.sparesWanted }
        return spares.count < (segmentToSeal == nil ? Self.idleSparesWanted : Self.busySparesWanted) && fileCount < segmentCountForRecords
    }
}
