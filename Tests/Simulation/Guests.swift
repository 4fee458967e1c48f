// Who uses the disks during a life: guests that write, read and flush, and the administration that cuts points, freezes,
// replicates and merges.

import BlockIO
import ChangeLog
import SimulatedSystem
import VirtualDisk

extension World {
    /// Starts guests and administration.
    func employ(_ life: Life) {
        life.guestsLeft = profile.guestCount
        for guest in 0..<profile.guestCount {
            spawn(process: life.process) {
                for _ in 0..<self.profile.requestsPerGuest where !life.isKilled && self.violation == nil { self.request(guest, life) }
                life.guestsLeft -= 1
            }
        }
        life.isAdministered = true
        spawn(process: life.process) {
            defer { life.isAdministered = false }
            while life.guestsLeft > 0, !life.isKilled, self.violation == nil {
                simulated_sleep(UInt64(Dice.below(Dice.pick([200_000, 5_000_000]))))
                if life.guestsLeft > 0, !life.isKilled { self.administer(life) }
            }
        }
    }

    private func request(_ guest: Int, _ life: Life) {
        let model = Dice.pick(disks)
        let kind = Dice.below(100)
        let isAlone = kind >= 90
        let isReady = wait(until: { !model.isHeld && (!isAlone || model.busy == 0) }, unless: { life.isKilled || self.violation != nil })
        guard isReady, let disk = model.disk else { return }
        model.busy += 1
        if isAlone { model.isHeld = true }
        defer { if !life.isKilled { model.busy -= 1; if isAlone { model.isHeld = false } } }
        switch kind {
        case ..<35: write(model, disk, parts(of: alignedRange(model), disk), life)
        case ..<55: write(model, disk, parts(of: anyRange(model), disk), life)
        case ..<62: zero(model, disk, alignedRange(model), life)
        case ..<80: read(model, disk, anyRange(model), life)
        case ..<90: flush(model, disk, life)
        case ..<93: write(model, disk, parts(of: largeRange(model), disk), life)
        case ..<97: zero(model, disk, Dice.chance(1, in: 3) ? Dice.below(model.sizeBytes / 2)..<model.sizeBytes - Dice.below(5000) : anyRange(model), life)
        default: expect { try checkHoles(model, disk, life) }
        }
    }

    // MARK: ranges

    /// A few places are hot, so that requests meet.
    private func start(_ model: DiskModel) -> Int {
        Dice.chance(1, in: 2) ? Dice.below(min(16 * blockBytes, model.sizeBytes)) : Dice.below(model.sizeBytes)
    }

    private func alignedRange(_ model: DiskModel) -> Range<Int> {
        let first = start(model) / blockBytes * blockBytes
        let count = (1 + (Dice.chance(1, in: 4) ? Dice.below(16) : Dice.below(2))) * blockBytes
        return first..<min(first + count, model.sizeBytes)
    }

    private func anyRange(_ model: DiskModel) -> Range<Int> {
        let unit = Dice.chance(1, in: 2) ? 512 : 1
        let first = start(model) / unit * unit
        let count = 1 + Dice.below(Dice.pick([512, 4096, 9000, 40_000])) / unit * unit
        return first..<min(first + max(count, unit), model.sizeBytes)
    }

    /// More than one record takes.
    private func largeRange(_ model: DiskModel) -> Range<Int> {
        let first = Dice.below(model.sizeBytes)
        return first..<min(first + 60_000 + Dice.below(200_000), model.sizeBytes)
    }

    /// As the disk cuts them into records.
    private func parts(of range: Range<Int>, _ disk: VirtualDisk) -> [Part] {
        var parts: [Part] = []
        var start = range.lowerBound
        let fill = UInt8(truncatingIfNeeded: simulated_random())
        while start < range.upperBound {
            let end = min(start + disk.log.geometry.pieceBytesMax, range.upperBound)
            parts.append(Part(offset: start, bytes: (start..<end).map { UInt8(truncatingIfNeeded: $0 >> 9 &+ $0) ^ fill }))
            start = end
        }
        return parts
    }

    // MARK: requests

