// An image being made: `image convert` and restore write ranges of it in any order, and it takes its name only when
// it is whole. Until then it lies beside the target as `NAME.farshore-partial`, which a later run can go on with.
//
// Invariant: a file of the target's name is either what was there before or the finished, durable image.

package import BlockIO
import CLinux
import Glibc

package struct OutputImage: ~Copyable, Sendable {
    package static let partialSuffix = ".farshore-partial"
    /// Of the file beside it in which a restore notes what of the partial image is done; RecoveryPoints has its contents.
    package static let restoreSuffix = ".farshore-restore"
    /// How often a partial file that others finish or throw away meanwhile is opened again.
    private static let lockAttemptsMax = 100

    package let path: String
    /// Write, zero and flush through this; what was never written reads as zeros and takes no space.
    package let image: any ImageFile
    /// An earlier run's partial image was found and is being continued.
    package let isResumed: Bool
    private let lock: ImageLock

    private var partialPath: String { path + Self.partialSuffix }

    /// Starts an image of `sizeBytes` (a multiple of 512) to stand at `path`. With `resume`, goes on with a partial
    /// one of the same format and size; any other partial image is thrown away. `uniqueID` (16 bytes) and `timeStamp`
    /// (seconds since 2000) go into a VHD's footer. What a restore has noted of a partial image goes before that is emptied, whoever empties it.
    package static func begin(
        _ path: String, format: OutputFormat, sizeBytes: UInt64, uniqueID: [UInt8], timeStamp: UInt32, resume: Bool = false
    ) throws(ImageError) -> OutputImage {
        let partial = path + partialSuffix
        try requireFitting(sizeBytes, format, path: path)
        let lock = try lockPartial(partial)
        if resume, let image = try reopen(lock, format: format, sizeBytes: sizeBytes) {
            return OutputImage(path: path, image: image, isResumed: true, lock: lock)
        }
        try asImageError { () throws(SystemError) in try DurableFile.remove(path + restoreSuffix) }
        try lay(lock, format: format, sizeBytes: sizeBytes, uniqueID: uniqueID, timeStamp: timeStamp)
        let image = try openImage(locked: lock, access: .readWrite, format: format.imageFormat)
        return OutputImage(path: path, image: image, isResumed: false, lock: lock)
    }

    /// Makes the image durable and gives it its name. Without `replacing`, whatever is there is `EEXIST`; with it, what
    /// `requireReplaceable` refuses is refused.
    package consuming func finish(replacing: Bool) throws(ImageError) {
        do throws(SystemError) {
            try image.flush()
            for file in image.files where try !file.isThere() {
                throw SystemError(errno: ESTALE, operation: "finish the image, whose partial file was removed or replaced,", path: path)
            }
        } catch { throw .system(error) }
        // Held over the rename: whoever asks for the image meanwhile is refused.
        let replaced = replacing ? try Self.lockReplaced(path) : nil
        guard Self.rename(partialPath, to: path, replacing: replacing) else {
            throw .system(SystemError(errno: errno, operation: "rename the finished image from \(partialPath)", path: path))
        }
        do throws(SystemError) {
            try Directory.sync(Directory.parent(of: path) ?? ".")
            try lock.release()
            try replaced?.release()
        } catch { throw .system(error) }
    }

    /// Throws `unsupported` where something is there that is no file, and `inUse` where a file is there that somebody uses. To be asked
    /// before long work begins; an image that takes an existing name asks again.
    package static func requireReplaceable(_ path: String) throws(ImageError) { _ = try lockReplaced(path) }

    private static func lockReplaced(_ path: String) throws(ImageError) -> ImageLock? {
        var info = stat()
        guard lstat(path, &info) == 0 else { return nil }
        // The image would take the place of the device's node, the FIFO or the link: what these stand for would never see it.
        guard info.st_mode & S_IFMT == S_IFREG else {
            throw .unsupported(path: path, what: "exists and is no file", remedy: "name a new file, or write a raw image to a device with dd")
        }
        return try ImageLock.take(path, for: .exclusive)
    }

    /// The partial file, new or left by an earlier run.
    private static func lockPartial(_ partial: String) throws(ImageError) -> ImageLock {
        for _ in 0..<lockAttemptsMax {
            let file: Descriptor
            do throws(SystemError) { file = try openPartial(partial) } catch {
                // Somebody else made it first.
                if error.errno == EEXIST { continue }
                throw error.errno == ELOOP ? foreign(partial) : .system(error)
            }
            if let lock = try lock(partial: file) { return lock }
        }
        throw .inUse(path: partial)
    }

    /// Locks the partial file that is open, or throws `inUse`. Nil where its name stands for another file by now, or for none: before it was
    /// locked, whoever had it gave the finished image its own name or threw it away, and it must not be written to. In a folder that
    /// others may write to the name may be a link to a file that is not theirs: that is not followed, and not emptied.
    package static func lock(partial file: borrowing Descriptor) throws(ImageError) -> ImageLock? {
        var info = stat()
        guard fstat(file.raw, &info) == 0, info.st_mode & S_IFMT == S_IFREG, info.st_nlink <= 1 else { throw foreign(file.path) }
        let lock = try ImageLock.take(openedAs: file, for: .exclusive)
        let isThere: Bool
        do throws(SystemError) { isThere = try OpenedFile(lock.descriptor).isThere() } catch { throw .system(error) }
        guard isThere else { return nil }
        return lock
    }

    private static func foreign(_ partial: String) -> ImageError {
        .unsupported(path: partial, what: "is there, and is no file of an earlier run but a link or a device", remedy: "rm \(partial), if it is not needed")
    }

    private static func openPartial(_ partial: String) throws(SystemError) -> Descriptor {
        do throws(SystemError) {
            return try Descriptor.open(partial, O_RDWR | O_NOFOLLOW | O_NONBLOCK)
        } catch where error.errno == ENOENT {
            return try Descriptor.open(partial, O_RDWR | O_CREAT | O_EXCL, mode: 0o644)
        }
    }

    /// Gives up: the partial image is removed.
    package consuming func discard() throws(SystemError) {
        try DurableFile.remove(partialPath)
        try lock.release()
    }

    private static func rename(_ partial: String, to path: String, replacing: Bool) -> Bool {
        if replacing { return Glibc.rename(partial, path) == 0 }
        if farshore_rename_noreplace(AT_FDCWD, partial, AT_FDCWD, path) == 0 { return true }
        // NFS knows no such rename; a hard link refuses an existing name as well.
        return errno == EINVAL && link(partial, path) == 0 && unlink(partial) == 0
    }

    private static func requireFitting(_ sizeBytes: UInt64, _ format: OutputFormat, path: String) throws(ImageError) {
        guard sizeBytes > 0, sizeBytes % 512 == 0, sizeBytes <= UInt64(Int64.max) - 512 else {
            throw .system(SystemError(errno: EINVAL, operation: "make an image of \(sizeBytes) bytes", path: path))
        }
        let limit: (bytes: UInt64, what: String)? = switch format {
        case .raw: nil
        case .vhdFixed, .vhdDynamic: (VHDFooter.sizeBytesMax, "a VHD holds at most 2,040 GiB")
        case .vhdx: (VHDXMetadata.sizeBytesMax, "a VHDX holds at most 64 TiB")
        case .qcow2: (QCOW2Header.sizeBytesMax, "a qcow2 image is served up to 64 TiB")
        }
        if let limit, sizeBytes > limit.bytes {
            let formats = sizeBytes <= min(VHDXMetadata.sizeBytesMax, QCOW2Header.sizeBytesMax) ? "vhdx, qcow2 or raw" : "raw"
            throw .unsupported(path: path, what: "\(limit.what), the disk has \(sizeBytes) bytes", remedy: "another format: \(formats)")
        }
    }

    /// The partial image of an earlier run, or nil when it is not one of this format and size.
    private static func reopen(_ partial: borrowing ImageLock, format: OutputFormat, sizeBytes: UInt64) throws(ImageError) -> (any ImageFile)? {
        do throws(ImageError) {
            let image = try openImage(locked: partial, access: .readWrite, format: format.imageFormat)
            return image.sizeBytes == sizeBytes ? image : nil
        } catch {
            if case .system = error { throw error }
            return nil
        }
    }

    /// Writes an empty image of the format over whatever the partial file holds.
    private static func lay(
        _ partial: borrowing ImageLock, format: OutputFormat, sizeBytes: UInt64, uniqueID: [UInt8], timeStamp: UInt32
    ) throws(ImageError) {
        try asImageError { () throws(SystemError) in
            let file = try partial.descriptor.reopened(O_RDWR)
            try file.truncate(to: 0)
            switch format {
            case .raw:
                try file.truncate(to: sizeBytes)
            case .vhdFixed:
                try file.write(VHDFooter.fixed(sizeBytes: sizeBytes, uniqueID: uniqueID, timeStamp: timeStamp), at: sizeBytes)
            case .vhdDynamic:
                try layDynamic(file, VHDFooter(new: .dynamic, sizeBytes: sizeBytes, uniqueID: uniqueID, timeStamp: timeStamp).encoded(), sizeBytes)
            case .vhdx:
                try layVHDX(file, sizeBytes: sizeBytes, uniqueID: uniqueID)
            case .qcow2:
                try layQCOW2(file, sizeBytes: sizeBytes)
            }
            try file.sync()
            try file.close()
        }
    }

    /// Footer copy, header, an empty table, footer: docs/formats/vhd.md, section "A new dynamic disk".
    private static func layDynamic(_ file: borrowing Descriptor, _ footer: [UInt8], _ sizeBytes: UInt64) throws(SystemError) {
        let blockBytes: UInt32 = 2 << 20
        let entries = UInt32((sizeBytes + UInt64(blockBytes) - 1) / UInt64(blockBytes))
        let header = VHDDynamicHeader(tableOffset: 1536, tableEntries: entries, blockBytes: blockBytes)
        let table = [UInt8](repeating: 0xFF, count: Int(header.tableBytes.roundedUp(to: 512)))
        try file.write(footer, at: 0)
        try file.write(header.encoded(), at: 512)
        try file.write(table, at: header.tableOffset)
        try file.write(footer, at: header.tableOffset + UInt64(table.count))
    }
}
