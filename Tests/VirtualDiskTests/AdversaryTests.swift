// What a reader sees while destage moves blocks from the log to the image under its hands.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Synchronization
import Testing
import VirtualDisk

@Suite struct AdversaryTests {
    /// A block written after the range around it was zeroed: when destage forgets both, the block must never read as the zeros.
    @Test func aBlockOverZeroedSpaceNeverReadsAsTheZeros() throws {
        let test = try TestDisk(MemoryImage([UInt8](repeating: 9, count: 4 << 20)), segments: 24)
        defer { test.remove() }
        let disk = test.disk!
        let round = Atomic<Int>(0), wrong = Atomic<Int>(0), isDone = Atomic<Bool>(false)
        let reader = try OwnThread(name: "reader") {
            while !isDone.load(ordering: .relaxed) {
                let before = round.load(ordering: .sequentiallyConsistent)
                guard let bytes = try? disk.bytes(at: 5 * blockBytes, count: 16), round.load(ordering: .sequentiallyConsistent) == before else { continue }
                if before > 0, bytes.contains(where: { $0 != UInt8(before) }) { wrong.add(1, ordering: .relaxed) }
            }
        }
        for number in 1...40 {
            round.store(0, ordering: .sequentiallyConsistent)
            try disk.zero(at: 0, length: 2 << 20, mayFree: true, sequenceSlot: nil)
            try disk.put([UInt8](repeating: UInt8(number), count: blockBytes), at: 5 * blockBytes)
            round.store(number, ordering: .sequentiallyConsistent)
            for block in 600..<800 { try disk.put([UInt8](repeating: 1, count: blockBytes), at: block * blockBytes) }
            try disk.mergeAll()
        }
        isDone.store(true, ordering: .relaxed)
        reader.join()
        #expect(wrong.load(ordering: .relaxed) == 0)
    }

    /// Ending protection is interrupted between two files: the log left behind still opens, so that it can be repeated.
    @Test func aLogThatIsHalfRemovedStillOpens() throws {
        let test = try TestDisk(MemoryImage([UInt8](repeating: 0, count: 1 << 20)), targets: ["vault"])
        defer { test.remove() }
        // Two spares, of which the second is used first: the order of names is not the order of use.
        while test.disk.status.log.fileBytes < 2 * UInt64(TestDisk.segmentBytes) { usleep(1000) }
        for block in 0..<120 { try test.disk.put([UInt8](repeating: 1, count: blockBytes), at: block * blockBytes) }
        let obstacle = test.folder.path + "/segment-000000-x"
        try #require(mkdir(obstacle, 0o700) == 0)
        #expect(throws: DiskError.self) { try test.disk.mergeAndRemoveLog() }
        rmdir(obstacle)
        try test.open()
        #expect(try test.contents()[..<(120 * blockBytes)].allSatisfy { $0 == 1 })
    }

    /// A copy that skips holes loses what SEEK_DATA does not find.
    @Test func dataThatMovesIntoTheImageDuringASeekIsFound() throws {
        let image = MeddledImage(MemoryImage([UInt8](repeating: 0, count: 1 << 20)))
        let test = try TestDisk(image)
        defer { test.remove() }
        let disk = test.disk!
        try disk.put([UInt8](repeating: 1, count: blockBytes), at: 5 * blockBytes)
        image.afterNextAnswer { try? disk.mergeAll() }
        #expect(try disk.nextData(from: 0) == UInt64(5 * blockBytes))
    }
}

/// Lets something happen between the image's answer to "where is data" and its use.
private final class MeddledImage: ImageFile {
    let base: MemoryImage
    private let action = Mutex<(@Sendable () -> Void)?>(nil)

    init(_ base: MemoryImage) { self.base = base }

    var path: String { base.path }
    var sizeBytes: UInt64 { base.sizeBytes }

    func afterNextAnswer(_ body: @escaping @Sendable () -> Void) { action.withLock { $0 = body } }

    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) { try base.read(into: buffer, at: offset) }
    func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) { try base.write(buffer, at: offset) }
    func zero(at offset: UInt64, length: UInt64) throws(SystemError) { try base.zero(at: offset, length: length) }
    func flush() throws(SystemError) { try base.flush() }

    func nextData(from offset: UInt64) throws(SystemError) -> UInt64? {
        let answer = try base.nextData(from: offset)
        let action = action.withLock { action in
            defer { action = nil }
            return action
        }
        action?()
        return answer
    }

    func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 { try base.nextHole(from: offset) }
}
