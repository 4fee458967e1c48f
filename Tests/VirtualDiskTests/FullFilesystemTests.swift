// Log and image on one small filesystem that is nearly full: destage must go on, or nothing would ever free it.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Testing
import VirtualDisk

@Suite struct FullFilesystemTests {
    static let canMount = geteuid() == 0 || getenv("CI") != nil

    @Test(.enabled(if: canMount, "mounts a small filesystem, which needs root")) func destageGoesOnWhenTheFilesystemIsFull() throws {
        let root = try TestDisk.makeFolder()
        try #require(mount("tmpfs", root, "tmpfs", 0, "size=24m") == 0, "errno \(errno)")
        defer {
            umount2(root, Int32(MNT_DETACH))
            rmdir(root)
        }
        try Descriptor.open(root + "/filler", O_RDWR | O_CREAT).allocate(at: 0, length: 3 << 20)
        try Descriptor.open(root + "/image", O_RDWR | O_CREAT).truncate(to: 64 << 20)
        let folder = LogFolder(root + "/log")
        try ChangeLog.create(folder, diskID: .random(), diskBytes: 64 << 20, targets: [], segmentBytes: 2 << 20, budgetBytes: 64 << 20)
        let disk = try VirtualDisk.open(
            name: "disk", image: try openImage(root + "/image", access: .readWrite, format: .raw), folder: folder,
            lock: try OwnerLock.acquire(folder), sequencer: try Sequencer(path: root + "/sequences"), options: .init(bootID: "boot"))
        defer { disk.abandon() }
        var model = [UInt8](repeating: 0, count: 160)
        var refused = 0
        for count in 0..<1200 {
            let stamp = UInt8(truncatingIfNeeded: count % 250 + 1)
            do {
                try disk.put([UInt8](repeating: stamp, count: 65536), at: count % 160 * 65536)
                model[count % 160] = stamp
            } catch let error as SystemError {
                #expect(error.errno == ENOSPC)
                refused += 1
                usleep(20_000)
            }
        }
        // 1,200 writes are 75 MiB: only recycling lets them through.
        #expect(refused < 600, "\(disk.status)")
        for (place, stamp) in model.enumerated() {
            #expect(try disk.bytes(at: place * 65536, count: 65536).allSatisfy { $0 == stamp })
        }
    }
}
