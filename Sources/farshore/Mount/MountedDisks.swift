// The disks a worker has open, and what can be asked of them through the control socket. Opened and closed here only;
// requests from the mount reach them through the tree.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import FuseExport
import Glibc
import RecoveryPoints
import Replication
import Site
import Synchronization
import VirtualDisk

final class MountedDisks: Sendable {
    struct Entry: Sendable {
        let disk: VirtualDisk
        let directory: ExportTree.Directory
        /// Keeps the image's locks; closed when the disk is released.
        let imageLock: HeldImageLock
        let parentLocks: ParentLocks
        /// While the image is filled from a recovery point, and after that for what was said of it.
        let filling: FillingDisk?
    }

    let tree: ExportTree
    /// Which of them share points, and whether they get any.
    let points: PointGroups
    let appPoints: AppPoints
    private let process: WorkerProcess
    private let catalogue: Catalogue
    private let directory: String
    private let honoursImageOwner: Bool
    private let sequencer: Sequencer
    private let vaults: RecoveryVaults
    private let options: ChangeLog.Options
    private let entries = Mutex<[String: Entry]>([:])
    /// Disks that did not open, until they do.
    private let refused = Mutex<[String: RefusedDisk]>([:])
    /// Of those: what they were served from by another worker, where a name may stand for another file by now.
    private let kept = Mutex<[String: HandedLocks]>([:])
    /// Disks with a place in the tree that are not open yet.
    private let pending = Mutex<[String: PendingDisk]>([:])
    private let turns = DiskTurns()
    private let registrations = DiskRegistrations()
    private let reopenings = DiskAttempts()

    init(process: WorkerProcess, catalogue: Catalogue, directory: String, honoursImageOwner: Bool) throws {
        self.process = process
        self.catalogue = catalogue
        self.directory = directory
        self.honoursImageOwner = honoursImageOwner
        points = PointGroups(catalogue: catalogue)
        appPoints = AppPoints(catalogue: catalogue)
        var options = ChangeLog.Options(bootID: try Clock.bootID())
        options.roomWait = { [spares = process.spareReaders] in spares.note(waits: $0) }
        self.options = options
        sequencer = try Sequencer(path: catalogue.site.sequencePath, handingOnIn: options.bootID)
        vaults = RecoveryVaults(
            openVault: { [site = catalogue.site] in try openVault(of: $0, site: site) }, waits: { [spares = process.spareReaders] in spares.note(waits: $0) },
            log: { serviceLog($0) })
        var permissions = FilePermissions.ownerOnly()
        if honoursImageOwner { permissions.bits = 0o644 }
        tree = ExportTree(permissions: permissions)
    }

    // MARK: Opening and closing

    /// Gives the disk its place in the tree; requests for it wait until it is open.
    func announce(_ disk: ProtectedDisk, _ handed: HandedLocks?) throws {
        guard disk.state == .protected else { return }
        let permissions = honoursImageOwner ? try handed?.permissions() ?? FilePermissions(ofImage: disk.imagePath) : .ownerOnly()
        let folder = try tree.addDirectory(disk.name)
        let sizeBytes = disk.sizeBytesUntilOpen
        let place = PendingDisk(name: disk.name, directory: folder, sizeBytes: sizeBytes)
        do {
            try tree.addDisk(
                LazyDisk { () throws(SystemError) in try place.wait() }, in: folder, sizeBytes: sizeBytes, isWritable: true,
                vhdFooter: disk.vhdFooter(sizeBytes: sizeBytes), permissions: permissions)
        } catch {
            _ = tree.remove(folder)
            throw error
        }
        pending.withLock { $0[disk.name] = place }
    }

    /// Opens the disk, or remembers why it cannot be served and gives up its locks, so that other commands can mend it. But not those that
    /// were handed down while another file has a name of the disk's, or may have: the next attempt would serve that one.
    func open(_ disk: ProtectedDisk, handed: HandedLocks?) throws {
        do {
            guard disk.state == .protected else { throw disk.releasingFailure }
            try refuseHeld(disk)
            if pending.withLock({ $0[disk.name] }) == nil { try announce(disk, handed) }
            try serve(disk, handed)
            handed?.giveUp()
            kept.withLock { $0[disk.name] = nil }
            points.setReleased(disk.name, false)
            refused.withLock { $0[disk.name] = nil }
        } catch {
            if let place = pending.withLock({ $0.removeValue(forKey: disk.name) }) {
                _ = tree.remove(place.directory)
                place.fail()
            }
            var failure = Failure.explaining(error) ?? Failure(.failed, "\(error)", try: "farshore doctor")
            if let handed, !handed.areInPlace(disk) {
                kept.withLock { $0[disk.name] = handed }
                let why = "its files are not, or not known to be, where they were: those that were served are tried again, and stay open until the mount ends"
                failure = Failure(failure.status, "\(failure.message); \(why)", try: failure.remedy)
            } else {
                giveUpLocks(of: disk.name, handed)
            }
            refused.withLock { $0[disk.name] = RefusedDisk(disk: disk.name, reason: failure.message, remedy: failure.remedy) }
            throw failure
        }
    }

