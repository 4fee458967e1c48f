// What one disk must hold: a known base and the changes above it, ordered by the sequences the log gave them.

import BlockIO
import ChangeLog
import DiskImage
import SimulatedSystem
import VirtualDisk

struct Violation: Error, CustomStringConvertible {
    let description: String
    init(_ text: String) { description = text }
}

/// A read that has begun: the disk as the target had it then, and what the target got since. A slow one may find what it was before.
final class PendingRead {
    let base: [UInt8]
    let acknowledgedBefore: Set<UInt64>
    fileprivate(set) var replicated: [Change] = []

    init(base: [UInt8], acknowledgedBefore: Set<UInt64>) {
        self.base = base
        self.acknowledgedBefore = acknowledgedBefore
    }
}

final class DiskModel {
    let number: Int
    let folder: LogFolder
    let imagePath: String
    let isDynamic: Bool
    let sizeBytes: Int
    let target: String?
    var disk: VirtualDisk?

    /// The disk at `baseSequence`: where the target is.
    var base: [UInt8]
    var baseSequence: UInt64 = 0
    /// Those above the base, in the order they were issued.
    var changes: [Change] = []
    var reads: [PendingRead] = []
    var points: [(sequence: UInt64, tag: String)] = []
    var frozen: (sequence: UInt64, bytes: [UInt8])?
    var highest: UInt64 = 0
    var lineages = 1
    /// Guests inside a request; a request of several records is alone.
    var busy = 0
    var isHeld = false
    /// Compared with the model since it was opened; if not, what it went through since.
    var isResolved = true
    var lostPower = false
    /// How much of a failed request is there could not be read: nothing is compared until the next opening.
    var isUncertain = false
    var wasClosed = false
    private static let triesMax = 4096
    private var triesLeft = 0

    init(number: Int, folder: LogFolder, imagePath: String, isDynamic: Bool, target: String?, base: [UInt8]) {
        self.number = number
        self.folder = folder
        self.imagePath = imagePath
        self.isDynamic = isDynamic
        self.target = target
        self.base = base
        sizeBytes = base.count
    }

    // MARK: what may be there

    /// Those that have a place, by sequence.
    func ordered(through: UInt64 = .max) -> [Change] {
        changes.filter { $0.sequence > 0 && $0.sequence <= through }.sorted { $0.sequence < $1.sequence }
    }

    /// Nil when it is known, else both must be tried.
    private func isVisible(_ change: Change) -> Bool? {
        if change.isVoid { return false }
        if change.isSettled || change.state == .acknowledged { return true }
        return change.state == .failed ? false : nil
    }

    /// Whether `actual` is the disk at `through`; requests that have not returned may be there or not.
    func isDisk(_ actual: [UInt8], through: UInt64 = .max) -> Bool {
        if isUncertain { return true }
        var open: [Change] = []
        let list = ordered(through: through).filter { change in
            if isVisible(change) == nil { open.append(change) }
            return isVisible(change) != false
        }
        for choice in 0..<(1 << min(open.count, 6)) {
            var expected = base
            for change in list {
                if let place = open.firstIndex(where: { $0 === change }), choice >> place & 1 == 1 { continue }
                for part in change.parts { part.apply(to: &expected) }
            }
            if expected == actual { return true }
        }
        return false
    }

    func bytes(through: UInt64) -> [UInt8] {
        var expected = base
        for change in ordered(through: through) where isVisible(change) != false {
            for part in change.parts { part.apply(to: &expected) }
        }
        return expected
    }

    func beginRead() -> PendingRead {
        let read = PendingRead(base: base, acknowledgedBefore: Set(changes.filter { $0.state == .acknowledged }.map(\.number)))
        reads.append(read)
        return read
    }

    func endRead(_ read: PendingRead) { reads.removeAll { $0 === read } }

