// A parent of a differencing image, as it was found when the disk was opened: it stays readable when its name goes, until the
// disk is closed. Asked by the disk's status.

import Glibc

struct ParentFile: Sendable {
    let path: String
    private let device: UInt64
    private let inode: UInt64

    init?(_ path: String) {
        var info = stat()
        guard stat(path, &info) == 0 else { return nil }
        self.path = path
        (device, inode) = (UInt64(info.st_dev), UInt64(info.st_ino))
    }

    /// The file that was opened still has its name.
    var isThere: Bool {
        guard let now = ParentFile(path) else { return false }
        return now.device == device && now.inode == inode
    }
}
