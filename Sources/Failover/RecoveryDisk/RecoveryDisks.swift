// Makes disks of this site from recovery points of a vault, and removes them again. A recovery disk is a protected disk with the id it has in
// the vault; its image is at first a hole that is filled from the point while it is used (docs/formats/recovery-disk.md), its log goes on
// from the point in a lineage of its own. Nothing is written to the vault here. Called by failovers and test failovers.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import RecoveryPoints
package import Site
package import Vault
import VirtualDisk

package struct RecoveryDisks {
    package struct Plan {
        /// Where images go, as NAME.raw, and beside them their logs.
        package var folder: String
        package var role: ProtectedDisk.Role
        package var policy: Policy
        package var vaultURL: String
        package var keyFile: String?
        package var passphraseFile: String?
        /// Where logs go instead.
        package var logFolder: String?

        package init(
            folder: String, role: ProtectedDisk.Role, policy: Policy = .standard, vaultURL: String, keyFile: String?, passphraseFile: String?, logFolder: String? = nil
        ) {
            self.folder = folder
            self.role = role
            self.policy = policy
            self.vaultURL = vaultURL
            self.keyFile = keyFile
            self.passphraseFile = passphraseFile
            self.logFolder = logFolder
        }
    }

    /// The tag of the first point of each disk made: its state is the point it was made from.
    package static let tag = "failover"

    /// A disk to be made.
    private struct Making {
        let disk: ProtectedDisk
        let base: RecoveryBase
        /// Of the vault, oldest first.
        let lineages: [LineageState]

        var folder: LogFolder { LogFolder(disk.logFolder) }
    }

    private let catalogue: Catalogue
    private let vault: Vault

    package init(catalogue: Catalogue, vault: Vault) {
        self.catalogue = catalogue
        self.vault = vault
    }

    // MARK: Making

    /// Makes and registers a disk for each of `points`, all or none; those that an earlier call registered are returned. What a call that was
    /// killed left in the folder is made anew. The caller has seen to it that nobody adds to these disks in the vault.
    package func create(_ points: [ChosenPoint], _ plan: Plan) throws -> [ProtectedDisk] {
        let catalog = try vault.catalog().document
        let heads = try Dictionary(uniqueKeysWithValues: Set(points.map(\.disk.group)).map { ($0, try vault.heads(group: $0).newest()?.document) })
        let makings = try points.map { try making($0, heads[$0.disk.group] ?? nil, plan) }
        if let known = try registered(makings) { return known }
        for making in makings { try make(making) }
        let newest = heads.values.compactMap { $0 }.flatMap(\.disks).flatMap(\.lineages).map(\.sequence).max() ?? 0
        try cut(makings, above: newest)
        let (machineIDs, group) = Self.sharing(of: points.map(\.disk), catalog)
        try catalogue.add(makings.map(\.disk), machineIDs: machineIDs, group: group)
        for making in makings { try DurableFile.remove(making.folder.makingFile) }
        return try makings.map { try catalogue.disk(named: $0.disk.name) }
    }

    private func making(_ point: ChosenPoint, _ head: Head?, _ plan: Plan) throws -> Making {
        guard let head, let state = head.state(of: point.disk.id), let current = state.current else {
            throw VaultError.notFound("nothing of the disk \(point.disk.name) is in the vault yet")
        }
        let read = try DiskHistory(vault: vault, state: state, peers: head.disks).plan(at: point.sequence)
        let name = point.disk.name
        let image = FailoverRecord.imagePath(ofDisk: name, in: plan.folder)
        let disk = ProtectedDisk(
            name: name, id: point.disk.id.description, imagePath: image, format: ImageFormat.raw.rawValue, sizeBytes: read.sizeBytes,
            logFolder: plan.logFolder.map { "\($0)/\(name).raw.log" } ?? image + ".log", logBudgetBytes: ProtectedDisk.defaultLogBudgetBytes(diskBytes: read.sizeBytes),
            policy: plan.policy, vaultURL: plan.vaultURL, vaultID: vault.id.description, keyFile: plan.keyFile, passphraseFile: plan.passphraseFile,
            machine: point.disk.machineName, role: plan.role)
        let holder = state.lineages.first { $0.sequence >= point.sequence } ?? current
        let base = RecoveryBase(vault: vault.id, disk: point.disk.id, lineage: holder.id, sequence: point.sequence, sizeBytes: read.sizeBytes)
        return Making(disk: disk, base: base, lineages: state.lineages)
    }

    /// The disks of an earlier call, when it made them of the same points; nil when none of them is there.
    private func registered(_ makings: [Making]) throws -> [ProtectedDisk]? {
        let there = try catalogue.disks().filter { disk in makings.contains { $0.disk.id == disk.id || $0.disk.name == disk.name } }
        guard let first = there.first else { return nil }
        let isSame = there.count == makings.count && there.allSatisfy { disk in
            guard let made = makings.first(where: { $0.disk.id == disk.id }), disk.state == .protected, disk.role == made.disk.role, disk.imagePath == made.disk.imagePath,
                let state = try? LogFolder(disk.logFolder).readState()
            else { return false }
            return state.lineages.contains { $0.branchSequence == made.base.sequence } && state.lineages.starts(with: Self.parents(made))
        }
        guard isSame else {
            throw SiteError(.diskExists, "this site has the disk \(first.name) already", remedy: "farshore status \(first.name)")
        }
        for disk in there { try DurableFile.remove(LogFolder(disk.logFolder).makingFile) }
        return there
    }

    /// The vault's lineages, for its uploader to find the one it goes on from: all of them, so that only a log made from what the vault has now
    /// can go on from a point of a history that was left before.
    private static func parents(_ making: Making) -> [LogState.Lineage] {
        making.lineages.map { LogState.Lineage(id: LogID(high: $0.id.high, low: $0.id.low), branchSequence: $0.branchSequence ?? 0) }
    }

    private func make(_ making: Making) throws {
        let (disk, folder) = (making.disk, making.folder)
        try clearLeftover(folder)
        try Self.refuseTaken(disk.imagePath, disk.logFolder)
        try Directory.create(folder.path, mode: 0o700)
        guard let parent = Directory.parent(of: folder.path), let imageFolder = Directory.parent(of: disk.imagePath) else {
            throw SiteError(.refused, "\(disk.imagePath) is no place for an image", remedy: "another folder")
        }
        try Directory.create(imageFolder, mode: 0o700)
        // Before anything else: what a kill leaves is known for what it is.
        try DurableFile.replace(folder.makingFile, with: Array("farshore recovery disk 1\nimage \(disk.imagePath)\n".utf8))
        try Directory.sync(parent)
        let image = try Descriptor.open(disk.imagePath, O_RDWR | O_CREAT | O_EXCL)
        try image.truncate(to: disk.sizeBytes)
        try image.sync()
        try image.close()
        try Directory.sync(imageFolder)
        try PresenceMap.create(folder.presenceFile, for: making.base)
        try making.base.store(folder.baseFile)
        guard let id = LogID(hex: disk.id) else { throw SiteError(.refused, "\(disk.id) is no id of a disk", remedy: "farshore vault check URL") }
        let own = LogState.Lineage(id: .random(), branchSequence: making.base.sequence)
        try ChangeLog.create(
            folder, diskID: id, diskBytes: disk.sizeBytes, targets: disk.role == .test ? [] : [disk.vaultID],
            segmentBytes: SegmentGeometry.segmentBytes(forBudgetBytes: disk.logBudgetBytes), budgetBytes: disk.logBudgetBytes,
            startSequence: making.base.sequence, lineages: Self.parents(making) + [own])
    }

    /// Throws where something is in the way of recovery disks in `folder` that no call of `create` left which was killed.
    package static func refuseTaken(_ names: [String], in folder: String) throws(SiteError) {
        for image in names.map({ FailoverRecord.imagePath(ofDisk: $0, in: folder) }) where access(LogFolder(image + ".log").makingFile, F_OK) != 0 {
            try refuseTaken(image, image + ".log")
        }
    }

    private static func refuseTaken(_ image: String, _ log: String) throws(SiteError) {
        for path in [image, log] where access(path, F_OK) == 0 {
            throw SiteError(.diskExists, "\(path) is there already, and nothing says that it may go", remedy: "move it away, or choose another folder")
        }
    }

    /// What a call that was killed left, and nobody ever used.
    private func clearLeftover(_ folder: LogFolder) throws {
        guard let bytes = try DurableFile.read(folder.makingFile, limitBytes: 8192) else { return }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        guard lines.count == 2, lines[0] == "farshore recovery disk 1", lines[1].hasPrefix("image ") else {
            throw SiteError(.refused, "\(folder.makingFile) is not as it should be", remedy: "look at what is in \(folder.path), and move it away")
        }
        try DurableFile.remove(String(lines[1].dropFirst("image ".count)))
        try empty(folder)
    }

    /// The note of what it is goes last.
    private func empty(_ folder: LogFolder) throws {
        let making = folder.makingFile
        for path in try Directory.list(folder.path).map({ folder.path + "/" + $0 }) where path != making { try DurableFile.remove(path) }
        try DurableFile.remove(making)
        guard rmdir(folder.path) == 0 || errno == ENOENT else { throw SystemError(errno: errno, operation: "remove", path: folder.path) }
    }

    /// One point over all of the disks, above every sequence that the vault has of them or their group: so the logs go on above these, and
    /// the first thing that a vault gets of the new lineages is a point that all disks share.
    private func cut(_ makings: [Making], above newest: UInt64) throws {
        let sequencer = try Sequencer(path: catalogue.site.sequencePath)
        try sequencer.raise(above: newest)
        let options = ChangeLog.Options(bootID: try Clock.bootID())
        var opened: [VirtualDisk] = []
        do {
            for making in makings {
                // The image alone: the only record is the point, and that changes no block.
                opened.append(try VirtualDisk.open(
                    name: making.disk.name, image: try DiskImage.openImage(making.disk.imagePath, access: .readWrite, format: .raw), folder: making.folder,
                    lock: try OwnerLock.acquire(making.folder), sequencer: sequencer, options: options))
            }
            _ = try VirtualDisk.cutPoint(opened, tag: Self.tag)
        } catch {
            for disk in opened { disk.abandon() }
            throw error
        }
        for disk in opened { try disk.close() }
    }

    /// The ids that machines and the group have in the vault: its heads go on under them.
    static func sharing(of disks: [Catalog.Disk], _ catalog: Catalog) -> (machines: [String: String], group: (name: String, id: String)?) {
        var machines: [String: String] = [:]
        for disk in disks {
            guard let group = catalog.group(disk.group), catalog.disks(inGroup: group.id).allSatisfy({ candidate in disks.contains { $0.id == candidate.id } }) else { continue }
            // The disks of one machine are a group of its name; no replication group can have that.
            if group.name == disk.machineName { machines[disk.machineName] = group.id.description } else { return (machines, (group.name, group.id.description)) }
        }
        return (machines, nil)
    }

    // MARK: Removing

    /// Removes recovery disks with all that was written to them. The caller has ended what used them; a mount lets them go here. Repeatable.
    /// `folder`: where those lie that `create` was killed with before it registered them. A disk of another vault that has the name of one here
    /// has another id, and stays.
    package func remove(_ disks: [FailoverRecord.Disk], in folder: String) throws {
        for noted in disks {
            let (name, own) = (noted.name, try catalogue.disks())
            guard let disk = own.first(where: { $0.name == name && $0.id == noted.id }) else {
                let log = LogFolder(FailoverRecord.imagePath(ofDisk: name, in: folder) + ".log")
                if !own.contains(where: { $0.logFolder == log.path }), access(log.makingFile, F_OK) == 0 { try clearLeftover(log) }
                continue
            }
            guard disk.role != .source else {
                throw SiteError(.refused, "\(name) is no recovery disk", remedy: "farshore unprotect \(name)")
            }
            try release(name)
            let folder = LogFolder(disk.logFolder)
            if access(folder.path, F_OK) == 0 {
                let lock = try waitingForUploader(of: catalogue.site) { try OwnerLock.acquire(folder) }
                try catalogue.setState(.releasing, ofDisk: name)
                try DurableFile.remove(disk.imagePath)
                try folder.discard(lock)
            } else {
                try DurableFile.remove(disk.imagePath)
            }
            try catalogue.remove(disk: name)
        }
    }

    private func release(_ name: String) throws(SiteError) {
        do throws(SiteError) { _ = try ControlClient(site: catalogue.site).demand(.release(disk: name), timeoutSeconds: 120) } catch {
            guard error.code == .mountAway || error.code == .diskNotFound else { throw error }
        }
    }
}
