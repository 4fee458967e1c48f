// The change log of one disk: appends records to the active segment, makes them durable, seals and recycles segments.
// Invariants (design of the log: docs/formats/change-log.md):
//  - position order is sequence order: the sequence is taken under the monitor together with slot and pages;
//  - segments are sealed in index order, each after its data is durable;
//  - a record is complete only after its map entry is inserted, so a sealed segment has no late inserts;
//  - a segment is recycled only when it is in the image, at every target, and no reader has it pinned;
//  - a merged segment is whole and durable before what it replaces is wiped (Merging.swift).
// Called by VirtualDisk (many threads at once), and by whoever holds the owner's lock.

package import BlockIO
import Synchronization

package final class ChangeLog: @unchecked Sendable {
    // Sendable: every `var` below is guarded by `monitor`.

    /// How an owner opens its log.
    package struct Options: Sendable {
        /// The kernel's boot id; another one than at the last activation means that the page cache was lost.
        package var bootID: String
        /// What the image's parents are; see `LogState.parentsStamp`.
        package var parentsStamp: UInt64?
        /// Told of each segment file that was synced. For campaigns that simulate power loss.
        package var didSync: (@Sendable (String) -> Void)?
        /// On a full log writes wait as long as objects with more were verified in the vault within this time.
        package var catchingUpSeconds: UInt64
        /// A log that got no record for so long is sealed, so that destage makes the image current.
        package var idleSealNanoseconds: UInt64 = 30_000_000_000
        /// Told when an append begins (true) and ends to wait for room. Called under the log's lock: it must not wait.
        package var roomWait: (@Sendable (Bool) -> Void)?

        package init(bootID: String, didSync: (@Sendable (String) -> Void)? = nil, catchingUpSeconds: UInt64 = 30) {
            self.bootID = bootID
            self.didSync = didSync
            self.catchingUpSeconds = catchingUpSeconds
        }
    }

    package let folder: LogFolder
    package let diskID: LogID
    /// The history written now; fixed while the log is open.
    package let lineage: LogID
    package let geometry: SegmentGeometry
    package let budgetBytes: UInt64
    let sequencer: Sequencer
    let options: Options
    private var ownerLock: OwnerLock?
    let segmentCountMax: Int
    /// One of these is left to merging (Merging.swift).
    let keepsForMerging: Bool
    /// Bounds the directory of segments (16 bytes each), whatever budget is asked for: 32 TiB of default segments.
    private static let segmentCountLimit: UInt64 = 1 << 20

    let monitor = Monitor()
    /// For guests' threads: records completed, room made, flushes ended.
    let progress = Signal()
    /// For the housekeeper and destage.
    let chores = Signal()
    /// Threads waiting for `progress`; the hot path wakes nobody when it is 0.
    var sleeperCount = 0
    /// Segments with records, oldest first; the active one is the last.
    var live: [Segment] = []
    var active: Segment?
    /// Ready to become active: new ones, and old ones whose wipe is durable.
    var spares: [Segment] = []
    /// Out of use, still to be wiped.
    var retired: [Segment] = []
    var nextIndex: UInt64 = 1
    var nextNumber = 0
    /// Slots reserved in the segment before the next one.
    var previousSlotCount: UInt32 = 0
    var lastReserved: UInt64 = 0
    /// Set before any other thread knows the log.
    var unsealedAtOpening = UnsealedRecords()
    var lastAtOpening: UInt64 = 0
    /// Set before any other thread knows the log.
    var unproven = UnprovenRecords()
    /// All records of this log up to here are durable.
    var durableThrough: UInt64 = 0
    var inFlight: [UInt64] = []
    /// Ranges of blocks whose edges a partial write is completing; reservations that touch them wait.
    var partialRanges: [ClosedRange<UInt64>] = []
    /// Set once a sync or a repair failed: no append or flush succeeds until the log is opened again.
    var failure: SystemError?
    /// The failure was one of a sync, and is noted in the folder.
    var hasFailedSync = false
    /// Places that hold neither a record nor a void, since that could not be written.
    var unrepaired: [UInt64] = []
    /// The sequence a running flush makes durable, nil when none runs.
    var flushTarget: UInt64?
    /// The segments whose `isDirty` is set.
    var dirty: [Segment] = []
    /// What the running flush syncs.
    var syncing: [Segment] = []
    var flushCount: UInt64 = 0
    /// `flushCount` when the last two segments were activated: tells whether the guest asks for durability often.
    var flushCountAtActivation: UInt64 = 0
    var flushesInLastSegment: UInt64 = 0
    var destagedSegment: UInt64
    /// Why destage cannot be waited for (frozen, failing, not running), or nil while it makes progress.
    var destageObstacle: String?
    var replicatedThrough: UInt64 = 0
    /// What the target has beyond that, not listed yet.
    var sentThrough: UInt64 = 0
    /// What the target that is furthest has.
    var furthestThrough: UInt64 = 0
    /// When the housekeeper last saw one of them rise, by the monotonic clock; 0 while it has not since the log was opened.
    var replicatedAtNanoseconds: UInt64 = 0
    /// Since when half of the budget or more waits for a target, by the monotonic clock; 0 while it does not.
    var pressedAtNanoseconds: UInt64 = 0
    /// Why the last spare segment could not be had.
    var spaceError: SystemError?
    /// When it is tried again, by the monotonic clock.
    var spaceRetryNanoseconds: UInt64 = 0
    /// Room for destage is set aside (see `SpaceReserve`).
    var hasReserve = false
    /// Destage is using the room: not to be taken back before it has merged something.
    var isReserveLent = false
    var isPreparing = false
    /// Threads that wait for a segment.
    var roomWaiterCount = 0
    var isStarved = false
    /// Why the last append failed; nil once one succeeded again.
    var appendFailure: SystemError?
    /// Appends refused for want of room since the log was opened.
    var refusedAppends: UInt64 = 0
    /// The last sequence when the housekeeper looked, and since when it is that.
    var idleSequence: UInt64 = 0
    var idleSince: UInt64 = 0
    var isStopping = false
    var merging = Merging()
    /// The highest sequence up to which merged segments have left records out.
    var mergedReach: UInt64 = 0

    /// Held while the state is replaced on disk; whoever asks what it is does not wait for that.
    let stateLock = Mutex<Void>(())
    /// Held while the note of a failed sync is made and written, so that the newest one stays. Taken before `monitor`.
    let noteLock = Mutex<Void>(())
    private let state: Mutex<LogState>
    private var housekeeper: OwnThread?
    package let directory: SegmentDirectory

    init(
        folder: LogFolder, lock: consuming OwnerLock, state: LogState, geometry: SegmentGeometry, sequencer: Sequencer,
        options: Options, segments: [Segment]
    ) {
        self.folder = folder
        ownerLock = consume lock
        self.state = Mutex(state)
        diskID = state.diskID
        lineage = state.lineage
        self.geometry = geometry
        budgetBytes = state.budgetBytes
        self.sequencer = sequencer
        self.options = options
        let affordable = min(state.budgetBytes / UInt64(geometry.segmentBytes), Self.segmentCountLimit)
        segmentCountMax = max(Int(affordable), segments.count, 3)
        keepsForMerging = !state.targets.isEmpty
        destagedSegment = state.destagedSegment
        destageObstacle = "destage is not running"
        directory = SegmentDirectory(capacity: segmentCountMax)
        nextNumber = (segments.map(\.number).max() ?? -1) + 1
        inFlight.reserveCapacity(256)
        dirty.reserveCapacity(64)
        syncing.reserveCapacity(64)
        partialRanges.reserveCapacity(64)
    }

    /// Makes an empty log in `folder`, for a disk whose image holds everything up to `startSequence`. `lineages`: the histories that the
    /// new one goes on from, oldest first, and it; nil: it is the first. `replacing`: the state of a log there that nobody ever opened, which is
    /// made anew; any other one is `alreadyALog`.
    package static func create(
        _ folder: LogFolder, diskID: LogID, diskBytes: UInt64, targets: [String], segmentBytes: Int = SegmentGeometry.segmentBytesDefault,
        budgetBytes: UInt64, startSequence: UInt64 = 0, lineages: [LogState.Lineage]? = nil, replacing unopened: LogState? = nil
    ) throws(LogError) {
        guard SegmentGeometry(segmentBytes: segmentBytes) != nil else {
            throw .invalidSetting("a segment cannot have \(segmentBytes) bytes")
        }
        guard budgetBytes / 3 >= UInt64(segmentBytes) else {
            throw .invalidSetting("a log budget of \(budgetBytes) bytes is less than three segments of \(segmentBytes)")
        }
        for target in targets where !LogFolder.isValidTarget(target) { throw .invalidSetting("'\(target)' cannot name a target") }
        try asLogError { () throws(SystemError) in try Directory.create(folder.path, mode: 0o700) }
        let lock = try OwnerLock.acquire(folder)
        let names = try asLogError { () throws(SystemError) in try Directory.list(folder.path) }
        let hasSegments = names.contains { LogFolder.segmentNumber($0) != nil }
        var isTaken = hasSegments || names.contains("log.state")
        // Looked at under the lock: whoever opened it meanwhile may have writes in it.
        if let unopened, isTaken, !hasSegments { isTaken = try folder.readState() != unopened || !unopened.bootID.isEmpty }
        guard !isTaken else { throw .alreadyALog(folder: folder.path) }
        let state = LogState(
            diskID: diskID, diskBytes: diskBytes, segmentBytes: segmentBytes, budgetBytes: budgetBytes,
            lineages: lineages ?? [LogState.Lineage(id: .random(), branchSequence: 0)], targets: targets, destagedSegment: 0,
            destagedSequence: startSequence, bootID: "", cleanStop: nil)
        try asLogError { () throws(SystemError) in
            try state.store(folder.stateFile)
            try Directory.sync(Directory.parent(of: folder.path) ?? ".")
        }
        _ = consume lock
    }

    /// The state as it is on disk.
    package var currentState: LogState { state.withLock { $0 } }

    /// Changes the state durably.
    func updateState(_ change: (inout LogState) -> Void) throws(SystemError) {
        try stateLock.withLock { (_) throws(SystemError) in
            let found = currentState
            var changed = found
            change(&changed)
            if changed == found { return }
            try changed.store(folder.stateFile)
            state.withLock { $0 = changed }
        }
    }

    func startHousekeeping() throws(SystemError) {
        housekeeper = try OwnThread(name: "log-housekeeper") { [self] in keepHouse() }
    }

    private func stop() {
        monitor.lock()
        isStopping = true
        wakeEveryone()
        monitor.unlock()
        housekeeper?.join()
        housekeeper = nil
        endMerging()
        ownerLock = nil
    }

    /// Ends a clean run: all is durable, and the image is remembered as it is. Nothing may be in flight.
    package func close(cleanStop: LogState.CleanStop?) throws(SystemError) {
        defer { stop() }
        try flush()
        try updateState { $0.cleanStop = cleanStop }
    }

    /// Lets go of the log without a flush: what a kill leaves. The next open finds everything acknowledged.
    package func abandon() { stop() }

    /// The monitor is held.
    func noteDirty(_ segment: Segment) {
        guard !segment.isDirty else { return }
        segment.isDirty = true
        dirty.append(segment)
    }

    func sync(_ segment: Segment) throws(SystemError) {
        do throws(SystemError) {
            try proveAndSync(segment)
        } catch {
            noteFailedSync(error)
            throw error
        }
    }

    func proveAndSync(_ segment: Segment) throws(SystemError) {
        try unproven.prove(segment)
        try segment.syncData()
        options.didSync?(segment.file.path)
    }

    /// The names of new segment files become durable.
    func syncFolder() throws(SystemError) {
        do throws(SystemError) { try Directory.sync(folder.path) } catch {
            noteFailedSync(error)
            throw error
        }
    }

    /// Waits for `progress`; the monitor is held. The count tells the hot path whether anybody has to be woken.
    func sleep() {
        sleeperCount += 1
        monitor.wait(for: progress)
        sleeperCount -= 1
    }

    /// Something other than a record changed; the monitor is held.
    func wakeEveryone() {
        progress.wakeAll()
        chores.wakeAll()
    }
}
