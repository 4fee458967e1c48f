// Growing the disk of a log. The size holds from a sequence on, which `log.state` keeps (docs/formats/change-log.md, "Growing").
// Begun while the log is open, ended by its next opening: only then does the owner take records of the larger disk.

package import BlockIO
import Glibc

extension ChangeLog {
    /// Notes durably that the image may have `diskBytes` from now on; the caller then grows it. nil: it did not grow after all.
    package func noteGrowing(to diskBytes: UInt64?) throws(SystemError) { try updateState { $0.growingBytes = diskBytes } }

    /// Makes a first point of the new size, where nothing followed the last growth: what is replicated carries the size.
    package func markGrowth() throws(SystemError) {
        guard let growth = currentState.growths.last, growth.through == status.lastSequence else { return }
        _ = try ChangeLog.cutPoint([self], tag: "grown")
    }
}

extension LogFolder {
    /// Notes durably what is known of the image before it grows, or after: nil of `cleanStop` is what a kill leaves, nil of `growing` ends
    /// the growth. On a full filesystem the reserve makes way, as it does for destage.
    package func noteGrowth(_ growing: UInt64?, cleanStop: LogState.CleanStop?, holding lock: borrowing OwnerLock) throws(LogError) {
        var state = try readState()
        (state.growingBytes, state.cleanStop) = (growing, cleanStop)
        do throws(SystemError) {
            do throws(SystemError) { try state.store(stateFile) } catch where error.errno == ENOSPC || error.errno == EDQUOT {
                guard unlink(reserveFile) == 0 else { throw error }
                try state.store(stateFile)
            }
        } catch { throw .system(error) }
    }
}