    /// The target has all up to there: `content`.
    func replicate(through sequence: UInt64, _ content: [UInt8]) {
        let replicated = ordered(through: sequence)
        for read in reads { read.replicated += replicated }
        base = content
        baseSequence = sequence
        changes.removeAll { $0.sequence > 0 && $0.sequence <= sequence }
    }

    /// Each block of a read must be one that was there between the newest change acknowledged before the read, by block, and the read's end.
    func check(_ read: PendingRead, found actual: [UInt8], at offset: Int) throws(Violation) {
        var position = isUncertain ? offset + actual.count : offset
        while position < offset + actual.count {
            let end = min((position / blockBytes + 1) * blockBytes, offset + actual.count)
            let found = actual[position - offset..<end - offset]
            guard isBlock(found, position..<end, read) else {
                throw Violation("disk \(number): a read of \(offset)+\(actual.count) found at \(position)..<\(end) what no write left there: \(explain(found, position..<end, read))")
            }
            position = end
        }
    }

    private func isBlock(_ found: ArraySlice<UInt8>, _ range: Range<Int>, _ read: PendingRead) -> Bool {
        // A partial write's record holds the whole block: neighbours in the block count as well.
        let list = (read.replicated + ordered()).filter { $0.touches(range) && isVisible($0) != false }
        let floor = list.last { read.acknowledgedBefore.contains($0.number) }?.sequence ?? 0
        let open = list.filter { isVisible($0) == nil }
        for choice in 0..<(1 << min(open.count, 5)) {
            var value = Array(read.base[range])
            if floor == 0, value[...].elementsEqual(found) { return true }
            for change in list {
                if let place = open.firstIndex(where: { $0 === change }), choice >> place & 1 == 1 { continue }
                for part in change.parts where part.range.overlaps(range) {
                    let overlap = part.range.clamped(to: range)
                    for at in overlap { value[at - range.lowerBound] = part.bytes[at - part.offset] }
                }
                if change.sequence >= floor, value[...].elementsEqual(found) { return true }
            }
        }
        return false
    }

    func explain(_ found: ArraySlice<UInt8>, _ range: Range<Int>, _ read: PendingRead? = nil) -> String {
        var known = Array((read?.base ?? base)[range])
        var versions = ["base: \(agreement(known, found))"]
        for change in (read?.replicated ?? []) + ordered() where change.touches(range) && isVisible(change) != false {
            for part in change.parts where part.range.overlaps(range) {
                for at in part.range.clamped(to: range) { known[at - range.lowerBound] = part.bytes[at - part.offset] }
            }
            versions.append("\(change.sequence) \(change.state)\(change.isDurable ? " durable" : "") \(change.parts.map(\.range)): \(agreement(known, found))")
        }
        return versions.suffix(6).joined(separator: "; ")
    }

    private func agreement(_ known: [UInt8], _ found: ArraySlice<UInt8>) -> String {
        let same = zip(known, found).count { $0 == $1 }
        return "\(same) of \(found.count) bytes agree, first other at \(zip(known, found).enumerated().first { $0.element.0 != $0.element.1 }?.offset ?? -1)"
    }

    func whereDifferent(_ actual: [UInt8], through: UInt64 = .max) -> String {
        let expected = bytes(through: through)
        guard let first = expected.indices.first(where: { expected[$0] != actual[$0] }) else { return "nowhere" }
        let block = first / blockBytes * blockBytes..<min(first / blockBytes * blockBytes + blockBytes, sizeBytes)
        return "first at \(first): expected \(expected[first]), \(explain(actual[block], block))"
    }

    // MARK: after a reopening

