// Recovery points as directories of a mount: DISK/SEQUENCE with links for tags and `latest`. A point is opened when it
// is first used; while no single one was asked for, points that reach the vault later are added.

import BlockIO
import DiskImage
import Foundation
import FuseExport
import Glibc
import RecoveryPoints
import Synchronization
import Vault

final class PointTree: Sendable {
    /// How often the vault is asked for new points.
    private static let refreshSeconds = 15.0

    let tree: ExportTree
    private let sources: PointSources
    private let selection: PointSelection
    private let disks: [Catalog.Disk]
    /// Directories and sequences that are in the tree already.
    private let shown = Mutex<[VaultID: Shown]>([:])
    private let isStopped = Mutex(false)

    private struct Shown {
        let directory: ExportTree.Directory
        var sequences: Set<UInt64> = []
        var newest: UInt64 = 0
    }

    /// Fills the tree; a disk or point that was asked for and is not there is an error.
    init(vault: Vault, selection: PointSelection, isPublic: Bool) throws {
        self.selection = selection
        sources = PointSources(vault: vault)
        var permissions = FilePermissions.ownerOnly()
        permissions.bits = isPublic ? 0o444 : 0o400
        tree = ExportTree(permissions: permissions)
        let catalog = try vault.catalog().document
        disks = try selection.chosen(catalog)
        var refusal: VaultError?
        for disk in disks {
            let directory = try tree.addDirectory(disk.name)
            shown.withLock { $0[disk.id] = Shown(directory: directory) }
        }
        for (group, disks) in Dictionary(grouping: disks, by: \.group) {
            let shared = try SharedPoints(vault, group: group, catalog: catalog)
            if selection.isExplicit, let empty = disks.first(where: { shared.history(of: $0.id) == nil }) {
                throw VaultError.notFound("nothing of the disk \(empty.name) is in the vault yet")
            }
            refusal = try fill(disks, shared) ?? refusal
        }
        if let refusal, shown.withLock({ $0.values.allSatisfy(\.sequences.isEmpty) }) { throw refusal }
    }

    /// Looks for new points until `stop`.
    func follow() {
        guard selection.at == nil else { return }
        let thread = Thread { [self] in
            while !isStopped.withLock({ $0 }) {
                Thread.sleep(forTimeInterval: Self.refreshSeconds)
                refresh()
            }
        }
        thread.name = "new points"
        thread.start()
    }

    func stop() {
        isStopped.withLock { $0 = true }
        sources.close()
    }

    private func refresh() {
        do {
            // Disks may have come into a group, or gone, since the mount was made.
            let catalog = try sources.vault.catalog().document
            let present = catalog.disks.filter { disk in disks.contains { $0.id == disk.id } }
            for (group, disks) in Dictionary(grouping: present, by: \.group) {
                let shared = try SharedPoints(sources.vault, group: group, catalog: catalog)
                let isNew = shared.members.contains { member in shown.withLock { $0[member.disk.id].map { $0.newest != member.history.newestSequence } ?? false } }
                if isNew { _ = try fill(disks, shared) }
            }
        } catch {
            serviceLog("cannot look for new points: \(error)")
        }
    }

    /// Shows what there is of disks of one group; why one of several has nothing of what was asked for.
    private func fill(_ disks: [Catalog.Disk], _ shared: SharedPoints) throws -> VaultError? {
        if let at = selection.at, let name = PointName(at) { return try show(disks, shared, at, name) }
        var points: [VaultID: [RecoveryPoint]] = [:]
        var incomplete: Set<VaultID> = []
        for member in shared.members where shared.name != nil || disks.contains(member.disk) {
            let intact = try member.history.intactPoints()
            for lost in intact.damage { serviceLog("points of \(member.disk.name) cannot be shown: \(lost)") }
            points[member.disk.id] = intact.points
            if !intact.damage.isEmpty { incomplete.insert(member.disk.id) }
        }
        let multi = shared.name == nil ? nil : shared.newest(of: points)
        for disk in disks {
            guard let history = shared.history(of: disk.id) else { continue }
            let own = shared.points(of: disk.id, among: points, incomplete: incomplete).map(\.point)
            for point in own { try show(disk, history, point.sequence) }
            for point in own { if let tag = point.tag { link(tag, to: point.sequence, disk) } }
            var links = [("latest", history.newestSequence), ("latest-processed", history.checkpointSequence)]
            if let multi, own.contains(multi) { links.append(("latest-multi", multi.sequence)) }
            for (name, sequence) in links {
                try show(disk, history, sequence)
                link(name, to: sequence, disk)
            }
            shown.withLock { $0[disk.id]?.newest = history.newestSequence }
        }
        return nil
    }

