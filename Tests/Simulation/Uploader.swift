// The uploader's part: reads the log up to what is durable, checks every record against what was asked for, and marks it.

import BlockIO
import ChangeLog
import SimulatedSystem
import VirtualDisk

extension DiskModel {
    /// Brings the base up to what is durable now, through the records of the log alone.
    func replicate() throws {
        guard let disk, !isUncertain else { return }
        let before = changes.filter { $0.state == .acknowledged }
        let durable: UInt64
        do { durable = try disk.makeDurable() } catch { return }
        for change in before { change.isDurable = true }
        guard durable > baseSequence else { return }
        var copy = base, expected = base
        var seenPoints: [UInt64] = []
        var partsSeen: [UInt64: Int] = [:]
        do {
            _ = try LogReader(folder).records(after: baseSequence, through: durable) { header, payload in
                if header.kind == .point { return seenPoints.append(header.sequence) }
                guard let change = try self.change(of: header, partsSeen) else {
                    if header.kind == .void { return }
                    throw Violation("disk \(number): the log holds record \(header.sequence), which nobody wrote")
                }
                if header.kind == .void { change.isVoid = true; return }
                let range = Int(header.diskOffset)..<Int(header.diskOffset + header.length)
                copy.replaceSubrange(range, with: header.kind == .write ? Array(payload) : [UInt8](repeating: 0, count: range.count))
                let place = partsSeen[change.number, default: 0]
                partsSeen[change.number] = place + 1
                change.parts[place].apply(to: &expected)
                if place + 1 == change.parts.count { change.isSettled = true }
                guard copy[range] == expected[range] else {
                    throw Violation("disk \(number): record \(header.sequence) of the log does not hold what was written, at \(range)")
                }
            }
        } catch let violation as Violation { throw violation } catch {
            if storage.faultsStruck > 0 || storage.isCallerDead { return }
            throw Violation("disk \(number): the log cannot be read up to \(durable): \(error)")
        }
        for change in ordered(through: durable) where change.state == .acknowledged && !change.isSettled && !change.isCutShort {
            throw Violation("disk \(number): the acknowledged record \(change.sequence) is not in the log that is durable up to \(durable)")
        }
        for point in points where point.sequence > baseSequence && point.sequence <= durable && !seenPoints.contains(point.sequence) {
            throw Violation("disk \(number): point \(point.sequence) is not in the log")
        }
        base = copy
        baseSequence = durable
        changes.removeAll { $0.sequence > 0 && $0.sequence <= durable }
        // After the model: a kill may come when the mark is there and before this returns.
        do { try folder.storeMark(ReplicatedMark(sequence: durable, lineage: disk.log.lineage), target: target ?? "vault") } catch { return }
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
