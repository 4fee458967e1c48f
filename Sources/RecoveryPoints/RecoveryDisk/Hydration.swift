// Fills the image of a recovery disk from its point, on a thread of its own, until it stands alone. Goes over the point from its
// beginning, and over it again where something could not be read; what is present is passed over, so a restart goes on. Guests come first.

package import BlockIO
import Glibc
import Synchronization

package final class Hydration: @unchecked Sendable {
    // Sendable: `isStopping` and `state` are guarded, `unflushedBytes` and `lost` are the thread's, `thread` is set once before the object is handed out.
    package struct Status: Equatable, Sendable {
        /// Data of the point; nil until it was counted.
        package var totalBytes: UInt64?
        /// Of it, what is in the image for sure.
        package var doneBytes: UInt64 = 0
        /// What keeps it from going on.
        package var problem: String?
    }

    /// Where it reads and writes, and what a test makes shorter.
    package struct Plan: Sendable {
        package let basePath: String
        package let presencePath: String
        /// Returns when so many bytes may be fetched, or when `isOver` says so.
        package let pace: @Sendable (_ bytes: Int, _ isOver: () -> Bool) -> Void
        /// Called once, when the image stands alone.
        package let ended: @Sendable () -> Void
        package var retryMilliseconds = 5_000
        /// Before what cannot be read is tried again.
        package var againMilliseconds = 600_000

        package init(
            basePath: String, presencePath: String, pace: @escaping @Sendable (_ bytes: Int, _ isOver: () -> Bool) -> Void = { _, _ in },
            ended: @escaping @Sendable () -> Void = {}
        ) {
            self.basePath = basePath
            self.presencePath = presencePath
            self.pace = pace
            self.ended = ended
        }
    }

    private struct Stopped: Error {}

    private static let stepBytes = 1 << 20
    private static let flushBytes = 64 << 20
    private static let yieldMilliseconds = 10
    /// A guest whose reads never end does not hold the filling up for ever.
    private static let yieldsMax = 100

    private let image: RecoveryImage
    private let plan: Plan
    private let buffer = AlignedBuffer(count: stepBytes)
    private let monitor = Monitor()
    private let stopping = Signal()
    private var isStopping = false
    private var unflushedBytes = 0
    /// What the vault does not have that it should have, in this turn.
    private var lost: String?
    private let state = Mutex(Status())
    private var thread: OwnThread?

    /// Begins at once.
    package init(_ image: RecoveryImage, _ plan: Plan) throws(SystemError) {
        self.image = image
        self.plan = plan
        thread = try OwnThread(name: "hydration") { [self] in run() }
    }

    package var status: Status { state.withLock { $0 } }

    /// The image is left alone when this returns; the thread may still wait for an answer of the vault.
    package func stop() {
        monitor.lock()
        isStopping = true
        stopping.wakeAll()
        monitor.unlock()
        image.seal()
    }

    /// Waits until the thread has ended.
    package func join() { thread?.join() }

    private func run() {
        do {
            try count()
            while try !fill() { try pause(plan.againMilliseconds) }
            while true {
                do throws(SystemError) {
                    guard try image.standAlone(basePath: plan.basePath, presencePath: plan.presencePath) else { return }
                    break
                } catch { note("what was filled in cannot be made durable: \(error)") }
                try pause(plan.retryMilliseconds)
            }
            note(nil)
            plan.ended()
        } catch {
            // Stopped.
        }
    }

    // MARK: The point

    private func count() throws(Stopped) {
        var total: UInt64 = 0
        try forEachExtent { (_, data) in total += UInt64(data.count) }
        state.withLock { $0.totalBytes = total }
    }

    /// False when a part could not be had.
    private func fill() throws(Stopped) -> Bool {
        var isWhole = true
        lost = nil
        state.withLock { $0.doneBytes = 0 }
        try forEachExtent { (hole, data) throws(Stopped) in
            if !hole.isEmpty { try untilDone { () throws(SystemError) in try self.image.clear(self.blocks(hole)) } }
            if try !fill(data) { isWhole = false }
        }
        return isWhole
    }

    /// Each part of the point that has data, with the hole before it; at the end the hole behind the last with no data.
    private func forEachExtent(_ body: (_ hole: Range<UInt64>, _ data: Range<UInt64>) throws(Stopped) -> Void) throws(Stopped) {
        let size = image.base.sizeBytes
        var position: UInt64 = 0
        while position < size {
            let start = try found(data: true, from: position, before: size) ?? size
            let end = start < size ? try found(data: false, from: start, before: size) ?? size : size
            try body(position..<start, start..<end)
            position = end
        }
    }

    private func found(data: Bool, from position: UInt64, before size: UInt64) throws(Stopped) -> UInt64? {
        while true {
            do {
                return try image.source.find(data: data, from: position, before: size)
            } catch {
                note(image.source.problem ?? "\(error)")
                try pause(plan.retryMilliseconds)
            }
        }
    }

    private func fill(_ extent: Range<UInt64>) throws(Stopped) -> Bool {
        var isWhole = true
        var position = extent.lowerBound
        while position < extent.upperBound {
            let end = min(position + UInt64(Self.stepBytes), extent.upperBound)
            for run in absentRuns(position..<end) where try !fetch(run) { isWhole = false }
            state.withLock { $0.doneBytes += end - position }
            position = end
        }
        return isWhole
    }

    private func absentRuns(_ range: Range<UInt64>) -> [Range<UInt64>] {
        var runs: [Range<UInt64>] = []
        var block = blocks(range).lowerBound
        let last = blocks(range).upperBound
        while block < last {
            let end = image.presence.runEnd(from: block, before: last)
            if !image.presence.isPresent(block) { runs.append(UInt64(block) * 4096..<min(UInt64(end) * 4096, range.upperBound)) }
            block = end
        }
        return runs
    }

    /// Extents begin at blocks and end at blocks, or with the disk.
    private func blocks(_ range: Range<UInt64>) -> Range<Int> { Int(range.lowerBound / 4096)..<Int((range.upperBound + 4095) / 4096) }

    /// False when the vault has not what it should have there.
    private func fetch(_ range: Range<UInt64>) throws(Stopped) -> Bool {
        let part = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<range.count])
        try yield()
        plan.pace(range.count) { self.isOver }
        while true {
            try checkStop()
            do {
                try image.source.fetch(into: part, at: range.lowerBound, readsAhead: true)
                break
            } catch {
                note(image.source.problem ?? "\(error)")
                guard image.source.isAway else {
                    lost = lost ?? status.problem
                    return false
                }
                try pause(plan.retryMilliseconds)
            }
        }
        try untilDone { () throws(SystemError) in
            try self.image.place(UnsafeRawBufferPointer(part), at: range.lowerBound)
        }
        unflushedBytes += part.count
        if unflushedBytes >= Self.flushBytes {
            try untilDone { () throws(SystemError) in try self.image.flushUnlessSealed() }
            unflushedBytes = 0
        }
        note(nil)
        return true
    }

    // MARK: Waiting

    /// What a guest waits for goes first.
    private func yield() throws(Stopped) {
        for _ in 0..<Self.yieldsMax where image.source.waiting > 0 { try pause(Self.yieldMilliseconds) }
    }

    /// A full filesystem is waited for.
    private func untilDone(_ body: () throws(SystemError) -> Void) throws(Stopped) {
        while true {
            do throws(SystemError) { return try body() } catch { note("what comes from the vault cannot be written to \(image.path): \(error)") }
            try pause(plan.retryMilliseconds)
        }
    }

    private func note(_ problem: String?) { state.withLock { $0.problem = problem ?? lost } }

    private var isOver: Bool {
        monitor.lock()
        defer { monitor.unlock() }
        return isStopping
    }

    private func checkStop() throws(Stopped) { if isOver { throw Stopped() } }

    private func pause(_ milliseconds: Int) throws(Stopped) {
        monitor.lock()
        defer { monitor.unlock() }
        // May end early: what is waited for is asked again.
        if !isStopping { monitor.wait(for: stopping, milliseconds: milliseconds) }
        if isStopping { throw Stopped() }
    }
}
