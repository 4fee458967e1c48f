// Who may use an image: byte locks that QEMU's own image locks understand, and O_EXCL on block devices. The mount's
// supervisor holds a disk's lock while its workers come and go; `image convert` holds one for the time it runs.
//
// QEMU's scheme (its block/file-posix.c): whoever uses permission n holds a shared lock on byte 100 + n, whoever
// forbids it to others one on byte 200 + n, and both then look whether anyone else holds the opposite byte. All locks
// are shared ones, so a descriptor opened for reading can hold them.

package import BlockIO
import Glibc

package struct ImageLock: ~Copyable, Sendable {
    package enum Use: Sendable {
        /// Reads while others may read, and nobody writes.
        case shared
        /// Writes; others may at most read without asking for unchanging contents.
        case exclusive
    }

    private enum Permission: UInt64, CaseIterable {
        case consistentRead = 0
        case write = 1
        case writeUnchanged = 2
        case resize = 3

        var heldByte: UInt64 { 100 + rawValue }
        var forbiddenByte: UInt64 { 200 + rawValue }
    }

    /// Holds the locks; may be handed to another process, which then holds them too.
    package let descriptor: Descriptor

    private init(owning descriptor: consuming Descriptor) { self.descriptor = descriptor }

    /// Locks the image at `path`, or throws `inUse`. Who goes on to use it opens it by this lock (`openImage(locked:)`): the name
    /// may stand for another file by then.
    package static func take(_ path: String, for use: Use) throws(ImageError) -> ImageLock {
        try refuseNoImageFile(path)
        return try orInUse(path) { () throws(SystemError) in try take(on: open(path), for: use) }
    }

    /// Locks the very file that is open as `file`, or throws `inUse`.
    static func take(openedAs file: borrowing Descriptor, for use: Use) throws(ImageError) -> ImageLock {
        try orInUse(file.path) { () throws(SystemError) in try take(on: file.reopened(O_RDONLY), for: use) }
    }

    private static func orInUse(_ path: String, _ take: () throws(SystemError) -> ImageLock) throws(ImageError) -> ImageLock {
        do throws(SystemError) { return try take() } catch {
            throw error.errno == EBUSY || error.errno == EAGAIN ? .inUse(path: path) : .system(error)
        }
    }

    /// Takes the locks on a descriptor that came from elsewhere: a worker that inherited its supervisor's succeeds,
    /// for the locks belong to the open file description. Throws `EAGAIN` where another opener has the image.
    package static func take(on descriptor: consuming Descriptor, for use: Use) throws(SystemError) -> ImageLock {
        let held: [Permission] = use == .exclusive ? [.consistentRead, .write, .resize] : [.consistentRead]
        let forbidden: [Permission] = [.write, .resize]
        let bytes = held.map(\.heldByte) + forbidden.map(\.forbiddenByte)
        let opposite = held.map(\.forbiddenByte) + forbidden.map(\.heldByte)
        // Take first, look second: of two that come at once at most one succeeds.
        for byte in bytes {
            guard try descriptor.tryLock(.shared, at: byte, length: 1) else { throw busy(descriptor.path) }
        }
        for byte in opposite {
            if try descriptor.isLockedElsewhere(.exclusive, at: byte, length: 1) { throw busy(descriptor.path) }
        }
        return ImageLock(owning: descriptor)
    }

    /// Whether someone writes to the image now; for information only.
    package static func isHeldByWriter(_ path: String) throws(ImageError) -> Bool {
        try refuseNoImageFile(path)
        return try asImageError { () throws(SystemError) in
            let descriptor = try Descriptor.open(path, O_RDONLY)
            return try descriptor.isLockedElsewhere(.exclusive, at: Permission.write.heldByte, length: 1)
        }
    }

    package consuming func release() throws(SystemError) { try descriptor.close() }

    /// A second handle to the same locks; the caller closes it.
    func handedOut() throws(SystemError) -> Int32 {
        let copy = fcntl(descriptor.raw, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw SystemError(errno: errno, operation: "keep the lock of", path: descriptor.path) }
        return copy
    }

    /// Before it is opened: a FIFO would wait for its other end, a device may do something. What cannot be looked at says so when it is opened.
    static func refuseNoImageFile(_ path: String) throws(ImageError) {
        var info = stat()
        guard stat(path, &info) != 0 || [S_IFREG, S_IFBLK].contains(info.st_mode & S_IFMT) else { throw .noImageFile(path) }
    }

    private static func open(_ path: String) throws(SystemError) -> Descriptor {
        let plain = try Descriptor.open(path, O_RDONLY)
        guard try plain.status().kind == .blockDevice else { return plain }
        // On a device O_EXCL excludes mounts, other exclusive openers and the kernel's own users.
        return try Descriptor.open(path, O_RDONLY | O_EXCL)
    }

    private static func busy(_ path: String) -> SystemError { SystemError(errno: EAGAIN, operation: "lock the image", path: path) }
}
