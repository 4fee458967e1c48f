// Freezing the image at a sequence, for initial replication: the uploader reads the image as the disk at that sequence
// while the guest writes on into the log. The freeze is a durable file, so it survives restarts of anybody. And
// merging: everything into the image, to end protection.

import BlockIO
import ChangeLog
import Glibc
import Synchronization

extension VirtualDisk {
    /// The sequence the image is frozen at.
    package var frozenSequence: UInt64? { destage.frozenSequence }

    /// Makes the image exactly the disk at a sequence, and keeps it so until `unfreeze`. Returns the sequence; when the image
    /// is frozen already, that one.
    package func freeze() throws(DiskError) -> UInt64 {
        do {
            return try destage.withTurnNow {
                if let frozen = destage.frozenSequence { return frozen }
                // Most of the backlog the fast way, then all that is left record by record: a block the guest has changed
                // again since must also be as it was.
                var pace = newPace
                while log.sealedSegments(limit: 5).count > 4, try destageBatch(&pace) {}
                try log.sealAll()
                let sequence = try destageExactly()
                try log.folder.storeFreeze(sequence: sequence)
                destage.state.withLock { $0.frozenSequence = sequence }
                log.setDestageObstacle("the image is frozen at sequence \(sequence)")
                return sequence
            }
        } catch { throw DiskError(error) }
    }

    package func unfreeze() throws(DiskError) {
        do {
            try destage.withTurnNow {
                try DurableFile.remove(log.folder.freezeFile)
                destage.state.withLock { $0.frozenSequence = nil }
                log.setDestageObstacle(nil)
            }
        } catch { throw DiskError(error) }
    }

    /// Everything acknowledged before the call is in the image, durably, unless it is frozen.
    package func mergeAll() throws(DiskError) {
        do {
            try destage.withTurnNow {
                try log.sealAll()
                try destageSealed()
            }
        } catch { throw DiskError(error) }
    }

    /// Ends protection: the image is made complete and the log's folder removed. The caller has ended all requests before.
    package func mergeAndRemoveLog() throws(DiskError) {
        try unfreeze()
        try mergeAll()
        try close()
        do {
            // The state goes last: until then a repetition finds a log that is empty and merged.
            let folder = log.folder.path
            let names = try Directory.list(folder).filter { $0 != "log.state" && $0 != "owner.lock" }
            for path in log.liveFiles + (names + ["log.state", "owner.lock"]).map({ folder + "/" + $0 }) {
                guard unlink(path) == 0 || errno == ENOENT else { throw SystemError(errno: errno, operation: "remove", path: path) }
            }
            guard rmdir(folder) == 0 || errno == ENOTEMPTY else { throw SystemError(errno: errno, operation: "remove", path: folder) }
        } catch { throw DiskError(error) }
    }
}
