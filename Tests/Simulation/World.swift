// One run: disks that share a sequencer live through several lives of the process that serves them, each ended by a clean
// stop, a kill or a power loss at any point, and are compared with the model after each. Everything follows the seed.

import BlockIO
import ChangeLog
import DiskImage
import SimulatedSystem
import VirtualDisk

/// What a run's dice decided once.
struct Profile {
    let diskCount: Int
    let guestCount: Int
    let lives: Int
    let requestsPerGuest: Int
    let hasFaults: Bool
    let hasTarget: Bool
    /// It gets something now and then only, so that the log is merged.
    let isTargetAway: Bool
    let budgetSegments: UInt64

    init() {
        diskCount = 1 + (Dice.chance(1, in: 2) ? 0 : Dice.below(3))
        guestCount = 1 + Dice.below(5)
        lives = 2 + Dice.below(4)
        hasFaults = Dice.chance(2, in: 5)
        hasTarget = Dice.chance(3, in: 4)
        isTargetAway = hasTarget && Dice.chance(1, in: 3)
        requestsPerGuest = (isTargetAway ? 60 : 5) + Dice.below(60) / diskCount
        budgetSegments = UInt64(isTargetAway ? 12 + Dice.below(4) : 4 + Dice.below(10))
    }
}

/// One life of the process.
final class Life {
    let process: UInt32
    var isKilled = false
    var isOver = false
    var guestsLeft = 0
    var isAdministered = false
    var openError: (any Error)?
    var wasClosed = false

    init(process: UInt32) { self.process = process }
}

final class World {
    static let root = "/simulated/site"
    let profile = Profile()
    var disks: [DiskModel] = []
    var life = Life(process: 0)
    var sequencer: Sequencer?
    var violation: Violation?
    var highestEver: UInt64 = 0
    /// As it was when this life began: nothing may be used again.
    var highestBeforeLife: UInt64 = 0
    var lastPoint: UInt64 = 0
    var boot = 1
    var changeCount: UInt64 = 0
    var counts = Counts()

    struct Counts {
        var requests = 0, reads = 0, kills = 0, powerLosses = 0, cleanStops = 0, faults = 0, points = 0, merges = 0
    }

    /// Runs `body`; what the engine answers with an error is no violation where faults were planned.
    func expect(_ body: () throws -> Void) {
        do { try body() } catch let found as Violation {
            if violation == nil, !life.isKilled { violation = found; storage.note("VIOLATION \(found)") }
        } catch {}
    }

    // MARK: the run

    func run() throws {
        storage.directories.insert(Self.root)
        for number in 0..<profile.diskCount { disks.append(try makeDisk(number)) }
        for number in 1...profile.lives {
            try live(UInt32(number), isLast: number == profile.lives)
            if let violation { throw violation }
        }
        counts.faults = storage.faultsStruck
    }

    private func live(_ process: UInt32, isLast: Bool) throws {
        let life = Life(process: process)
        self.life = life
        storage.livingProcess = process
        // The last life is spared, so that what the others left must open and be right.
        let isSpared = isLast || !profile.hasFaults
        if !isSpared { planFaults() }
        storage.pagesMax = isSpared || Dice.chance(2, in: 3) ? .max : storage.pagesUsed + Dice.below(64)
        if Dice.chance(1, in: 4) { simulated_set_wall_clock(Int64(Dice.below(4_000_000)) * 1_000_000_000_000) }
        let struckBefore = storage.faultsStruck
        highestBeforeLife = max(highestEver, lastPoint)
        spawn(process: process) { self.serve(life) }
        let isPeaceful = isLast || Dice.chance(1, in: 3)
        simulated_wait_points(isPeaceful ? .max : UInt64(1 + Dice.below(Dice.pick([60, 300, 1000, 3000]))))
        let isPowerLost = !isLast && Dice.chance(1, in: 2)
        end(life, powerLoss: isPowerLost)
        if let error = life.openError, storage.faultsStruck == struckBefore, storage.pagesMax == .max, violation == nil {
            violation = Violation("life \(process): cannot be opened: \(error)")
        }
    }

    /// The process is gone, or ended by itself before.
    private func end(_ life: Life, powerLoss: Bool) {
        let endedItself = life.isOver
        storage.note(endedItself ? "THE PROCESS ENDED" : "KILL -9")
        life.isKilled = true
        for disk in disks { for change in disk.changes where change.end == nil { change.end = sequencer?.current } }
        sequencer = nil
        storage.kill()
        if !endedItself, profile.hasFaults, Dice.chance(1, in: 3) { storage.failSyncsUnseen() }
        if endedItself { counts.cleanStops += 1 } else { counts.kills += 1 }
        if powerLoss {
            storage.losePower()
            boot += 1
            counts.powerLosses += 1
        }
        // Its threads end without effect.
        while simulated_living(life.process) > 0 { simulated_sleep(1_000_000) }
        storage.files = [:]
        for disk in disks {
            // What was not compared yet has gone through this stop as well.
            disk.lostPower = powerLoss || (!disk.isResolved && disk.lostPower)
            disk.wasClosed = life.wasClosed && disk.isResolved
            disk.isResolved = false
            disk.disk = nil
            disk.busy = 0
            disk.reads = []
            disk.isHeld = false
        }
    }

