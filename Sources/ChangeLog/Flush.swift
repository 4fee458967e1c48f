// Making records durable. One leader syncs for all who were covered when it began; the others wait for it.

package import BlockIO
import Glibc

extension ChangeLog {
    /// All records reserved before the call are durable on return.
    package func flush() throws(SystemError) {
        monitor.lock()
        defer { monitor.unlock() }
        let wanted = lastReserved
        while true {
            if let failure { throw SystemError(errno: EIO, operation: "flush: \(failure)", path: folder.path) }
            if durableThrough >= wanted { return }
            if flushTarget != nil { sleep() } else { lead() }
        }
    }

    /// The last record of this log: all up to it is durable.
    package func makeDurable() throws(SystemError) -> UInt64 {
        try flush()
        monitor.lock()
        defer { monitor.unlock() }
        return durableThrough
    }

    /// The monitor is held, and let go of during the syncs.
    private func lead() {
        let target = lastReserved
        flushTarget = target
        waitForInFlight(through: target)
        flushCount += 1
        if flushCount - flushCountAtActivation == Self.flushesThatPayForFilling, active?.isWritten == false { chores.wakeAll() }
        // Every segment with complete records that no sync has covered, not only the newest.
        swap(&dirty, &syncing)
        for segment in syncing { segment.isDirty = false }
        let hasNewName = syncing.contains { !$0.isNameDurable }
        monitor.unlock()
        var syncFailure: SystemError?
        do throws(SystemError) {
            // Only the leader touches the list meanwhile.
            for segment in syncing { try sync(segment) }
            if hasNewName { try syncFolder() }
        } catch { syncFailure = error }
        monitor.lock()
        flushTarget = nil
        if syncFailure == nil { for segment in syncing { segment.isNameDurable = true } }
        syncing.removeAll(keepingCapacity: true)
        if let syncFailure {
            // After a failed sync the kernel may have dropped the pages: nothing later can vouch for them.
            if failure == nil { failure = syncFailure }
            wakeEveryone()
        } else {
            durableThrough = max(durableThrough, target)
            // Not the housekeeper: a flush gives it nothing to do, and it would take the other core at each fsync.
            if sleeperCount > 0 { progress.wakeAll() }
        }
    }
}
