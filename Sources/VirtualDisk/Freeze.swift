// Freezing the image at a sequence, for initial replication: the uploader reads the image as the disk at that sequence
// while the guest writes on into the log. The freeze is a durable file, so it survives restarts of anybody. And
// merging: everything into the image, to end protection.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Synchronization

extension VirtualDisk {
    /// The sequence the image is frozen at.
    package var frozenSequence: UInt64? { destage.frozenSequence }

    /// Makes the image exactly the disk at a sequence, and keeps it so until `unfreeze`. Returns the sequence; when the image
    /// is frozen already, that one. Throws where the name of the image, or of a parent, stands for another file: who asks goes on to read by name.
    package func freeze() throws(DiskError) -> UInt64 {
        do {
            return try destage.withTurnNow {
                try requireImageInPlace()
                if let frozen = destage.frozenSequence { return frozen }
                guard log.currentState.growingBytes == nil else {
                    throw SystemError(errno: EBUSY, operation: "hold the image, which is growing", path: image.path)
                }
                // The backlog there is now the fast way, but no more: a guest that writes faster than destage would hold the
                // freeze up for ever. Then all that is left record by record: a block the guest has changed again since must
                // also be as it was.
                var pace = newPace
                let backlogEnd = log.lastSealedIndex
                while log.sealedSegments(limit: 5).count > 4, log.currentState.destagedSegment < backlogEnd, try destageBatch(&pace) {}
                try log.sealAll()
                let sequence = try destageExactly()
                // Before the file: when its sync fails it may be there, and an opening would take the image for frozen.
                destage.state.withLock { $0.frozenSequence = sequence }
                log.setDestageObstacle("the image is frozen at sequence \(sequence)")
                do { try log.folder.storeFreeze(sequence: sequence) } catch {
                    // Where it cannot be removed either the image stands still until `unfreeze` removes it.
                    try thaw()
                    throw error
                }
                return sequence
            }
        } catch { throw DiskError(error) }
    }

    package func unfreeze() throws(DiskError) {
        do {
            try destage.withTurnNow { try thaw() }
        } catch { throw DiskError(error) }
    }

    /// The caller has the turn.
    private func thaw() throws(SystemError) {
        try DurableFile.remove(log.folder.freezeFile)
        destage.state.withLock { $0.frozenSequence = nil }
        log.setDestageObstacle(nil)
    }

    /// Everything acknowledged before the call is in the image, durably. Throws while the image is frozen.
    package func mergeAll() throws(DiskError) {
        do {
            try destage.withTurnNow {
                if let frozen = destage.frozenSequence {
                    throw SystemError(errno: EBUSY, operation: "merge into the image, which is held at sequence \(frozen)", path: image.path)
                }
                try requireImageInPlace()
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
