// One group of the vault in a rebuild of its site: each disk's log and image held against what the vault has, then registered together.

import BlockIO
import ChangeLog
import DiskImage
import Foundation
import RecoveryPoints
import Replication
import Site
import Vault
import VirtualDisk

struct GroupRebuild {
    struct Found {
        /// In the vault.
        let id: VaultID
        let disk: ProtectedDisk
        let log: FoundLog
        let standing: RebuildStanding
        let warnings: [String]
    }

    typealias Missing = SiteRebuild.Missing

    private let rebuild: SiteRebuild
    private let catalog: Catalog
    private let head: Head?
    private let disks: [Catalog.Disk]
    /// What a person calls what shares points.
    let name: String

    /// `disks`: all of the group.
    init(_ rebuild: SiteRebuild, _ catalog: Catalog, _ head: Head?, _ disks: [Catalog.Disk]) {
        (self.rebuild, self.catalog, self.head, self.disks) = (rebuild, catalog, head, disks)
        name = catalog.group(disks[0].group)?.name ?? disks[0].machineName
    }

    // MARK: Examining

    func examine(_ disk: Catalog.Disk, _ logs: [FoundLog]) throws -> Found {
        func missing(_ reason: String, _ remedy: String) -> Missing { Missing(subject: disk.name, reason: reason, remedy: remedy) }
        guard let log = logs.first else { throw missing("no log of it was found", "--folder with the folder that its log lies in") }
        guard logs.count == 1 else {
            throw missing("there are several logs of it: \(logs.map(\.folder.path).joined(separator: ", "))", "move away the one that is a copy")
        }
        guard log.state.targets.contains(rebuild.vault.id.description) else {
            throw missing("\(log.folder.path) is not of a disk that goes to this vault", "the folder of the log that does")
        }
        let standing = RebuildStanding(head?.lifeCycle, host: rebuild.host, unit: name, role: log.registration?.diskRole ?? (log.folder.isBeingFilled ? .recovery : nil))
        if case .unclear(let reason) = standing { throw missing(reason, "farshore failover show \(name) on another host; its guests' image and log stay as they are") }
        try compareHistory(log, disk, goesOnHere: !standing.isHeld)
        let (path, format, isGiven) = try imagePlace(log, disk)
        var warnings: [String] = []
        let parents = rebuild.request.parentFolders.isEmpty ? log.registration?.parentFolders ?? [] : rebuild.request.parentFolders
        do {
            // Who holds it would be another site that has the disk.
            let owner = try OwnerLock.acquire(log.folder)
            defer { withExtendedLifetime(owner) {} }
            warnings += try check(path, format, parents, log, disk, isGiven: isGiven)
        } catch let error as LogError {
            throw missing("\(error)", "stop what uses it")
        } catch let error as ImageError {
            throw missing("\(error)", "--image \(disk.name)=FILE, where that is not its image; --parent-dir with the folder of an image that it differs from")
        }
        if registration(log) == nil {
            warnings.append("\(disk.name): nothing says which policy it had at this vault; \(SiteRebuild.policyOfUnknown) has the default one's intervals and lets no point go: farshore policy assign POLICY \(disk.name)")
        }
        let others = otherTargets(log)
        if !others.isEmpty {
            warnings.append("\(disk.name): it was replicated to \(others.joined(separator: ", ")) too, for which its log keeps nothing any more: farshore target add \(name) --vault URL with that vault")
        }
        return Found(id: disk.id, disk: protected(disk, log, standing, path, format, parents), log: log, standing: standing, warnings: warnings)
    }

    /// Policy and pause are kept of the first target only: those of another vault would let points of this one go.
    private func registration(_ log: FoundLog) -> DiskRegistration? { log.registration.flatMap { $0.vault == rebuild.vault.id.description ? $0 : nil } }

    private func otherTargets(_ log: FoundLog) -> [String] { log.state.targets.filter { $0 != rebuild.vault.id.description } }