    private func write(_ model: DiskModel, _ disk: VirtualDisk, _ parts: [Part], _ life: Life) {
        guard let first = parts.first, parts.count == 1 || model.isHeld else { return }
        let bytes = parts.flatMap(\.bytes)
        perform(model, parts, life) { slot throws(SystemError) in
            var failure: SystemError?
            bytes.withUnsafeBytes { buffer in
                do throws(SystemError) { try disk.write(buffer, at: UInt64(first.offset), sequenceSlot: slot) } catch { failure = error }
            }
            if let failure { throw failure }
        }
    }

    /// The partial edges first, then the whole blocks.
    private func zero(_ model: DiskModel, _ disk: VirtualDisk, _ range: Range<Int>, _ life: Life) {
        guard !range.isEmpty else { return }
        let first = min((range.lowerBound + blockBytes - 1) / blockBytes * blockBytes, range.upperBound)
        let last = range.upperBound == model.sizeBytes ? range.upperBound : max(range.upperBound / blockBytes * blockBytes, first)
        let parts = [range.lowerBound..<first, last..<range.upperBound, first..<last].filter { !$0.isEmpty }
            .map { Part(offset: $0.lowerBound, bytes: [UInt8](repeating: 0, count: $0.count)) }
        let mayFree = Dice.chance(1, in: 2)
        perform(model, parts, life) { slot throws(SystemError) in
            try disk.zero(at: UInt64(range.lowerBound), length: UInt64(range.count), mayFree: mayFree, sequenceSlot: slot)
        }
    }

    private func perform(
        _ model: DiskModel, _ parts: [Part], _ life: Life, _ body: (UnsafeMutablePointer<UInt64>) throws(SystemError) -> Void
    ) {
        changeCount += 1
        let change = Change(parts, above: sequencer?.current ?? 0, number: changeCount)
        model.changes.append(change)
        let pointBefore = lastPoint, highestBefore = highestEver
        storage.note("disk \(model.number): \(parts.map(\.range)) begins")
        var failure: SystemError?
        do throws(SystemError) { try body(change.sequenceSlot) } catch { failure = error }
        // A dead process answers nobody.
        guard !life.isKilled else { return }
        change.end = sequencer?.current
        storage.note("disk \(model.number): \(parts.map(\.range)) = \(failure.map { "\($0)" } ?? "sequence \(change.sequence)")")
        simulated_note(change.sequence)
        counts.requests += 1
        model.highest = max(model.highest, change.sequence)
        if failure == nil {
            change.state = .acknowledged
            expect {
                if change.isVoid { throw Violation("disk \(model.number): record \(change.sequence) was acknowledged and is void") }
                if change.sequence <= pointBefore { throw Violation("disk \(model.number): record \(change.sequence) was issued after point \(pointBefore)") }
                if change.sequence == 0 { throw Violation("disk \(model.number): a write was acknowledged without a sequence") }
                if life.process > 1, change.sequence <= highestBeforeLife { throw Violation("disk \(model.number): sequence \(change.sequence) is used again") }
            }
        } else {
            fail(model, change, life)
        }
        highestEver = max(highestEver, highestBefore, change.sequence)
    }

    /// Of a request that failed nothing is there, but of several records the first ones may be.
    private func fail(_ model: DiskModel, _ change: Change, _ life: Life) {
        guard change.isComposite else { return change.state = .failed }
        if model.isUncertain { return }
        guard let actual = try? model.contents(), !life.isKilled else { return model.isUncertain = true }
        let all = change.parts
        change.state = .acknowledged
        for count in (0..<all.count).reversed() {
            change.keepFirst(count, of: all)
            if model.isDisk(actual) {
                if count == 0 { model.changes.removeAll { $0 === change } }
                return
            }
        }
        change.keepFirst(all.count, of: all)
        change.state = .failed
        expect { throw Violation("disk \(model.number): a request that failed left neither its first records nor nothing, \(model.whereDifferent(actual))") }
    }

    private func read(_ model: DiskModel, _ disk: VirtualDisk, _ range: Range<Int>, _ life: Life) {
        guard !range.isEmpty else { return }
        let read = model.beginRead()
        defer { model.endRead(read) }
        var bytes = [UInt8](repeating: 0xA5, count: range.count)
        do { try bytes.withUnsafeMutableBytes { try disk.read(into: $0, at: UInt64(range.lowerBound)) } } catch {
            if storage.faultsStruck == 0, !life.isKilled { violation = Violation("disk \(model.number): a read failed: \(error)") }
            return
        }
        guard !life.isKilled else { return }
        counts.reads += 1
        expect { try model.check(read, found: bytes, at: range.lowerBound) }
    }

