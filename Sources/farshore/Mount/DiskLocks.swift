// The two locks of a protected disk: its log's (one owner recovers and destages) and its image's (nobody else writes).
// Taken by the supervisor before the first worker starts, or by the worker for a disk that is added later.

import BlockIO
import ChangeLog
import DiskImage
import FuseExport
import Glibc
import Site

struct DiskLocks: ~Copyable {
    let log: OwnerLock
    let image: ImageLock

    /// The uploader takes a disk that nobody serves for moments, longer only to freeze it.
    private static let waitSecondsMax: UInt64 = 10

    /// Throws `inUse` errors when another mount, a virtual machine or, for long, the uploader has the disk.
    static func take(_ disk: ProtectedDisk) throws -> DiskLocks {
        let deadline = Clock.monotonicNanoseconds() + waitSecondsMax * 1_000_000_000
        while true {
            do {
                return DiskLocks(log: try OwnerLock.acquire(LogFolder(disk.logFolder)), image: try ImageLock.take(disk.imagePath, for: .exclusive))
            } catch LogError.inUse where Clock.monotonicNanoseconds() < deadline {
                usleep(200_000)
            }
        }
    }

    /// From what the supervisor handed down, in the order of `descriptors`; nil when that is not a pair of locks.
    static func inherited(_ descriptors: [Int32], _ disk: ProtectedDisk) throws -> DiskLocks? {
        guard descriptors.count == 2 else { return nil }
        let image = try ImageLock.take(on: Descriptor(owning: descriptors[1], path: disk.imagePath), for: .exclusive)
        return DiskLocks(log: OwnerLock.inherited(descriptors[0], folder: LogFolder(disk.logFolder)), image: image)
    }

    private init(log: consuming OwnerLock, image: consuming ImageLock) {
        self.log = log
        self.image = image
    }

    var descriptors: [Int32] { [log.raw, image.descriptor.raw] }
}