    /// What a stop of any kind has left is compared with what must and what may be there, and is the new truth.
    func resolve(afterPowerLoss: Bool, wasClosed: Bool) throws {
        guard let disk else { return }
        let now = disk.log.currentState.lineages
        let cut = now.dropFirst(lineages).map(\.branchSequence).min()
        if wasClosed, cut != nil { throw Violation("disk \(number): a clean stop was cut at \(cut!)") }
        if !afterPowerLoss, cut != nil { throw Violation("disk \(number): a new lineage without a power loss") }
        var unsure: [Change] = [], gone = Set<UInt64>()
        for change in changes {
            if change.isComposite {
                let isCutThrough = cut.map { $0 < change.end ?? .max } ?? false
                if change.isCutShort || change.state != .acknowledged || isCutThrough { unsure.append(change) }
                if let cut, cut < change.sequence, change.isDurable, !change.isCutShort { throw Violation("disk \(number): record \(change.sequence) was durable, the log was cut at \(cut)") }
                // None of its records had a place, or all of them were cut off.
                if min(change.end ?? .max, cut ?? .max) <= change.above { gone.insert(change.number) }
                continue
            }
            let isKept = cut.map { change.sequence <= $0 } ?? true
            let isHeld = try change.sequence > 0 && isKept && disk.log.holdsRecord(sequence: change.sequence)
            if !isHeld { gone.insert(change.number) }
            // What is older than the log's oldest segment is said to be held; a void may have been among it.
            if isHeld, change.state == .failed { unsure.append(change) }
            if isHeld || change.state != .acknowledged { continue }
            if change.isDurable { throw Violation("disk \(number): record \(change.sequence) was durable and is gone\(cut.map { ", the log was cut at \($0)" } ?? "")") }
            if isKept { throw Violation("disk \(number): the acknowledged record \(change.sequence) is not in the log") }
        }
        let actual = try contents()
        guard !storage.isCallerDead else { return }
        // Nothing of the model changes before the disk could be read as a whole.
        changes.removeAll { gone.contains($0.number) }
        unsure.removeAll { gone.contains($0.number) }
        triesLeft = Self.triesMax
        let wasUncertain = isUncertain
        isUncertain = false
        do { try settle(unsure, actual) } catch where wasUncertain {
            // Requests failed in a life in which the disk could not be read: how they overlap was not seen. What is there counts.
            changes = []
            base = actual
            baseSequence = max(baseSequence, disk.log.status.lastSequence)
        }
        changes.removeAll { $0.parts.isEmpty }
        if let cut { for change in changes where change.isCutShort { change.end(by: cut) } }
        // After a kill in the same boot what is there is acknowledged, and no more durable than before.
        let isAllDurable = afterPowerLoss || wasClosed
        for change in changes {
            change.state = .acknowledged
            if isAllDurable { change.isDurable = true }
        }
        lineages = now.count
        points.removeAll { point in cut.map { point.sequence > $0 } ?? false }
        if target == nil, isAllDurable {
            base = actual
            baseSequence = max(baseSequence, disk.log.status.lastSequence)
            changes = []
        }
    }

    /// Of several records a stop leaves the first ones.
    private func settle(_ unsure: [Change], _ actual: [UInt8]) throws {
        guard let change = unsure.first else {
            triesLeft -= 1
            guard triesLeft > 0 else { throw Violation("disk \(number): too many requests may have left some of their records") }
            for change in changes { change.state = .acknowledged }
            guard isDisk(actual) else { throw Violation("disk \(number): after reopening it differs from what was acknowledged, \(whereDifferent(actual))") }
            return
        }
        let all = change.parts
        for count in (0...all.count).reversed() {
            change.keepFirst(count, of: all)
            change.state = .acknowledged
            do { return try settle(Array(unsure.dropFirst()), actual) } catch {
                // Who tries fewer of an earlier one's records begins with all of these again.
                change.keepFirst(all.count, of: all)
                if count == 0 { throw error }
            }
        }
    }

    func contents() throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xA5, count: sizeBytes)
        try bytes.withUnsafeMutableBytes { try disk!.read(into: $0, at: 0) }
        return bytes
    }

    func imageContents() throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xA5, count: sizeBytes)
        try bytes.withUnsafeMutableBytes { try disk!.image.read(into: $0, at: 0) }
        return bytes
    }
}
