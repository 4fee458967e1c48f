// One file of the mount: a disk's bytes, with a VHD footer behind them for `disk.vhd`. The reader threads use it
// without locks.

import Glibc
import Synchronization

final class ServedFile: Sendable {
    let disk: LazyDisk
    let diskBytes: UInt64
    /// What follows the disk's bytes: the VHD footer, or nothing.
    let tail: [UInt8]
    let isWritable: Bool
    /// Set when the file is taken out of the tree.
    let isGone = Atomic<Bool>(false)
    /// Time of the last write through this mount, nanoseconds since 1970.
    let modifiedNanoseconds: Atomic<UInt64>

    init(disk: LazyDisk, diskBytes: UInt64, tail: [UInt8], isWritable: Bool, createdNanoseconds: UInt64) {
        self.disk = disk
        self.diskBytes = diskBytes
        self.tail = tail
        self.isWritable = isWritable
        modifiedNanoseconds = Atomic(createdNanoseconds)
    }

    var sizeBytes: UInt64 { diskBytes + UInt64(tail.count) }

    func noteWrite() {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME_COARSE, &time)
        modifiedNanoseconds.store(UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec), ordering: .relaxed)
    }
}
