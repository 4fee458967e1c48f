// The locks of a protected disk: its log's (one owner recovers and destages), its image's (nobody else writes), and those of the image's
// parents. The first two are taken by the supervisor before the first worker starts, or by the worker for a disk that is added later; a
// worker's successor is handed all of them, and they are what it opens: names may stand for other files by then.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import FuseExport
import Glibc
import Site
import Synchronization

struct DiskLocks: ~Copyable {
    let log: OwnerLock
    let image: ImageLock
    /// Taken when the image is opened, unless they were handed down.
    let parents: ParentLocks

    /// Throws `inUse` errors when another mount or a virtual machine has the disk; the site's uploader is waited for.
    static func take(_ disk: ProtectedDisk, site: SiteDirectory) throws -> DiskLocks {
        try waitingForUploader(of: site) {
            DiskLocks(
                log: try OwnerLock.acquire(LogFolder(disk.logFolder)), image: try ImageLock.take(disk.imagePath, for: .exclusive), parents: ParentLocks())
        }
    }

    fileprivate init(log: consuming OwnerLock, image: consuming ImageLock, parents: ParentLocks) {
        self.log = log
        self.image = image
        self.parents = parents
    }

    var descriptors: [Int32] { [log.raw, image.descriptor.raw] + parents.descriptors }
}

/// What a worker was handed of a disk's locks by its predecessor. Kept until the disk is open, or until they can be given up: the files of a
/// name that stands for another one by now may be nowhere else.
final class HandedLocks: Sendable {
    /// The log's, the image's, those of the image's parents in their order.
    private let held: Mutex<[Int32]>
    /// What the disk was opened from, once that is known.
    private let files = Mutex<[OpenedFile]>([])

    init(_ descriptors: [Int32]) { held = Mutex(descriptors) }

    deinit { giveUp() }

    /// The same locks for an attempt to open the disk; nil when they are no pair, of a disk that was never opened.
    func locks(of disk: ProtectedDisk) throws -> DiskLocks? {
        var copies: [Int32] = []
        for descriptor in held.withLock({ $0 }) {
            let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
            guard copy >= 0 else {
                let failure = SystemError(errno: errno, operation: "use the locks of", path: disk.name)
                for copy in copies { close(copy) }
                throw failure
            }
            copies.append(copy)
        }
        let parents = ParentLocks(handedDown: Array(copies.dropFirst(2)))
        guard copies.count >= 2 else {
            for copy in copies { close(copy) }
            return nil
        }
        let log = OwnerLock.inherited(copies[0], folder: LogFolder(disk.logFolder))
        let image = try ImageLock.take(on: Descriptor(owning: copies[1], path: disk.imagePath), for: .exclusive)
        return DiskLocks(log: log, image: image, parents: parents)
    }

    /// The log's alone: the image may be one that its storage does not answer for any more.
    func logLock(of disk: ProtectedDisk) throws(SystemError) -> OwnerLock? {
        guard let descriptor = held.withLock({ $0.first }) else { return nil }
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw SystemError(errno: errno, operation: "use the lock of", path: disk.name) }
        return OwnerLock.inherited(copy, folder: LogFolder(disk.logFolder))
    }

    func note(_ files: [OpenedFile]) { self.files.withLock { $0 = files } }

    /// Each name stands for the file that the disk is served from. False also where that cannot be found out.
    func areInPlace(_ disk: ProtectedDisk) -> Bool {
        var files = files.withLock { $0 }
        do {
            if files.isEmpty {
                guard let locks = try locks(of: disk) else { return true }
                // What the parents were called only the image can tell.
                guard locks.parents.descriptors.isEmpty else { return false }
                files = [try OpenedFile(locks.image.descriptor)]
            }
            return try files.allSatisfy { (file) throws(SystemError) in try file.isThere() }
        } catch { return false }
    }

    /// Who may use the disk's files, by its image.
    func permissions() throws(SystemError) -> FilePermissions? {
        try held.withLock { (held) throws(SystemError) in held.count < 2 ? nil : try FilePermissions(ofImage: held[1]) }
    }

    func giveUp() {
        held.withLock { descriptors in
            for descriptor in descriptors { close(descriptor) }
            descriptors = []
        }
    }
}