    private func flush(_ model: DiskModel, _ disk: VirtualDisk, _ life: Life) {
        let before = model.changes.filter { $0.state == .acknowledged }
        do { try disk.flush() } catch { return }
        guard !life.isKilled else { return }
        storage.note("disk \(model.number): flushed")
        for change in before { change.isDurable = true }
    }

    private func checkHoles(_ model: DiskModel, _ disk: VirtualDisk, _ life: Life) throws {
        let from = Dice.below(model.sizeBytes)
        let hole = Int(try disk.nextHole(from: UInt64(from)))
        let data = try disk.nextData(from: UInt64(from)).map { Int($0) } ?? model.sizeBytes
        guard !life.isKilled else { return }
        guard max(hole, data) > from || from == model.sizeBytes, hole == from || data == from else { throw Violation("neither data nor hole at \(from)") }
        if model.isUncertain { return }
        let bytes = model.bytes(through: .max)
        guard data <= from || bytes[from..<data].allSatisfy({ $0 == 0 }) else { throw Violation("disk \(model.number): a hole at \(from)..<\(data) hides data") }
    }

    // MARK: administration

    private func administer(_ life: Life) {
        let model = Dice.pick(disks)
        guard wait(until: { !self.disks.contains(where: \.isHeld) }, unless: { life.isKilled || self.violation != nil }), let disk = model.disk else { return }
        for model in disks { model.busy += 1 }
        defer { if !life.isKilled { for model in disks { model.busy -= 1 } } }
        switch Dice.below(100) {
        case ..<40: if model.target != nil, !profile.isTargetAway || Dice.chance(1, in: 12) { expect { counts.merges += try model.replicate() } }
        case ..<60: expect { try cutPoint(life) }
        case ..<72: expect { try freezeOrThaw(model, disk, life) }
        case ..<80: do { try disk.mergeAll() } catch {}
        case ..<85: expect { try checkBudget(disk) }
        case ..<90: simulated_set_wall_clock(Int64(Dice.below(4_000_000)) * 1_000_000_000_000)
        case ..<95: storage.pagesMax = .max
        default: simulated_sleep(UInt64(Dice.below(10_000_000_000)))
        }
    }

    private func checkBudget(_ disk: VirtualDisk) throws {
        let log = disk.status.log
        if log.fileBytes > log.budgetBytes { throw Violation("\(disk.name): the log has \(log.fileBytes) bytes, more than its budget of \(log.budgetBytes)") }
    }

    private func cutPoint(_ life: Life) throws {
        let chosen = Dice.chance(1, in: 2) ? disks : [Dice.pick(disks)]
        let before = chosen.map(\.highest).max() ?? 0
        let tag = "point \(counts.points)"
        let number: UInt64
        do { number = try VirtualDisk.cutPoint(chosen.compactMap(\.disk), tag: tag) } catch { return }
        guard !life.isKilled else { return }
        storage.note("point \(number)")
        if number <= before { throw Violation("point \(number) does not hold record \(before), acknowledged before it was asked for") }
        lastPoint = number
        counts.points += 1
        for model in chosen { model.points.append((number, tag)) }
    }

    private func freezeOrThaw(_ model: DiskModel, _ disk: VirtualDisk, _ life: Life) throws {
        if disk.frozenSequence != nil {
            if let frozen = model.frozen, let image = try? model.imageContents(), !life.isKilled, image != frozen.bytes {
                throw Violation("disk \(model.number): the image frozen at \(frozen.sequence) changed")
            }
            do { try disk.unfreeze() } catch { return }
            if !life.isKilled { model.frozen = nil }
            return
        }
        let sequence: UInt64
        do { sequence = try disk.freeze() } catch { return }
        let image = try model.imageContents()
        guard !life.isKilled else { return }
        storage.note("disk \(model.number): frozen at \(sequence)")
        guard model.isDisk(image, through: max(sequence, model.baseSequence)) else {
            throw Violation("disk \(model.number): the image frozen at \(sequence) is not the disk there, \(model.whereDifferent(image, through: sequence))")
        }
        model.frozen = (sequence, image)
    }
}
