// Destage: merges sealed (hence durable) segments into the image, in batches. Order within a batch, which makes a crash at
// any step harmless: image writes, log flush, image flush, durable note in the log's state, map cleared, segments released.
// A block is written only while its newest data lies in the batch; what is newer goes with a later batch.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Synchronization

extension VirtualDisk {
    private static let batchBytesMax = 128 << 20
    private static let waitMilliseconds = 1000
    private static let retryMilliseconds = 2000
    private static let restMilliseconds = 100

    func startDestage() throws(SystemError) {
        // Before the thread has run: a write that meets a full log must know whether it may wait.
        log.setDestageObstacle(destage.frozenSequence.map { "the image is frozen at sequence \($0)" })
        let thread = try OwnThread(name: "destage") { [self] in runDestage() }
        destage.thread.withLock { $0 = thread }
    }

    func stopDestage() {
        destage.isStopping.store(true, ordering: .releasing)
        destage.hurried.add(1, ordering: .relaxed)
        log.wakeDestage()
        let thread = destage.thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        thread?.join()
    }

    private func runDestage() {
        var pace = newPace
        while !destage.isStopping.load(ordering: .acquiring) {
            if destage.frozenSequence != nil {
                usleep(200_000)
                continue
            }
            let load = destageLoad
            pace.note(load, now: Clock.monotonicNanoseconds())
            guard pace.mayBegin(load) else {
                log.waitForChore(milliseconds: Self.restMilliseconds)
                continue
            }
            do {
                let hasWork = try destage.turn.withLock { _ in
                    let hasWork = try destageBatch(&pace)
                    if destage.frozenSequence == nil { noteDestage(nil) }
                    return hasWork
                }
                if !hasWork { log.waitForSealedSegment(milliseconds: Self.waitMilliseconds) }
            } catch {
                if destage.isStopping.load(ordering: .acquiring) { return }
                if takeReserve(after: error) { continue }
                noteDestage(DiskError(error))
                log.waitForChore(milliseconds: Self.retryMilliseconds)
            }
        }
    }

    /// True when destage met a full filesystem and the log's reserve makes another try worthwhile.
    private func takeReserve(after error: any Error) -> Bool {
        guard case .system(let error) = DiskError(error), error.errno == ENOSPC || error.errno == EDQUOT else { return false }
        destage.state.withLock { $0.isTight = true }
        return log.releaseReserve()
    }

    private func noteDestage(_ error: DiskError?) {
        destage.state.withLock { $0.error = error }
        log.setDestageObstacle(error.map { "destage fails: \($0)" })
    }

    var destageLoad: DestagePace.Load {
        let space = log.destageSpace
        return DestagePace.Load(
            pendingBytes: space.pendingBytes, budgetBytes: log.budgetBytes, trafficBytes: trafficBytes,
            isAwaited: space.isAwaited || destage.hurried.load(ordering: .relaxed) > 0)
    }

    var newPace: DestagePace { DestagePace(trafficBytes: trafficBytes, now: Clock.monotonicNanoseconds()) }

    private var trafficBytes: UInt64 { log.reservedBytes &+ imageReadBytes.load(ordering: .relaxed) }

    /// Everything sealed is in the image when this returns, unless the image is frozen. The caller has the turn.
    func destageSealed() throws {
        var pace = newPace
        while try destageBatch(&pace) {}
    }

    /// One batch; false when there was nothing to do. The caller has the turn.
    func destageBatch(_ pace: inout DestagePace) throws -> Bool {
        guard destage.frozenSequence == nil else { return false }
        let isTight = destage.state.withLock { state in
            if state.isTight { state.isTight = log.isReserveOut }
            return state.isTight
        }
        let limit = isTight ? 1 : max(1, Self.batchBytesMax / log.geometry.segmentBytes)
        let segments = log.sealedSegments(limit: limit)
        guard let last = segments.last else { return false }
        let batch = DestageBatch(disk: self, segments: segments)
        try batch.writeNewest(&pace)
        // A block was left out because newer data exists: that data must be durable before the older copy is given up,
        // or a power loss could cut the newer and find neither.
        try log.flush()
        try finish(batch, last)
        return true
    }

    /// All sealed segments, every record in order, whether newer data exists or not: the image is then exactly the disk at
    /// the last sequence of the batch. The caller has the turn. Returns that sequence.
    func destageExactly() throws -> UInt64 {
        let segments = log.sealedSegments(limit: .max)
        guard let last = segments.last else { return log.currentState.destagedSequence }
        let batch = DestageBatch(disk: self, segments: segments)
        try batch.writeEveryRecord()
        try finish(batch, last)
        return last.lastSequence
    }

    private func flushImage() throws(SystemError) {
        do throws(SystemError) { try image.flush() } catch {
            destage.state.withLock { $0.imageFailure = error }
            throw error
        }
        destage.state.withLock { $0.imageFailure = nil }
    }

    private func finish(_ batch: DestageBatch, _ last: SealedSegment) throws {
        try flushImage()
        try log.noteDestaged(last)
        clearGeneration.add(1, ordering: .sequentiallyConsistent)
        try batch.clearMap()
        log.releaseDestaged(last)
    }
}