    private func planFaults() {
        let calls: [Call] = [.write, .write, .sync, .sync, .sync, .read, .open, .truncate, .allocate, .unlink, .rename, .directorySync]
        for _ in 0..<1 + Dice.below(3) {
            let call = Dice.pick(calls)
            let error = call == .sync || call == .read || Dice.chance(1, in: 2) ? 5 : Int32(28)
            storage.faults.append(Fault(
                call: call, area: Dice.pick(Area.allCases), skipped: Dice.below(Dice.pick([3, 20, 100])), count: Dice.pick([1, 1, 1, 3, 1000]), errno: error))
        }
    }

    // MARK: the process

    private func serve(_ life: Life) {
        do {
            let sequencer = try Sequencer(path: Self.root + "/sequences")
            self.sequencer = sequencer
            for disk in disks { try open(disk, sequencer) }
        } catch { if !life.isKilled { life.openError = error } }
        if life.isKilled || life.openError != nil {
            abandonAll()
            return finish(life)
        }
        guard checkReopened() else {
            abandonAll()
            return finish(life)
        }
        employ(life)
        while life.guestsLeft > 0 || life.isAdministered, !life.isKilled { simulated_sleep(20_000_000) }
        if life.isKilled || violation != nil {
            abandonAll()
            return finish(life)
        }
        stop(life)
        finish(life)
    }

    /// Faults or a kill during the check leave it to the next life, which then begins with the same question.
    private func checkReopened() -> Bool {
        for disk in disks where !disk.isResolved {
            let struck = storage.faultsStruck
            do { try disk.resolve(afterPowerLoss: disk.lostPower, wasClosed: disk.wasClosed) } catch {
                if storage.faultsStruck == struck, !life.isKilled {
                    violation = error as? Violation ?? Violation("disk \(disk.number): after reopening: \(error)")
                }
                return false
            }
            if life.isKilled { return false }
            disk.isResolved = true
        }
        return violation == nil
    }

    private func finish(_ life: Life) {
        while simulated_living(life.process) > 1, !life.isKilled { simulated_sleep(20_000_000) }
        life.isOver = !life.isKilled
        simulated_ring()
    }

    private func abandonAll() { for disk in disks { disk.disk?.abandon() } }

    private func stop(_ life: Life) {
        if Dice.chance(1, in: 3) { return abandonAll() }
        var isClean = true
        for disk in disks {
            if Dice.chance(1, in: 3) { expect { try checkImageAlone(disk) } }
            do {
                try disk.disk?.close()
                if !life.isKilled { for change in disk.changes where change.state == .acknowledged { change.isDurable = true } }
            } catch { isClean = false }
        }
        life.wasClosed = isClean && !life.isKilled
    }

    /// Nobody writes: with everything merged the image alone is the disk.
    private func checkImageAlone(_ model: DiskModel) throws {
        guard let disk = model.disk, disk.frozenSequence == nil else { return }
        do { try disk.mergeAll() } catch { return }
        let image = try model.imageContents()
        guard model.isDisk(image) else { throw Violation("disk \(model.number): merged, the image differs, \(model.whereDifferent(image))") }
    }

    private func open(_ model: DiskModel, _ sequencer: Sequencer) throws {
        let image = try openImage(model.imagePath, access: .readWrite, format: model.isDynamic ? .vhdDynamic : .raw)
        let lock = try OwnerLock.acquire(model.folder)
        model.disk = try VirtualDisk.open(
            name: "disk\(model.number)", image: image, folder: model.folder, lock: lock, sequencer: sequencer, options: .init(bootID: "boot-\(boot)", catchingUpSeconds: profile.isTargetAway ? 1 : 30))
    }

    // MARK: before the first life

    private func makeDisk(_ number: Int) throws -> DiskModel {
        let isDynamic = Dice.chance(1, in: 3)
        let bytes = isDynamic ? (32 + Dice.below(90)) * 16384 : Dice.chance(1, in: 6) ? 4_500_000 / 512 * 512 : (40 + Dice.below(200)) * 4096 + Dice.below(8) * 512
        let path = Self.root + "/image\(number)"
        let base = try isDynamic ? makeDynamicImage(path, bytes) : makeRawImage(path, bytes)
        let folder = LogFolder(Self.root + "/disk\(number).log")
        let targets = profile.hasTarget ? ["vault"] : []
        let segmentBytes = 128 << 10
        try ChangeLog.create(
            folder, diskID: .random(), diskBytes: UInt64(bytes), targets: targets, segmentBytes: segmentBytes,
            budgetBytes: profile.budgetSegments * UInt64(segmentBytes), startSequence: profile.isTargetAway ? 1 : 0)
        let model = DiskModel(number: number, folder: folder, imagePath: path, isDynamic: isDynamic, target: targets.first, base: base)
        guard profile.isTargetAway else { return model }
        // One that never got anything would get the image.
        model.baseSequence = 1
        try folder.storeMark(ReplicatedMark(sequence: 1, lineage: try folder.readState().lineage), target: "vault")
        return model
    }
}