    private func giveUpLocks(of disk: String, _ handed: HandedLocks?) {
        handed?.giveUp()
        kept.withLock { $0[disk] = nil }
        _ = process.release(disk)
    }

    /// With the locks the supervisor holds for the disk, or with new ones that it is given to hold.
    private func serve(_ disk: ProtectedDisk, _ handed: HandedLocks?) throws {
        let locks: DiskLocks
        if let handed, let known = try handed.locks(of: disk) {
            locks = known
        } else {
            locks = try DiskLocks.take(disk, site: catalogue.site)
            _ = process.hold(disk.name, locks.descriptors)
        }
        // It may be held since `disk` was read, by a command that found nothing here to release: this sees it, or that command meets the locks.
        try refuseHeld(try catalogue.disk(named: disk.name))
        _ = try disk.completeGrowth(of: locks.image, holding: locks.log, site: catalogue.site)
        // After a worker's death the files that its supervisor holds, even if their names stand for others by now.
        let parentLocks = locks.parents
        let parentsAreHeld = !parentLocks.descriptors.isEmpty
        let image = try vaults.openImage(of: disk, locked: locks.image, parentLocks: parentLocks)
        handed?.note(image.files)
        let descriptors = locks.descriptors
        let opened = try VirtualDisk.open(
            name: disk.name, image: image, folder: LogFolder(disk.logFolder), lock: locks.log, sequencer: sequencer, options: options,
            parentsAreHeld: parentsAreHeld)
        // Not before they were compared: a successor takes those it is handed for what the mount has served.
        if !parentLocks.descriptors.isEmpty { _ = process.hold(disk.name, descriptors) }
        let imageLock = HeldImageLock(locks.image)
        if opened.sizeBytes != disk.sizeBytes { try catalogue.setSize(opened.sizeBytes, ofDisk: disk.name) }
        let filling: FillingDisk?
        do { filling = try (image as? RecoveryImage).map { try FillingDisk($0, disk, catalogue) } } catch {
            opened.abandon()
            throw error
        }
        guard let place = pending.withLock({ $0.removeValue(forKey: disk.name) }) else {
            filling?.stop()
            return opened.abandon()
        }
        entries.withLock {
            $0[disk.name] = Entry(disk: opened, directory: place.directory, imageLock: imageLock, parentLocks: parentLocks, filling: filling)
        }
        if opened.sizeBytes != place.sizeBytes { tree.resizeDisk(in: place.directory, sizeBytes: opened.sizeBytes, vhdFooter: disk.vhdFooter(sizeBytes: opened.sizeBytes)) }
        place.fulfil(opened)
        note(opened.lastStop, of: disk.name)
        for (name, error) in registrations.note([disk]) { serviceLog("\(name): its log's folder cannot keep what the catalogue says of it: \(error)") }
    }

    private func refuseHeld(_ disk: ProtectedDisk) throws(Failure) {
        if let held = disk.held { throw Failure(.inUse, "\(disk.name) is not served: \(held)", try: "farshore status \(disk.name)") }
    }

    private func note(_ lastStop: LastStop, of disk: String) {
        switch lastStop {
        case .never, .clean: break
        case .killed: serviceLog("\(disk): the last worker ended without closing the log; everything acknowledged is there")
        case .powerLost(let sequence):
            // Not a reason to leave the disk out: it is served already.
            do { try catalogue.record(.warning, disk: disk, "after a power loss the log ends at sequence \(sequence); a new lineage begins") } catch { serviceLog("\(disk): no event recorded: \(error)") }
        }
    }

    /// Flushes and closes all disks; the mount is gone, no request runs.
    func closeAll() throws {
        let open = entries.withLock { entries in
            defer { entries = [:] }
            return entries.values.map { $0 }
        }
        var failure: (any Error)?
        for entry in open {
            entry.filling?.stop()
            do throws(DiskError) { try entry.disk.close() } catch {
                failure = error
                var text = "not closed cleanly: \(error)"
                if case .imageReplaced = error {} else { text += "; what was acknowledged is in its log, and the next mount recovers it" }
                serviceLog("\(entry.disk.name): \(text)")
                do { try catalogue.record(.critical, disk: entry.disk.name, text) } catch { serviceLog("\(entry.disk.name): no event recorded: \(error)") }
            }
        }
        for (name, handed) in kept.withLock({ $0 }) {
            do { try letGo(of: name, handed) } catch {
                failure = error
                serviceLog("\(name): \(error)")
            }
        }
        vaults.close()
        if let failure { throw failure }
    }

