// Reads a log from its newest record back, without owning it and without payload: flush boundaries are told of by later
// records. A part of `LogReader` of its own, because nothing here needs the records to be durable or without gaps.

import BlockIO
import Glibc

extension LogReader {
    /// Where the oldest segment that is still there begins.
    package struct Beginning: Equatable, Sendable {
        package let afterSequence: UInt64
        package let wallNanoseconds: UInt64
    }

    /// Nil when the log holds nothing.
    package func beginning() throws -> Beginning? {
        try LogReader.segments(folder, state, geometry).first.map {
            Beginning(afterSequence: $0.header.afterSequence, wallNanoseconds: $0.header.wallNanoseconds)
        }
    }

    /// Calls `body` with the newest records first until it returns false. Ends where the owner recycles a segment
    /// meanwhile: older ones are gone then too.
    package func headersNewestFirst(_ body: (RecordHeader) -> Bool) throws {
        for listed in try LogReader.segments(folder, state, geometry).reversed() {
            do {
                guard try headersNewestFirst(listed, body) else { return }
            } catch LogError.recycled {
                return
            }
        }
    }

    private func headersNewestFirst(_ listed: ListedSegment, _ body: (RecordHeader) -> Bool) throws -> Bool {
        guard let file = try LogReader.openIfThere(listed.path) else { throw listed.recycled(folder) }
        let table = try listed.table(file, folder, geometry)
        // What a power loss cut off lies above the count of its seal.
        let end = listed.seal.map { min(Int($0.recordCount), geometry.slotCount) } ?? table.endSlot
        for slot in (0..<end).reversed() {
            guard let record = table.record(slot) else { continue }
            guard body(record) else { return false }
        }
        return true
    }
}
