// What stat(2) says of an image or log file, with block devices given their true size.

import CLinux
import Glibc

package struct FileStatus: Equatable, Sendable {
    package enum Kind: Equatable, Sendable { case regular, directory, blockDevice, other }

    package let kind: Kind
    /// Bytes a reader can see; for a block device the device's size.
    package let sizeBytes: UInt64
    /// Bytes that occupy storage (holes not counted).
    package let allocatedBytes: UInt64
    /// Time of the last change of data or metadata, nanoseconds since 1970.
    package let changeTimeNanoseconds: Int64
    /// Time of the last change of data, nanoseconds since 1970; programs can set it.
    package let modificationTimeNanoseconds: Int64
    /// Identity of the file on this host.
    package let device: UInt64
    package let inode: UInt64

    init(_ info: stat, descriptor: Int32, path: String) throws(SystemError) {
        switch info.st_mode & S_IFMT {
        case S_IFREG: kind = .regular
        case S_IFDIR: kind = .directory
        case S_IFBLK: kind = .blockDevice
        default: kind = .other
        }
        if kind == .blockDevice {
            var bytes: UInt64 = 0
            guard farshore_block_device_size(descriptor, &bytes) == 0 else {
                throw SystemError(errno: errno, operation: "read the device's size", path: path)
            }
            sizeBytes = bytes
        } else {
            sizeBytes = UInt64(info.st_size)
        }
        allocatedBytes = UInt64(info.st_blocks) * 512
        // A file may say that it is from the year 2300; times are only compared.
        changeTimeNanoseconds = Int64(info.st_ctim.tv_sec) &* 1_000_000_000 &+ Int64(info.st_ctim.tv_nsec)
        modificationTimeNanoseconds = Int64(info.st_mtim.tv_sec) &* 1_000_000_000 &+ Int64(info.st_mtim.tv_nsec)
        device = UInt64(info.st_dev)
        inode = UInt64(info.st_ino)
    }
}