    /// A disk that no worker could open again: what has its names by now is not to be served by the next mount.
    private func letGo(of name: String, _ handed: HandedLocks) throws {
        let disk = try catalogue.disk(named: name)
        // What the parents were called only the image can tell.
        do { if let locks = try handed.locks(of: disk) { handed.note(try vaults.openImage(of: disk, locked: locks.image, parentLocks: locks.parents).files) } } catch {
            serviceLog("\(name): its image is not read before the mount ends: \(error)")
        }
        guard !handed.areInPlace(disk), let lock = try handed.logLock(of: disk) else { return }
        try VirtualDisk.noteReplaced(LogFolder(disk.logFolder), lock: lock)
        let text = "it could not be opened again before the mount ended, and what has the name of its image, or of a parent, is not known to be what was served"
        try catalogue.record(.critical, disk: name, text)
        throw DiskError.imageReplaced(image: disk.imagePath)
    }

    // MARK: The control socket

    func answer(_ request: ControlRequest) -> ControlReply {
        do {
            switch request {
            case .status: return status()
            case .cut(let names, let tag, let isApp): return try cut(names, tag: tag, isApp: isApp)
            case .makeDurable(let name): return .durable(sequence: try entry(name).disk.makeDurable())
            case .freeze(let name): return .frozen(sequence: try turns.withTurn(of: name) { try entry(name).disk.freeze() })
            case .unfreeze(let name): try turns.withTurn(of: name) { try entry(name).disk.unfreeze() }
            case .grow(let name, let bytes): try turns.withTurn(of: name) { try entry(name).disk.beginGrowth(to: bytes, format: try catalogue.disk(named: name).imageFormat()) }
            case .setTargets(let name, let targets): try turns.withTurn(of: name) { try entry(name).disk.log.setTargets(targets) }
            case .add(let name): try turns.withTurn(of: name) { try add(name) }
            case .release(let name): try turns.withTurn(of: name) { try release(name) }
            }
            return .done
        } catch {
            return .refused(ControlRefusal(error))
        }
    }

    private func status() -> ControlReply {
        let hasSupervisor = process.hasSupervisor
        let refused = refused.withLock { $0.values.sorted { $0.disk < $1.disk } }
        return .status(
            all().map { ServedDiskStatus($0.disk.status, points: points.problem(ofDisk: $0.disk.name), filling: $0.filling?.status, hasSupervisor: hasSupervisor) },
            refused: refused, mount: MountStatus(process.slots, hasSupervisor: hasSupervisor))
    }

    /// To be called now and then while writes wait for room that is coming.
    func noteWaiting() { process.slots.noteWaiting() }

    func all() -> [Entry] { entries.withLock { $0.values.sorted { $0.disk.name < $1.disk.name } } }

    private func entry(_ name: String) throws -> Entry {
        guard let entry = entries.withLock({ $0[name] }) else {
            throw SiteError(.diskNotFound, "the mount does not serve a disk named \(name)", remedy: "farshore status")
        }
        return entry
    }

    /// One point over the disks named and all that share points with them (none named: all that are served), in the logs
    /// and durable when this returns. Where a disk cannot take part, those that share points with it are not cut either.
    private func cut(_ names: [String], tag: String?, isApp: Bool) throws -> ControlReply {
        for name in names { _ = try entry(name) }
        var chosen = try points.groups(served: all().map(\.disk)).filter { group in names.isEmpty || names.contains(where: group.contains) }
        let left = chosen.compactMap(\.obstacle)
        if !names.isEmpty, let obstacle = left.first { throw SiteError(.refused, obstacle, remedy: "farshore status") }
        chosen.removeAll { $0.obstacle != nil }
        let disks = chosen.flatMap(\.disks)
        guard !disks.isEmpty else { return .points([], left: left) }
        let machines = Set(chosen.flatMap(\.machines)).sorted()
        let point = try isApp ? appPoints.cut(disks, machines: machines, tag: tag ?? "") : crashConsistentPoint(disks, tag: tag ?? "")
        for disk in disks { _ = try disk.makeDurable() }
        if let problem = point.problem {
            // Nobody may be there who reads the answer: a timer asked, or a script.
            let text = "point #\(point.sequence) of \(machines.joined(separator: ", ")) was to be app-consistent and is crash-consistent only: \(problem)"
            do throws(SiteError) { try catalogue.record(.warning, disk: nil, text) } catch { serviceLog("this event could not be recorded: \(text): \(error)") }
        }
        return .points(
            disks.map { CutPoint(disk: $0.name, sequence: point.sequence, timeNanoseconds: point.time, tag: tag, isAppConsistent: isApp && point.problem == nil) },
            left: left + (point.problem.map { ["the point is crash-consistent only: \($0)"] } ?? []))
    }

