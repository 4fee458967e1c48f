// Bytes through a real mount: any size, any offset, O_DIRECT, mappings, holes.

import Foundation
import Glibc
import Testing

@Suite(.enabled(if: canMount(), "needs /dev/fuse and fusermount3"), .serialized)
struct DataTests {
    @Test("random reads and writes of any size and offset agree with the image and a model")
    func randomAccess() throws {
        let size = 8 << 20
        let mount = try RawMount(sizeBytes: UInt64(size))
        var model = [UInt8](repeating: 0, count: size)
        var random = SystemRandomNumberGenerator()
        let seed = UInt64.random(in: 0...UInt64.max, using: &random)
        var generator = SplitMix(state: seed)
        let file = try OpenFile(mount.raw, O_RDWR)
        for step in 0..<400 {
            let count = Int(generator.next() % (step % 10 == 0 ? 1_500_000 : 9_000)) + 1
            let offset = Int(generator.next() % UInt64(size - count))
            if generator.next() % 2 == 0 {
                let byte = UInt8(truncatingIfNeeded: generator.next())
                let bytes = [UInt8](repeating: byte, count: count)
                #expect(file.write(bytes, at: offset) == count)
                model.replaceSubrange(offset..<offset + count, with: bytes)
            } else {
                #expect(file.read(count, at: offset) == Array(model[offset..<offset + count]), "seed \(seed), step \(step)")
            }
        }
        #expect(try [UInt8](Data(contentsOf: URL(fileURLWithPath: mount.image))) == model, "seed \(seed)")
    }

