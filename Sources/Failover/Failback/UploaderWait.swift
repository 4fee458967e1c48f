// An uploader owns the log of a disk that nobody serves, for the length of one call at a time. Who wants such a disk for
// longer (mount, unprotect, failback) waits for that instead of calling the disk taken.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
package import Site
import VirtualDisk

private let waitNanosecondsMax: UInt64 = 10_000_000_000

/// Repeats `attempt` while it finds the disk in use and this site has an uploader, for 10 seconds.
package func waitingForUploader<Value: ~Copyable>(of site: SiteDirectory, _ attempt: () throws -> Value) throws -> Value {
    let deadline = Clock.monotonicNanoseconds() + waitNanosecondsMax
    while Clock.monotonicNanoseconds() < deadline {
        do { return try attempt() } catch where meansInUse(error) {
            // It may have ended since the attempt: the last one below decides.
            guard try SiteLock.isTaken(site.uploadLockPath) else { break }
            usleep(50_000)
        }
    }
    return try attempt()
}

private func meansInUse(_ error: any Error) -> Bool {
    switch error {
    case LogError.inUse, ImageError.inUse, DiskError.log(.inUse): true
    default: false
    }
}
