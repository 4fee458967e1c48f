// Room on the log's filesystem that only destage gets: a file `reserve` of one segment's size. When the image (which may
// share the filesystem) or the state file meets ENOSPC, destage takes the reserve and merges one segment; once
// that segment is recycled its file goes, and the reserve is made again before anything else. Without it a full
// filesystem would stop the very work that frees it.

import BlockIO
import Glibc

extension ChangeLog {
    private var reserveFile: String { folder.reserveFile }

    /// Gives the reserved room back to the filesystem; false when it was given already. Called by destage on ENOSPC.
    package func releaseReserve() -> Bool {
        monitor.lock()
        defer { monitor.unlock() }
        guard hasReserve else { return false }
        hasReserve = false
        isReserveLent = true
        return unlink(reserveFile) == 0
    }

    package var isReserveOut: Bool {
        monitor.lock()
        defer { monitor.unlock() }
        return !hasReserve
    }

    /// Called by the housekeeper, without the monitor.
    func makeReserve() throws(SystemError) {
        let file = try Descriptor.open(reserveFile, O_RDWR | O_CREAT)
        do throws(SystemError) { try file.allocate(at: 0, length: UInt64(geometry.segmentBytes)) } catch {
            unlink(reserveFile)
            throw error
        }
    }

    /// A segment's file, out of use, leaves the filesystem. Readers may still have it open, so it is emptied too; not before its name is gone,
    /// for one that stays is used again.
    func removeFile(_ segment: Segment) throws(SystemError) {
        guard unlink(segment.file.path) == 0 || errno == ENOENT else { throw SystemError(errno: errno, operation: "remove", path: segment.file.path) }
        segment.isRemoved = true
        do throws(SystemError) { try segment.file.truncate(to: 0) } catch {
            // Then its room comes back when they have closed it.
        }
        // Before the segment after it is wiped: were this one back after a power loss, the log would have a gap.
        try Directory.sync(folder.path)
    }
}