    // Promise F1: When the log's budget is used up, writes wait while the target is catching up, else fail with ENOSPC;
    // reads go on, and nothing acknowledged is dropped.
    @Test("reads go on while more writes wait for room than the mount has threads", .timeLimit(.minutes(1)))
    func readsBesideWaitingWrites() throws {
        let mount = try RawMount(sizeBytes: 8 << 20)
        let file = try OpenFile(mount.raw, O_RDWR)
        for round in 1...3 {
            try Data().write(to: URL(fileURLWithPath: mount.image + ".hold"))
            let descriptor = file.descriptor
            let writers = (0..<60).map { number in
                let thread = Thread { _ = pwrite(descriptor, [UInt8](repeating: UInt8(round), count: 4096), 4096, number * 8192) }
                thread.start()
                return thread
            }
            usleep(300_000)
            for number in 0..<200 { #expect(file.read(4096, at: number * 8192 + 4096) == [UInt8](repeating: 0, count: 4096)) }
            #expect(!writers.contains { $0.isFinished })
            try FileManager.default.removeItem(atPath: mount.image + ".hold")
            while writers.contains(where: { !$0.isFinished }) { usleep(10_000) }
            for number in 0..<60 { #expect(file.read(4096, at: number * 8192) == [UInt8](repeating: UInt8(round), count: 4096)) }
        }
    }

    @Test("reads stop and writes are cut short at the disk's end")
    func ends() throws {
        let mount = try RawMount(sizeBytes: 1 << 20)
        let file = try OpenFile(mount.raw, O_RDWR)
        #expect(file.read(4096, at: (1 << 20) - 100).count == 100)
        #expect(file.read(4096, at: 1 << 20).isEmpty)
        #expect(file.write([UInt8](repeating: 1, count: 512), at: (1 << 20) - 200) == 200)
        #expect(errorCode { file.write([1], at: 1 << 20) } == EFBIG)
        #expect(FileManager.default.contents(atPath: mount.raw)?.count == 1 << 20)
    }

    @Test("O_DIRECT transfers without alignment rules")
    func direct() throws {
        let mount = try RawMount()
        let file = try OpenFile(mount.raw, O_RDWR | O_DIRECT)
        let bytes = (0..<70_001).map { UInt8(truncatingIfNeeded: $0) }
        #expect(file.write(bytes, at: 513) == bytes.count)
        #expect(file.read(bytes.count, at: 513) == bytes)
    }

    // Promise D1: A write is durable when fsync, fdatasync or a write with O_SYNC or O_DSYNC was acknowledged after
    // it.
    @Test("O_DSYNC writes, fsync and fdatasync succeed")
    func syncing() throws {
        let mount = try RawMount()
        let file = try OpenFile(mount.raw, O_RDWR | O_DSYNC)
        #expect(file.write([1, 2, 3], at: 5) == 3)
        #expect(fsync(file.descriptor) == 0)
        #expect(fdatasync(file.descriptor) == 0)
    }

    @Test("a shared mapping sees writes and its own stores arrive")
    func mapping() throws {
        let mount = try RawMount()
        let file = try OpenFile(mount.raw, O_RDWR)
        #expect(file.write([7, 8, 9], at: 4096) == 3)
        let memory = mmap(nil, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor, 0)
        try #require(memory != MAP_FAILED)
        let bytes = memory!.assumingMemoryBound(to: UInt8.self)
        #expect(bytes[4097] == 8)
        bytes[100] = 42
        #expect(msync(memory, 8192, MS_SYNC) == 0)
        #expect(file.read(1, at: 100) == [42])
        munmap(memory, 8192)
        let image = try OpenFile(mount.image, O_RDONLY)
        #expect(image.read(1, at: 100) == [42])
    }

    // Promise D6: Discarded and zeroed ranges read as zeros, or the request is refused.
    @Test("punched and zeroed ranges read as zeros, punching frees, reserving and growing are refused")
    func allocation() throws {
        let mount = try RawMount(sizeBytes: 16 << 20)
        let file = try OpenFile(mount.raw, O_RDWR)
        #expect(file.write([UInt8](repeating: 9, count: 4 << 20), at: 0) == 4 << 20)
        #expect(fallocate(file.descriptor, punchHole | keepSize, 1 << 20, 1 << 20) == 0)
        #expect(fallocate(file.descriptor, zeroRange, 3 << 20, 4096) == 0)
        #expect(file.read(1 << 20, at: 1 << 20) == [UInt8](repeating: 0, count: 1 << 20))
        #expect(file.read(4097, at: 3 << 20) == [UInt8](repeating: 0, count: 4096) + [9])
        #expect(fallocate(file.descriptor, punchHole | keepSize, 15 << 20, 4 << 20) == 0)
        #expect(errorCode { Int(fallocate(file.descriptor, zeroRange, 15 << 20, 4 << 20)) } == EFBIG)
        #expect(errorCode { Int(fallocate(file.descriptor, 0, 0, 4096)) } == EOPNOTSUPP)
        #expect(errorCode { Int(fallocate(file.descriptor, keepSize, 0, 4096)) } == EOPNOTSUPP)
        #expect(FileManager.default.contents(atPath: mount.raw)?.count == 16 << 20)
        var info = stat()
        stat(mount.image, &info)
        #expect(info.st_blocks * 512 < 4 << 20)
    }

    @Test("SEEK_DATA and SEEK_HOLE tell data from holes, the VHD's footer is data")
    func holes() throws {
        let mount = try RawMount(sizeBytes: 16 << 20)
        let file = try OpenFile(mount.raw, O_RDWR)
        #expect(file.write([UInt8](repeating: 9, count: 1 << 20), at: 4 << 20) == 1 << 20)
        #expect(lseek(file.descriptor, 0, 3) == 4 << 20)
        #expect(lseek(file.descriptor, 4 << 20, 4) == 5 << 20)
        #expect(errorCode { lseek(file.descriptor, 6 << 20, 3) } == ENXIO)
        #expect(errorCode { lseek(file.descriptor, 16 << 20, 4) } == ENXIO)
        #expect(lseek(file.descriptor, 0, SEEK_END) == 16 << 20)
        let vhd = try OpenFile(mount.vhd, O_RDONLY)
        #expect(lseek(vhd.descriptor, 6 << 20, 3) == 16 << 20)
        #expect(lseek(vhd.descriptor, 16 << 20, 4) == (16 << 20) + 512)
    }

    @Test("disk.vhd is the disk with its footer, and read-only")
    func vhd() throws {
        let mount = try RawMount(sizeBytes: 4 << 20)
        let raw = try OpenFile(mount.raw, O_RDWR)
        #expect(raw.write([UInt8](repeating: 3, count: 100), at: (4 << 20) - 100) == 100)
        let vhd = try OpenFile(mount.vhd, O_RDONLY)
        let end = vhd.read(4096, at: (4 << 20) - 100)
        #expect(end.count == 612)
        #expect(Array(end[..<100]) == [UInt8](repeating: 3, count: 100))
        #expect(Array(end[100..<108]) == Array("conectix".utf8))
        #expect(vhd.read(10, at: (4 << 20) + 502) == [UInt8](repeating: 0x5A, count: 10))
        #expect(errorCode { Int(open(mount.vhd, O_RDWR)) } == EROFS)
    }
}

/// A seeded generator, so that a failure can be repeated.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }
}
