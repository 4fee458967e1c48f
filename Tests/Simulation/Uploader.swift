// The uploader's part: reads the log up to what is durable, checks every record against what was asked for, and marks it.

import BlockIO
import ChangeLog
import SimulatedSystem
import VirtualDisk

extension DiskModel {
    /// Brings the base up to what is durable now, through the records of the log alone. Returns how many intervals the log had merged.
    func replicate() throws -> Int {
        guard let disk, !isUncertain else { return 0 }
        let before = changes.filter { $0.state == .acknowledged }
        var durable: UInt64
        do { durable = try disk.makeDurable() } catch { return 0 }
        for change in before { change.isDurable = true }
        guard durable > baseSequence else { return 0 }
        var copy = base, expected = base
        var seenPoints: [UInt64] = []
        var partsSeen: [UInt64: Int] = [:]
        var merged: [MergedInterval] = []
        do {
            durable = try LogReader(folder).records(after: baseSequence, through: durable, merged: { merged.join($0) }) { header, payload in
                if let reach = merged.last?.through, header.sequence <= reach {
                    // Which of the changes these are is not asked; at the end they give the disk.
                    header.apply(payload, to: &copy)
                    if header.sequence == reach { expected = copy }
                    if header.kind == .point, header.sequence == reach { seenPoints.append(header.sequence) }
                    return
                }
                if header.kind == .point { return seenPoints.append(header.sequence) }
                guard let change = try self.change(of: header, partsSeen) else {
                    if header.kind == .void { return }
                    // A part of a request whose first records were left out.
                    if !merged.isEmpty {
                        header.apply(payload, to: &copy)
                        return header.apply(payload, to: &expected)
                    }
                    throw Violation("disk \(number): the log holds record \(header.sequence), which nobody wrote")
                }
                if header.kind == .void { change.isVoid = true; return }
                let range = Int(header.diskOffset)..<Int(header.diskOffset + header.length)
                header.apply(payload, to: &copy)
                let place = partsSeen[change.number, default: 0]
                partsSeen[change.number] = place + 1
                change.parts[place].apply(to: &expected)
                if place + 1 == change.parts.count { change.isSettled = true }
                guard copy[range] == expected[range] else {
                    throw Violation("disk \(number): record \(header.sequence) of the log does not hold what was written, at \(range)")
                }
            }
        } catch let violation as Violation { throw violation } catch {
            if storage.faultsStruck > 0 || storage.isCallerDead { return 0 }
            throw Violation("disk \(number): the log cannot be read up to \(durable): \(error)")
        }
        if !merged.isEmpty, !isDisk(copy, through: durable) {
            throw Violation("disk \(number): the log, merged \(merged), does not give the disk at \(durable), \(whereDifferent(copy, through: durable))")
        }
        for change in ordered(through: durable) where change.state == .acknowledged && !change.isSettled && !change.isCutShort && !merged.covers(change) {
            throw Violation("disk \(number): the acknowledged record \(change.sequence) is not in the log that is durable up to \(durable)")
        }
        for point in points where point.sequence > baseSequence && point.sequence <= durable && !seenPoints.contains(point.sequence) && !merged.hides(point.sequence) {
            throw Violation("disk \(number): point \(point.sequence) is not in the log")
        }
        replicate(through: durable, copy)
        // After the model: a kill may come when the mark is there and before this returns.
        do { try folder.storeMark(ReplicatedMark(sequence: durable, lineage: disk.log.lineage), target: target ?? "vault") } catch { return merged.count }
        return merged.count
    }

    /// Several records of one request follow each other, above what was there before.
    private func change(of header: RecordHeader, _ partsSeen: [UInt64: Int]) throws -> Change? {
        if let exact = changes.first(where: { !$0.isComposite && $0.sequence == header.sequence }) {
            if header.kind == .void, exact.state == .acknowledged { throw Violation("disk \(number): the acknowledged record \(header.sequence) is void") }
            return exact
        }
        // Of failed requests none is known to have ended: which of them the record is of, its place says.
        return changes.first { change in
            guard change.isComposite, header.sequence > change.above, header.sequence <= change.end ?? .max else { return false }
            let place = partsSeen[change.number, default: 0]
            return place < change.parts.count && header.diskOffset == UInt64(change.parts[place].offset / blockBytes * blockBytes)
        }
    }
}

extension RecordHeader {
    fileprivate func apply(_ payload: UnsafeRawBufferPointer, to disk: inout [UInt8]) {
        guard changesDisk else { return }
        disk.replaceSubrange(Int(diskOffset)..<Int(diskOffset + length), with: kind == .write ? Array(payload) : [UInt8](repeating: 0, count: Int(length)))
    }
}

extension [MergedInterval] {
    fileprivate func covers(_ change: Change) -> Bool { contains { change.sequence > $0.after && (change.isComposite ? change.above : change.sequence) <= $0.through } }
}