    /// That the log is of the history in the vault, and not an older copy. What the vault lacks, it may lack; where guests write on another host, it may
    /// have been left long ago.
    private func compareHistory(_ log: FoundLog, _ disk: Catalog.Disk, goesOnHere: Bool) throws(Missing) {
        guard let state = head?.state(of: disk.id), let current = state.current, let own = log.state.lineages.last else { return }
        let local = Set(log.state.lineages.map(\.id.vaultID))
        let isShared = state.lineages.contains { local.contains($0.id) || $0.parent.map(local.contains) == true }
        guard goesOnHere ? local.contains(current.id) : isShared else {
            throw Missing(
                subject: disk.name, reason: "the history in \(log.folder.path) is not the vault's: it is a log of another time or host",
                remedy: "the folder of the right log; or farshore restore \(disk.name) --vault URL --at latest --to FILE, and protect what that gives")
        }
        guard current.id != own.id.vaultID || log.newestSequence >= current.sequence else {
            throw Missing(
                subject: disk.name, reason: "\(log.folder.path) ends at sequence \(log.newestSequence), but the vault has it up to \(current.sequence): it is an older copy",
                remedy: "the folder of the newest log; or farshore restore \(disk.name) --vault URL --at latest --to FILE, and protect what that gives")
        }
    }

    private func imagePlace(_ log: FoundLog, _ disk: Catalog.Disk) throws(Missing) -> (path: String, format: ImageFormat, isGiven: Bool) {
        if let given = rebuild.request.images[disk.name] { return (given.path, given.format, true) }
        if let registration = log.registration, let format = ImageFormat(rawValue: registration.imageFormat) { return (registration.image, format, false) }
        // A guest may have written what looks like another format's header: nothing is probed. What is no raw image has another size.
        if log.folder.path.hasSuffix(".log") { return (String(log.folder.path.dropLast(4)), .raw, false) }
        throw Missing(subject: disk.name, reason: "nothing says where its image is", remedy: "--image \(disk.name)=FILE, or \(disk.name)=FILE,FORMAT where it is not raw")
    }

    /// That the image is there, unused, of the disk's size, and what the log last knew of it.
    private func check(_ path: String, _ format: ImageFormat, _ parents: [String], _ log: FoundLog, _ disk: Catalog.Disk, isGiven: Bool) throws -> [String] {
        let lock = try ImageLock.take(path, for: .exclusive)
        let held = ParentLocks()
        defer { held.release() }
        let image = try openImage(locked: lock, access: .readOnly, format: format, parentFolders: parents, parentLocks: held)
        // Its image is on its way to another state.
        if access(log.folder.failbackFile, F_OK) == 0 { return ["\(disk.name): its failback was begun: farshore failback start \(name) goes on with it"] }
        // One that was growing has either size.
        guard image.sizeBytes == log.state.diskBytes || image.sizeBytes == log.state.growingBytes else {
            throw Missing(
                subject: disk.name, reason: "\(path), taken as \(format.rawValue), has \(image.sizeBytes) bytes, but the disk has \(log.state.diskBytes)",
                remedy: "--image \(disk.name)=FILE,FORMAT with its image")
        }
        do throws(DiskError) {
            try VirtualDisk.refuseChanged(image, since: log.state)
            return []
        } catch {
            if isGiven { return ["\(disk.name): \(error); the mount refuses it until farshore accept \(disk.name)"] }
            throw Missing(
                subject: disk.name, reason: "\(error)",
                remedy: "--image \(disk.name)=\(path),\(format.rawValue) takes it all the same; the mount then asks for farshore accept \(disk.name)")
        }
    }