    private func crashConsistentPoint(_ disks: [VirtualDisk], tag: String) throws(SystemError) -> (sequence: UInt64, time: UInt64, problem: String?) {
        var time: UInt64 = 0
        let sequence = try VirtualDisk.cutPoint(disks, tag: tag) { wallNanoseconds in
            time = wallNanoseconds
            return false
        }
        return (sequence, time, nil)
    }

    private func add(_ name: String) throws {
        guard entries.withLock({ $0[name] }) == nil else { return }
        let wasRefused = refused.withLock { $0[name] != nil }
        try open(try catalogue.disk(named: name), handed: kept.withLock { $0[name] })
        serviceLog("serving \(name) too")
        guard wasRefused else { return }
        try catalogue.record(.information, disk: name, "the mount serves it now")
        try catalogue.requestAttempt(ofDisk: name)
    }

    /// Tries the refused disks again, without waiting for them; what they say stays as it was until they open.
    func openRefused() {
        reopenings.begin(refused.withLock { $0.keys.sorted() }) { [self] name in
            do {
                try turns.withTurn(of: name) {
                    // It may have been added, or unprotected, since.
                    guard refused.withLock({ $0[name] != nil }) else { return }
                    try add(name)
                }
            } catch let error as SiteError where error.code == .diskNotFound {
                refused.withLock { $0[name] = nil }
                if let handed = kept.withLock({ $0[name] }) { giveUpLocks(of: name, handed) }
            } catch {
                // Said when it was refused first.
            }
        }
    }

    /// Returns when no refused disk is being opened any more.
    func endReopening() { reopenings.wait() }

    /// Takes the disk out of the mount, closes it and gives up its locks. Refused while somebody has its files open.
    private func release(_ name: String) throws {
        let entry = try entry(name)
        let holders = MountHolders.of("\(directory)/\(name)")
        guard holders.isEmpty else {
            throw SiteError(.diskBusy, "\(name) is in use by \(holders.joined(separator: ", "))", remedy: "stop what uses \(directory)/\(name)/disk.raw")
        }
        points.setReleased(name, true)
        let removed = tree.remove(entry.directory)
        process.waitUntilUnused(removed)
        removed.giveUpDisks()
        entries.withLock { $0[name] = nil }
        // Also where it could not be closed cleanly: who mends it needs the locks.
        defer {
            entry.imageLock.release()
            entry.parentLocks.release()
            _ = process.release(name)
        }
        entry.filling?.stop()
        try entry.disk.close()
        serviceLog("released \(name)")
    }
}

/// Keeps an image's locks until they are given up.
final class HeldImageLock: Sendable {
    private let lock: Mutex<ImageLock?>

    init(_ lock: consuming ImageLock) { self.lock = Mutex(lock) }

    func release() { lock.withLock { $0 = nil } }
}

extension FilePermissions {
    /// Who may use an image file may use the disk in it.
    init(ofImage path: String) throws(SystemError) {
        var info = Glibc.stat()
        guard stat(path, &info) == 0 else { throw SystemError(errno: errno, operation: "stat", path: path) }
        self.init(uid: info.st_uid, gid: info.st_gid, bits: info.st_mode & 0o666)
    }

    init(ofImage descriptor: Int32) throws(SystemError) {
        var info = Glibc.stat()
        guard fstat(descriptor, &info) == 0 else { throw SystemError(errno: errno, operation: "stat", path: "an image") }
        self.init(uid: info.st_uid, gid: info.st_gid, bits: info.st_mode & 0o666)
    }
}

extension ProtectedDisk {
    /// Why nothing but `unprotect` uses the disk.
    var releasingFailure: Failure {
        Failure(.inUse, "an unprotect of \(name) has begun and not ended; it is neither served nor replicated", try: "farshore unprotect \(name), to its end")
    }

    /// The same bytes at every start; nil where a VHD cannot describe the disk.
    func vhdFooter(sizeBytes: UInt64) -> [UInt8]? {
        guard sizeBytes <= VHDFooter.sizeBytesMax else { return nil }
        var uniqueID: [UInt8] = []
        var rest = Substring(id)
        while let byte = UInt8(rest.prefix(2), radix: 16) {
            uniqueID.append(byte)
            rest = rest.dropFirst(2)
        }
        let seconds = Int64(createdNanoseconds / 1_000_000_000)
        return VHDFooter.fixed(sizeBytes: sizeBytes, uniqueID: uniqueID, timeStamp: UInt32(clamping: seconds - VHDFooter.secondsTo2000))
    }
}
