// What has to be durable before the log says that the image holds a segment: see the order in Destage.swift.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Synchronization
import Testing
import VirtualDisk

@Suite struct DestageOrderTests {
    private func destaged(_ test: TestDisk) throws -> VirtualDisk {
        let disk = try #require(test.disk)
        let began = Clock.monotonicNanoseconds()
        while disk.log.currentState.destagedSegment == 0, Clock.monotonicNanoseconds() - began < 60_000_000_000 { usleep(5_000) }
        try #require(disk.log.currentState.destagedSegment > 0)
        return disk
    }

    /// The batch leaves out a block because a newer record exists. That one is in a segment nobody synced: given up the older
    /// copy, a power loss would cut the newer one off.
    @Test func newerDataIsDurableBeforeAnOlderCopyIsGivenUp() throws {
        let test = try TestDisk(MemoryImage([UInt8](repeating: 0, count: 1 << 20)))
        defer { test.remove() }
        let disk = try #require(test.disk)
        // The write that does not fit any more closes the first segment and is the first of the next one.
        while disk.log.liveFiles.count < 2 { try disk.put([UInt8](repeating: 1, count: blockBytes), at: 0) }
        let newest = disk.status.log.lastSequence
        #expect(try destaged(test).status.log.durableSequence >= newest)
    }

    @Test func theImageIsSyncedBeforeTheLogLetsGo() throws {
        let image = MemoryImage([UInt8](repeating: 0, count: 1 << 20))
        let test = try TestDisk(image)
        defer { test.remove() }
        let disk = try #require(test.disk)
        var block = 0
        while disk.log.liveFiles.count < 2 {
            try disk.put([UInt8](repeating: 7, count: blockBytes), at: block * blockBytes)
            block += 1
        }
        _ = try destaged(test)
        #expect(image.contents.withLock { $0.durable.prefix((block - 1) * blockBytes).allSatisfy { $0 == 7 } })
    }

    /// A partial write reads the rest of its block, and nobody changes it before the record is in the map.
    @Test func neighboursInABlockDoNotUndoEachOther() throws {
        let test = try TestDisk(MemoryImage([UInt8](repeating: 0, count: 1 << 20)), segments: 64)
        defer { test.remove() }
        let disk = try #require(test.disk)
        for round in 1...200 {
            let threads = try (0..<4).map { part in
                try OwnThread(name: "writer") { try? disk.put([UInt8](repeating: UInt8(round), count: 1024), at: part * 1024) }
            }
            for thread in threads { thread.join() }
            #expect(try disk.bytes(at: 0, count: blockBytes).allSatisfy { $0 == UInt8(round) }, "round \(round)")
        }
    }
}