    private func protected(
        _ disk: Catalog.Disk, _ log: FoundLog, _ standing: RebuildStanding, _ path: String, _ format: ImageFormat, _ parents: [String]
    ) -> ProtectedDisk {
        let unknown = Policy(name: SiteRebuild.policyOfUnknown, retention: .everything)
        return ProtectedDisk(
            name: disk.name, id: disk.id.description, imagePath: path, format: format.rawValue, sizeBytes: log.state.diskBytes, logFolder: log.folder.path,
            logBudgetBytes: log.state.budgetBytes, policy: (try? registration(log)?.protectedPolicy()) ?? unknown, vaultURL: rebuild.request.vaultURL,
            vaultID: rebuild.vault.id.description, keyFile: rebuild.request.keyFile, passphraseFile: rebuild.request.passphraseFile, machine: disk.machineName,
            parentFolders: parents, role: standing.role)
    }

    // MARK: Registering

    /// Names of policies that stay as other disks have them.
    func register(_ found: [Found], besides there: [ProtectedDisk]) throws -> [String] {
        let rebuilt = found.map { one in
            RebuiltDisk(
                disk: one.disk, isPaused: registration(one.log)?.isPaused ?? false, proven: proven(one), held: one.standing.held,
                resynchronisation: one.log.folder.isReleased(target: rebuild.vault.id.description) ? "it was marked when the catalogue was lost" : nil)
        }
        // Before: a log must not keep what it gets for a vault that nobody sends to.
        for one in found { try forgetOtherTargets(one.log) }
        let (machineIDs, group) = there.isEmpty ? RecoveryDisks.sharing(of: disks, catalog) : ([:], catalog.group(disks[0].group).map { ($0.name, $0.id.description) })
        let differing = try rebuild.catalogue.add(rebuilt: rebuilt, machineIDs: machineIDs, group: group, isNew: there.isEmpty, failover: failover(found))
        for one in found {
            try rebuild.catalogue.record(.information, disk: one.disk.name, "brought back from the vault and the log \(one.log.folder.path): \(one.disk.imagePath)")
        }
        return differing
    }

    private func forgetOtherTargets(_ log: FoundLog) throws {
        let others = otherTargets(log)
        if others.isEmpty { return }
        let owner = try OwnerLock.acquire(log.folder)
        try log.folder.setTargets([rebuild.vault.id.description], holding: owner)
        for target in others { try log.folder.forget(target: target) }
        _ = consume owner
    }

    /// The vault has all of the log's own lineage up to there.
    private func proven(_ found: Found) -> RebuiltDisk.Proven? {
        guard let head, let current = head.state(of: found.id)?.current, current.id == found.log.state.lineage.vaultID else { return nil }
        return RebuiltDisk.Proven(lineage: current.id.description, sequence: current.sequence, headNumber: head.number, writerEpoch: head.writer.epoch)
    }

    /// What `failover cancel` and `commit` need to know on this host.
    private func failover(_ found: [Found]) -> (record: FailoverRecord, disks: [FailoverRecord.Disk])? {
        let made = found.filter { $0.standing == .recovery(isOpen: true) }
        guard let first = made.first ?? found.first(where: \.standing.isHeld) else { return nil }
        let lifeCycle = head?.lifeCycle
        let run = made.isEmpty ? VaultID.random() : lifeCycle?.run ?? VaultID.random()
        let record = FailoverRecord(
            run: run.description, kind: made.isEmpty ? .preparation : .failover, name: name, unit: name, group: disks[0].group.description,
            vaultURL: rebuild.request.vaultURL, vaultID: rebuild.vault.id.description, keyFile: rebuild.request.keyFile, passphraseFile: rebuild.request.passphraseFile,
            point: "latest", isPlanned: made.isEmpty || lifeCycle?.kind == .planned, folder: made.isEmpty ? "" : Directory.parent(of: first.disk.imagePath) ?? "")
        let points = lifeCycle?.points ?? []
        return (record, made.compactMap { one in
            points.first { $0.disk == one.id }.map {
                FailoverRecord.Disk(name: one.disk.name, id: one.disk.id, lineage: $0.lineage.description, sequence: $0.sequence)
            }
        })
    }
}

extension RebuildStanding {
    fileprivate var role: ProtectedDisk.Role { if case .recovery = self { .recovery } else { .source } }
    fileprivate var held: String? { if case .source(let held) = self { held } else { nil } }
}