    /// The one point that was asked for, on each disk; one of several may not have it.
    private func show(_ disks: [Catalog.Disk], _ shared: SharedPoints, _ at: String, _ name: PointName) throws -> VaultError? {
        var refusal: VaultError?
        for disk in disks {
            do {
                try show(disk, shared, at, name)
            } catch let error as VaultError {
                guard case .notFound = error, self.disks.count > 1 else { throw error }
                serviceLog("\(disk.name): \(error)")
                refusal = error
            }
        }
        return refusal
    }

    /// Where all disks of a vault are mounted at a multi-disk point, those that share points
    /// with no other go to their own.
    private func show(_ disk: Catalog.Disk, _ shared: SharedPoints, _ at: String, _ asked: PointName) throws {
        var name = asked
        if shared.name == nil, !selection.isExplicit {
            if asked == .latestMulti { name = .latestProcessed }
            if asked == .latestMultiAppConsistent { name = .latestAppConsistent }
        }
        guard let history = shared.history(of: disk.id), let sequence = try shared.resolve(name, on: disk) else { return }
        try show(disk, history, sequence)
        switch name {
        case .sequence, .time: break
        default: link(at, to: sequence, disk)
        }
    }

    /// Adds the directory of one sequence unless it is there.
    private func show(_ disk: Catalog.Disk, _ history: DiskHistory, _ sequence: UInt64) throws {
        let parent = shown.withLock { shown -> ExportTree.Directory? in
            shown[disk.id]?.sequences.insert(sequence).inserted == true ? shown[disk.id]?.directory : nil
        }
        guard let parent else { return }
        let size = history.state.sizeBytes(at: sequence)
        let directory = try tree.addDirectory("\(sequence)", in: parent)
        let footer = size <= VHDFooter.sizeBytesMax
            ? VHDFooter.fixed(sizeBytes: size, uniqueID: imageID(of: disk, at: sequence), timeStamp: disk.vhdTimeStamp(of: nil)) : nil
        let point = LazyDisk { [sources] () throws(SystemError) in try Self.open(disk, history, sequence, sources) }
        try tree.addDisk(point, in: directory, sizeBytes: size, isWritable: false, vhdFooter: footer)
    }

    private func imageID(of disk: Catalog.Disk, at sequence: UInt64) -> [UInt8] {
        pointImageID(vault: sources.vault.id, disk: disk.id, sequence: sequence, format: .vhdFixed)
    }

    private static func open(_ disk: Catalog.Disk, _ history: DiskHistory, _ sequence: UInt64, _ sources: PointSources) throws(SystemError) -> PointDisk {
        do throws(VaultError) {
            // As the vault is now: a mount may be older than what retention and collection did since.
            let history = try DiskHistory.newest(sources.vault, sources.vault.disk(disk.id.description)) ?? history
            let reader = try PointReader(sources, disk: disk.id, plan: try history.plan(at: sequence))
            return PointDisk(name: disk.name, reader: reader) { serviceLog($0) }
        } catch {
            serviceLog("cannot open #\(sequence) of \(disk.name): \(error)")
            throw SystemError(errno: EIO, operation: "open #\(sequence)", path: disk.name)
        }
    }

    /// A tag that cannot be a file name, or is one already, has no link; its point is there by number.
    private func link(_ name: String, to sequence: UInt64, _ disk: Catalog.Disk) {
        guard let parent = shown.withLock({ $0[disk.id]?.directory }) else { return }
        do throws(ExportTreeError) {
            try tree.setSymlink(name, to: "\(sequence)", in: parent)
        } catch {
            serviceLog("no link for the tag \(name.debugDescription) of \(disk.name): \(error)")
        }
    }
}
