// The two locks of a protected disk: its log's (one owner recovers and destages) and its image's (nobody else writes).
// Taken by the supervisor before the first worker starts, or by the worker for a disk that is added later.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import FuseExport
import Glibc
import Site

struct DiskLocks: ~Copyable {
    let log: OwnerLock
    let image: ImageLock

    /// Throws `inUse` errors when another mount or a virtual machine has the disk; the site's uploader is waited for.
    static func take(_ disk: ProtectedDisk, site: SiteDirectory) throws -> DiskLocks {
        try waitingForUploader(of: site) {
            DiskLocks(log: try OwnerLock.acquire(LogFolder(disk.logFolder)), image: try ImageLock.take(disk.imagePath, for: .exclusive))
        }
    }

    /// From what the supervisor handed down, in the order of `descriptors`; nil when that is not a pair of locks. Further ones are
    /// on the image's parents: this worker opens those itself and takes its own, while the supervisor holds the old ones.
    static func inherited(_ descriptors: [Int32], _ disk: ProtectedDisk) throws -> DiskLocks? {
        guard descriptors.count >= 2 else { return nil }
        for further in descriptors.dropFirst(2) { close(further) }
        let log = OwnerLock.inherited(descriptors[0], folder: LogFolder(disk.logFolder))
        let image = try ImageLock.take(on: Descriptor(owning: descriptors[1], path: disk.imagePath), for: .exclusive)
        return DiskLocks(log: log, image: image)
    }

    private init(log: consuming OwnerLock, image: consuming ImageLock) {
        self.log = log
        self.image = image
    }

    var descriptors: [Int32] { [log.raw, image.descriptor.raw] }
}
