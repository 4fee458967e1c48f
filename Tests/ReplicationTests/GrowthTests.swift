// A disk that grows while it is replicated: each point has the size and the content it was cut with.

import BlockIO
import ChangeLog
import Foundation
import RecoveryPoints
import Testing
import Vault
import VirtualDisk

@Suite struct GrowthTests {
    private static let mebibyte = 1 << 20

    // Promise P6: A point has the size that the disk had when it was cut.
    private func expectAllPoints(_ disk: ReplicatedDisk) throws {
        let history = try #require(try disk.history())
        for (sequence, content) in disk.points where sequence >= history.state.oldestSequence {
            let found = try vaultContent(history, at: sequence)
            #expect(found.count == content.count, "the size of point #\(sequence)")
            let isSame = found == content
            #expect(isSame, "point #\(sequence)")
            let reader = try PointReader(PointSources(vault: history.vault), disk: history.state.disk, plan: try history.plan(at: sequence))
            #expect(reader.sizeBytes == UInt64(content.count))
        }
        #expect(history.state.sizeBytes == UInt64(disk.sizeBytes))
    }

    /// Uploads fall on either side of the growths, or on none, so one publication may hold two of them; the last step passes the 64 MiB a leaf of the map covers.
    @Test(arguments: 0..<6) func everyPointKeepsItsSize(_ seed: Int) throws {
        var random = SeededRandom(UInt64(seed))
        let disk = try ReplicatedDisk(content: (0..<Self.mebibyte).map { UInt8(truncatingIfNeeded: $0 / 4096) })
        if seed % 2 == 0 { #expect(try disk.upload() == nil) }
        for size in [2, 3, 66] {
            try disk.scribble(12, using: &random)
            if Bool.random(using: &random) { #expect(try disk.upload() == nil) }
            try disk.grow(to: size * Self.mebibyte)
            if Bool.random(using: &random) { #expect(try disk.upload() == nil) }
            try disk.write([9, 9, 9], at: size * Self.mebibyte - 3)
            try disk.cut()
            // A full manifest may span a growth, and a new history may begin right behind one.
            if seed % 3 == 2 {
                _ = try disk.disk.makeDurable()
                try disk.reopen(inAnotherBoot: true)
            }
        }
        #expect(try disk.upload() == nil)
        try expectAllPoints(disk)
        #expect(disk.points.values.contains { $0.count == 2 * Self.mebibyte } && disk.points.values.contains { $0.count == 66 * Self.mebibyte })
    }

    /// Many deltas, so that roll-ups and full manifests cover states of both sizes.
    @Test func aMapOverAGrowthServesStatesOfBothSizes() throws {
        var random = SeededRandom(11)
        let disk = try ReplicatedDisk(content: [UInt8](repeating: 1, count: Self.mebibyte))
        #expect(try disk.upload() == nil)
        for round in 0..<40 {
            if round == 9 { try disk.grow(to: 2 * Self.mebibyte) }
            try disk.scribble(2, using: &random)
            #expect(try disk.upload() == nil)
        }
        try expectAllPoints(disk)
    }

    /// Nothing is written after the growth: the point that marks it carries the size.
    @Test func aGrowthIsReplicatedWithoutAWrite() throws {
        let disk = try ReplicatedDisk(content: [UInt8](repeating: 1, count: Self.mebibyte))
        #expect(try disk.upload() == nil)
        try disk.grow(to: 4 * Self.mebibyte)
        #expect(try disk.upload() == nil)
        let history = try #require(try disk.history())
        #expect(try history.points().last?.tag == "grown")
        #expect(try vaultContent(history, at: history.newestSequence).count == 4 * Self.mebibyte)
        try expectAllPoints(disk)
    }
}
