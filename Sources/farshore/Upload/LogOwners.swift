// Who owns a disk's log at this moment, for the uploader: the running mount's worker, or, while none serves the disk,
// this process for the length of one call. A worker that is being restarted holds the log without answering: that is
// waited for. Called by the uploader's threads.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import Glibc
import Replication
import Site
import Synchronization
import VirtualDisk

struct LogOwners: Sendable {
    let site: SiteDirectory
    private let known = KnownEnds()

    init(site: SiteDirectory) { self.site = site }

    @Sendable func owner(of disk: ProtectedDisk) throws -> any DiskOwner { PresentOwner(site: site, disk: disk, known: known) }
}

/// The durable ends of logs that nobody serves, by the change time of their state file: a log whose state did not
/// change since this process closed it needs not be opened again.
final class KnownEnds: Sendable {
    struct End: Equatable {
        let changeTimeNanoseconds: Int64
        let sequence: UInt64
    }

    private let ends = Mutex<[String: End]>([:])

    func sequence(of folder: LogFolder) throws -> UInt64? {
        // Whoever opened it between our closing and our look at the time, and was killed since, may have written.
        guard try folder.readState().cleanStop != nil else { return nil }
        let time = try Self.changeTime(of: folder)
        return ends.withLock { $0[folder.path].flatMap { $0.changeTimeNanoseconds == time ? $0.sequence : nil } }
    }

    func remember(_ sequence: UInt64, of folder: LogFolder) throws {
        let end = End(changeTimeNanoseconds: try Self.changeTime(of: folder), sequence: sequence)
        ends.withLock { $0[folder.path] = end }
    }

    private static func changeTime(of folder: LogFolder) throws -> Int64 {
        try Descriptor.open(folder.stateFile, 0).status().changeTimeNanoseconds
    }
}

private struct PresentOwner: DiskOwner {
    private static let restartSecondsMax: UInt64 = 30

    let site: SiteDirectory
    let disk: ProtectedDisk
    let known: KnownEnds

    func makeDurable() throws -> UInt64 {
        try ask({ try $0.makeDurable() }, folder: { folder in
            if let sequence = try known.sequence(of: folder) { return sequence }
            let sequence = try withDisk { try $0.makeDurable() }
            try known.remember(sequence, of: folder)
            return sequence
        })
    }

    func cut() throws { try ask({ try $0.cut() }, folder: { _ in try withDisk { _ = try VirtualDisk.cutPoint([$0], tag: "") } }) }

    func freeze() throws -> UInt64 { try ask({ try $0.freeze() }, folder: { _ in try withDisk { try $0.freeze() } }) }

    func unfreeze() throws { try ask({ try $0.unfreeze() }, folder: { _ in try withDisk { try $0.unfreeze() } }) }

    /// Asks the mount; when none serves the disk, uses its folder.
    private func ask<Value>(_ mounted: (MountedOwner) throws -> Value, folder: (LogFolder) throws -> Value) throws -> Value {
        let deadline = Clock.monotonicNanoseconds() + Self.restartSecondsMax * 1_000_000_000
        var answer = try attempt(mounted, folder, isLast: false)
        while answer == nil {
            usleep(300_000)
            answer = try attempt(mounted, folder, isLast: Clock.monotonicNanoseconds() >= deadline)
        }
        guard let answer else { throw SiteError(.mountAway, "nobody answers for \(disk.name)", remedy: "farshore status") }
        return answer
    }

    /// Nil when the log is held by somebody who does not answer: a worker that is being started.
    private func attempt<Value>(_ mounted: (MountedOwner) throws -> Value, _ folder: (LogFolder) throws -> Value, isLast: Bool) throws -> Value? {
        do {
            return try mounted(MountedOwner(site: site, disk: disk.name))
        } catch let error as SiteError {
            guard error.code == .mountAway || error.code == .diskNotFound else { throw error }
        }
        do {
            return try folder(LogFolder(disk.logFolder))
        } catch let error as DiskError {
            guard error.isInUse, !isLast else { throw error.cause }
            return nil
        }
    }

    /// Opens the disk as its owner, and closes it cleanly.
    private func withDisk<Value>(_ work: (VirtualDisk) throws -> Value) throws -> Value {
        let opened = try OwnedDisk.open(disk, site: site)
        let value: Value
        do {
            value = try work(opened.disk)
        } catch {
            opened.disk.abandon()
            throw error
        }
        try opened.disk.close()
        return value
    }
}

extension DiskError {
    var isInUse: Bool {
        if case .log(.inUse) = self { return true }
        return false
    }

    /// What the uploader sorts failures by.
    fileprivate var cause: any Error {
        switch self {
        case .log(let error): error
        case .system(let error): error
        case .imageChanged, .imageReplaced, .sizeMismatch:
            AttemptFailure(.forGood, Failure(self).message, remedy: Failure(self).remedy, cause: self)
        }
    }
}

/// A protected disk opened outside of a mount: locked, recovered, ready to be merged or frozen.
final class OwnedDisk {
    let disk: VirtualDisk
    /// Why a growth that had been begun was given up by this opening.
    let growthFailure: GrowthFailure?
    private let lock: ImageLock
    private let parentLocks: ParentLocks
    private let vaults: RecoveryVaults

    private init(_ disk: VirtualDisk, _ growthFailure: GrowthFailure?, lock: consuming ImageLock, parentLocks: ParentLocks, vaults: RecoveryVaults) {
        self.disk = disk
        self.growthFailure = growthFailure
        self.vaults = vaults
        self.parentLocks = parentLocks
        self.lock = lock
    }

    deinit { vaults.close() }

    static func open(_ protected: ProtectedDisk, site: SiteDirectory) throws -> OwnedDisk {
        let folder = LogFolder(protected.logFolder)
        let owner = try own(folder)
        let lock = try ImageLock.take(protected.imagePath, for: .exclusive)
        let growthFailure = try protected.completeGrowth(of: lock, holding: owner, site: site)
        let parentLocks = ParentLocks()
        let vaults = RecoveryVaults(openVault: { try openVault(of: $0, site: site) }, log: { serviceLog($0) })
        let image = try vaults.openImage(of: protected, locked: lock, parentLocks: parentLocks)
        let disk = try VirtualDisk.open(
            name: protected.name, image: image, folder: folder, lock: owner, sequencer: try Sequencer(path: site.sequencePath),
            options: ChangeLog.Options(bootID: try Clock.bootID()))
        return OwnedDisk(disk, growthFailure, lock: lock, parentLocks: parentLocks, vaults: vaults)
    }

    private static func own(_ folder: LogFolder) throws(DiskError) -> OwnerLock {
        do throws(LogError) { return try OwnerLock.acquire(folder) } catch { throw .log(error) }
    }
}
