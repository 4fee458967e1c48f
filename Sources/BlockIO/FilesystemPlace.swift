// Where a folder is, as far as the page cache goes: whether what was written there and not synced can still be in memory.
// A filesystem that was mounted again, or whose device went and came back, has begun with an empty page cache.

import CLinux
import Glibc

package struct FilesystemPlace: Equatable, Sendable {
    package var device: UInt64
    package var inode: UInt64
    /// The kernel's count of disks when this one appeared; 0 where there is none, or it cannot be read.
    package var diskSequence: UInt64
    /// Changes with each mount, also where the same filesystem is mounted elsewhere or seen from another mount namespace; 0 where
    /// the kernel tells none.
    package var mount: UInt64

    package enum Relation: Equatable, Sendable {
        /// The page cache is the same one.
        case same
        /// Perhaps: a bind mount and another namespace look like an unmount and a mount.
        case unsure
        /// The same filesystem on a device that has come anew.
        case another
    }

    package init(device: UInt64, inode: UInt64, diskSequence: UInt64, mount: UInt64) {
        self.device = device
        self.inode = inode
        self.diskSequence = diskSequence
        self.mount = mount
    }

    package static func of(folder path: String) throws(SystemError) -> FilesystemPlace {
        let folder = try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
        let status = try folder.status()
        return FilesystemPlace(
            device: status.device, inode: status.inode, diskSequence: diskSequence(of: status.device), mount: farshore_mount_id(folder.raw))
    }

    /// What holds now, of what held then.
    package func relation(to then: FilesystemPlace) -> Relation {
        if self == then { return .same }
        guard inode == then.inode, isOnDisk, then.isOnDisk else { return .unsure }
        if device != then.device { return .another }
        // A count that could not be read says nothing; one that changed under a mount that stayed may be a change of media that was none.
        let isKnown = diskSequence != 0 && then.diskSequence != 0
        return isKnown && diskSequence != then.diskSequence && (mount != then.mount || mount == 0) ? .another : .unsure
    }

    /// Without a block device of its own (btrfs, overlayfs, NFS) a filesystem gets a number that means nothing later.
    private var isOnDisk: Bool { Self.major(device) != 0 }

    private static func major(_ device: UInt64) -> UInt64 { (device >> 8 & 0xfff) | (device >> 32 & 0xffff_f000) }
    private static func minor(_ device: UInt64) -> UInt64 { (device & 0xff) | (device >> 12 & 0xffff_ff00) }

    /// Of a partition's disk.
    private static func diskSequence(of device: UInt64) -> UInt64 {
        guard major(device) != 0 else { return 0 }
        let folder = "/sys/dev/block/\(major(device)):\(minor(device))"
        for path in [folder + "/diskseq", folder + "/../diskseq"] {
            guard let file = try? Descriptor.open(path, O_RDONLY) else { continue }
            var bytes = [UInt8](repeating: 0, count: 32)
            let count = bytes.withUnsafeMutableBytes { (try? file.readUpTo($0, at: 0)) ?? 0 }
            if let number = UInt64(String(decoding: bytes[..<count], as: UTF8.self).prefix { $0.isNumber }) { return number }
        }
        return 0
    }
}
