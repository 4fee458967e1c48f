// A file on a foreign file system, which may be made to harm who looks at it: links lead nowhere out of it, and only plain files are read.

import BlockIO
import DiskImage
import Glibc

final class FoundFile {
    enum Kind: String {
        case file, directory, special
    }

    struct Attributes: Equatable {
        let kind: Kind
        let sizeBytes: UInt64
        let modifiedNanoseconds: Int64
        /// Changes with every change of the file, whatever its other times are set to.
        let changedNanoseconds: Int64
        let mode: UInt32
        let inode: UInt64
    }

    let attributes: Attributes
    /// Opened for its name alone (O_PATH).
    private let place: Descriptor
    private let times: (accessed: timespec, modified: timespec)

    /// Nil where there is no such file.
    static func find(_ path: String, below directory: String) throws -> FoundFile? {
        let root = try Descriptor.open(directory, O_RDONLY | O_DIRECTORY)
        guard let place = try root.findInRoot(path) else { return nil }
        return try FoundFile(place)
    }

    private init(_ place: consuming Descriptor) throws(SystemError) {
        var status = stat()
        guard fstat(place.raw, &status) == 0 else { throw SystemError(errno: errno, operation: "stat", path: place.path) }
        let kind: Kind =
            switch status.st_mode & S_IFMT {
            case S_IFREG: .file
            case S_IFDIR: .directory
            default: .special
            }
        func nanoseconds(_ time: timespec) -> Int64 { Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec) }
        attributes = Attributes(
            kind: kind, sizeBytes: kind == .file ? UInt64(clamping: status.st_size) : 0, modifiedNanoseconds: nanoseconds(status.st_mtim),
            changedNanoseconds: nanoseconds(status.st_ctim), mode: status.st_mode & 0o777, inode: UInt64(status.st_ino))
        times = (status.st_atim, status.st_mtim)
        self.place = place
    }

    /// Copies it to `path`, which appears when it is whole and durable. Permissions and times are kept; the owner is who copies.
    func copy(to path: String, replacing: Bool, progress: (_ done: UInt64) -> Void) throws {
        let source = try place.reopened(O_RDONLY | O_NONBLOCK)
        let partial = path + OutputImage.partialSuffix
        // What an interrupted copy left is of no use, and what a restore noted of a file of that name is no longer true.
        try DurableFile.remove(path + OutputImage.restoreSuffix)
        guard unlink(partial) == 0 || errno == ENOENT else { throw SystemError(errno: errno, operation: "remove", path: partial) }
        let target = try Descriptor.open(partial, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW)
        do {
            try Self.copyData(source, target, attributes.sizeBytes, progress)
            guard fchmod(target.raw, attributes.mode) == 0, futimens(target.raw, [times.accessed, times.modified]) == 0 else {
                throw SystemError(errno: errno, operation: "set mode and times", path: partial)
            }
            try target.sync()
            try DurableFile.name(partial, path, replacing: replacing)
        } catch {
            unlink(partial)
            throw error
        }
    }

    /// Holes stay holes.
    private static func copyData(_ source: borrowing Descriptor, _ target: borrowing Descriptor, _ size: UInt64, _ progress: (UInt64) -> Void) throws {
        guard ftruncate(target.raw, off_t(truncatingIfNeeded: size)) == 0 else { throw SystemError(errno: errno, operation: "set the size", path: target.path) }
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var position: UInt64 = 0
        while position < size, let data = try source.nextData(from: position), data < size {
            let end = min(try source.nextHole(from: data), size)
            position = data
            while position < end {
                let count = Int(min(UInt64(buffer.count), end - position))
                try buffer.withUnsafeMutableBytes { bytes in
                    let part = UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])
                    try source.read(into: part, at: position)
                    try target.write(UnsafeRawBufferPointer(part), at: position)
                }
                position += UInt64(count)
                progress(position)
            }
        }
    }
}
