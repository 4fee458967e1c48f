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
        if let name = selection.disk {
            disks = [try vault.disk(name)]
        } else {
            disks = try vault.catalog().document.disks
        }
        var refusal: VaultError?
        for disk in disks {
            let directory = try tree.addDirectory(disk.name)
            shown.withLock { $0[disk.id] = Shown(directory: directory) }
            guard let history = try DiskHistory.newest(vault, disk) else {
                if selection.disk != nil { throw VaultError.notFound("nothing of the disk \(disk.name) is in the vault yet") }
                continue
            }
            do {
                try fill(disk, history)
            } catch let error as VaultError {
                // Of several disks others may have it.
                guard case .notFound = error, selection.disk == nil else { throw error }
                serviceLog("\(disk.name): \(error)")
                refusal = error
            }
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
        for disk in disks {
            do {
                guard let history = try DiskHistory.newest(sources.vault, disk) else { continue }
                guard shown.withLock({ $0[disk.id]?.newest ?? 0 }) != history.newestSequence else { continue }
                try fill(disk, history)
            } catch {
                serviceLog("cannot look for new points of \(disk.name): \(error)")
            }
        }
    }

    private func fill(_ disk: Catalog.Disk, _ history: DiskHistory) throws {
        if let at = selection.at, let name = PointName(at) {
            let sequence = try history.resolve(name)
            try show(disk, history, sequence)
            switch name {
            case .latest, .latestProcessed, .latestAppConsistent, .tag: link(at, to: sequence, disk)
            case .sequence, .time: break
            }
            return
        }
        let intact = try history.intactPoints()
        for lost in intact.damage { serviceLog("points of \(disk.name) cannot be shown: \(lost)") }
        let points = intact.points
        for point in points { try show(disk, history, point.sequence) }
        for point in points { if let tag = point.tag { link(tag, to: point.sequence, disk) } }
        for (name, sequence) in [("latest", history.newestSequence), ("latest-processed", history.checkpointSequence)] {
            try show(disk, history, sequence)
            link(name, to: sequence, disk)
        }
        shown.withLock { $0[disk.id]?.newest = history.newestSequence }
    }

    /// Adds the directory of one sequence unless it is there.
    private func show(_ disk: Catalog.Disk, _ history: DiskHistory, _ sequence: UInt64) throws {
        let parent = shown.withLock { shown -> ExportTree.Directory? in
            shown[disk.id]?.sequences.insert(sequence).inserted == true ? shown[disk.id]?.directory : nil
        }
        guard let parent else { return }
        let size = history.state.sizeBytes
        let directory = try tree.addDirectory("\(sequence)", in: parent)
        let footer = size <= VHDFooter.sizeBytesMax
            ? VHDFooter.fixed(sizeBytes: size, uniqueID: disk.id.bytes, timeStamp: disk.vhdTimeStamp) : nil
        let point = LazyDisk { [sources] () throws(SystemError) in try Self.open(disk, history, sequence, sources) }
        try tree.addDisk(point, in: directory, sizeBytes: size, isWritable: false, vhdFooter: footer)
    }

    private static func open(_ disk: Catalog.Disk, _ history: DiskHistory, _ sequence: UInt64, _ sources: PointSources) throws(SystemError) -> PointDisk {
        do throws(VaultError) {
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
