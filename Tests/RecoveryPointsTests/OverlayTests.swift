// Flattening layers, against an array of blocks.

import Testing
import Vault
import VaultFixtures
import RecoveryPoints

@Suite struct OverlayTests {
    @Test(arguments: 0..<40) func newestLayerShows(seed: Int) throws {
        var numbers = SeededNumbers(seed: UInt64(seed))
        var layers: [MapExtent] = []
        var model = [Int: String](minimumCapacity: 500)
        for layer in 0..<Int.random(in: 0...60, using: &numbers) {
            let start = Int.random(in: 0..<400, using: &numbers)
            let count = Int.random(in: 1...100, using: &numbers)
            let isZero = layer % 5 == 4
            let source = MapSource.segment(SegmentID(lineage: VaultID(high: 0, low: 0), first: UInt64(layer / 10 + 1), last: UInt64(layer / 10 + 1)))
            let sourceBlock = UInt32.random(in: 0..<1000, using: &numbers)
            layers.append(MapExtent(startBlock: UInt64(start), blockCount: UInt64(count), source: isZero ? nil : source, sourceBlock: isZero ? 0 : sourceBlock))
            for index in 0..<count { model[start + index] = isZero ? "zero" : "\(layer / 10 + 1)/\(Int(sourceBlock) + index)" }
        }
        var found: [Int: String] = [:]
        var end: UInt64 = 0
        for extent in Overlay.flattened(layers) {
            #expect(extent.startBlock >= end && extent.blockCount > 0)
            end = extent.startBlock + extent.blockCount
            for index in 0..<Int(extent.blockCount) {
                if case .segment(let segment)? = extent.source {
                    found[Int(extent.startBlock) + index] = "\(segment.first)/\(Int(extent.sourceBlock) + index)"
                } else {
                    found[Int(extent.startBlock) + index] = "zero"
                }
            }
        }
        #expect(found == model, "seed \(seed)")
    }
}
