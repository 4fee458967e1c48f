// What of a restore is done: `OUTPUT.farshore-restore`, beside the partial image. Only regions whose bytes were
// verified, written and flushed are in it, so a restore that was interrupted in any way goes on behind them.

import BlockIO
import Foundation
import Vault

struct RestoreState: Codable, Equatable {
    /// The first one went with images that had the disk's id.
    private static let format = 2

    /// What is restored; a state of anything else is of no use.
    struct Job: Codable, Equatable {
        let vault: String
        let disk: String
        let sequence: UInt64
        let sizeBytes: UInt64
        let imageFormat: String
        let regionBytes: UInt64
    }

    private(set) var format = Self.format
    let job: Job
    /// Finished regions as rising, not touching ranges of region numbers: first, count.
    var done: [[UInt64]] = []

    /// The state of an earlier run of this very job, or nil.
    static func load(_ path: String, job: Job) throws(SystemError) -> RestoreState? {
        guard let bytes = try DurableFile.read(path, limitBytes: 64 << 20) else { return nil }
        guard let state = try? JSONDecoder().decode(RestoreState.self, from: Data(bytes)), state.job == job else { return nil }
        // Raw and qcow2 images have no id.
        let hasNoID = state.format == 1 && ["raw", "qcow2"].contains(job.imageFormat)
        return state.format == Self.format || hasNoID ? state : nil
    }

    func save(_ path: String) throws(SystemError) {
        let bytes: [UInt8]
        do {
            bytes = Array(try JSONEncoder().encode(self))
        } catch {
            throw SystemError(errno: 22, operation: "write the state of the restore as JSON (\(error))", path: path)
        }
        try DurableFile.replace(path, with: bytes)
    }

    mutating func set(_ regions: RegionSet) { done = regions.ranges.map { [$0.lowerBound, UInt64($0.count)] } }

    /// The finished regions below `count`; nonsense in the file counts as nothing done.
    func regions(below count: UInt64) -> RegionSet {
        var regions = RegionSet()
        for range in done {
            guard range.count == 2, range[0] < count, range[1] <= count - range[0] else { return RegionSet() }
            regions.insert(range[0]..<range[0] + range[1])
        }
        return regions
    }
}
