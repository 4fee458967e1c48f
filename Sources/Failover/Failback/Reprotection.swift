// `reprotect`, on the host that took over: its disks become sources, the other direction is replicated. The uploader finds in each log where it
// branches off what the vault has, so nothing is replicated anew. `failover release`, on the host that guests left: its copy goes.

import BlockIO
import ChangeLog
import Glibc
import Replication
import Site
import Vault

extension Failbacks {
    package func reprotect(_ unitName: String) throws -> LifeCycleStanding {
        let (standing, lock) = try heads.alone(unitName, on: catalogue.site)
        defer { withExtendedLifetime(lock) {} }
        try standing.unit.refusePart()
        try standing.check(.reprotect)
        let disks = try ownDisks(standing.unit)
        // A disk that is not filled yet still reads its point from the vault; its uploader lets the pins go when it is.
        let needsPoint = !disks.allSatisfy { LogFolder($0.logFolder).isKnownFilled }
        try heads.publish(.reprotect, standing.unit, claiming: standing.state == .committed) { (head: inout Head, lifeCycle: inout LifeCycle?) throws(VaultError) in
            if !needsPoint { head.removeFailoverPins() }
            guard let before = lifeCycle, before.state == .committed else { return }
            // The points stay until each disk has branched off: retention leaves them in the window.
            lifeCycle = LifeCycle(state: .replicating, active: heads.host.id, home: before.home, points: before.points, timeMicros: 0)
        }
        let home = try heads.standing(of: unitName).lifeCycle?.home
        // Sources elsewhere than at home have been given theirs before.
        for disk in disks where disk.role != .source || home == heads.host.id {
            if home != heads.host.id { try adoptPolicy(of: disk, from: home, standing) }
            try catalogue.assignPolicy(ofDisk: disk.name, away: home != heads.host.id)
        }
        // After the head: a source whose head does not name this host is a suspected split brain.
        try catalogue.setRole(.source, ofDisks: disks.map(\.name))
        for disk in disks {
            if let settings = standing.catalog.settings(ofMachine: disk.machine) { try catalogue.adopt(settings, from: disk.vaultID) }
            // What its uploader said last is of the time when guests wrote elsewhere.
            var state = try catalogue.replication(ofDisk: disk.name, at: disk.vaultID)
            (state.health, state.error, state.remedy) = (.normal, nil, nil)
            try catalogue.setReplication(state, ofDisk: disk.name, at: disk.vaultID)
            try catalogue.requestAttempt(ofDisk: disk.name)
        }
        try catalogue.record(.information, disk: nil, "\(unitName) is replicated from this host")
        return try heads.standing(of: unitName)
    }

    /// As the vault has it from the host where the disk was before; that may be gone. Vaults of earlier releases have none.
    private func adoptPolicy(of disk: ProtectedDisk, from home: VaultID?, _ standing: LifeCycleStanding) throws {
        guard let id = VaultID(disk.id), let published = standing.catalog.policy(ofDisk: id) else { return }
        let (policy, failback): (Policy, Policy?)
        do throws(SiteError) { (policy, failback) = (try published.policy.policy(), try published.failback?.policy()) } catch {
            return try catalogue.record(.warning, disk: disk.name, "its policy \(published.policy.name) is not understood here, it keeps \(disk.policy.name): \(error)")
        }
        try catalogue.adopt(policy, failback: failback, ofDisk: disk.name, atVault: disk.vaultID, from: standing.name(of: home ?? LifeCycle.unknownHost))
    }

    package struct Released: Sendable {
        package let disk: String
        package let image: String
        package let isImageRemoved: Bool
    }

    /// Takes the unit's disks out of this site, logs and all. Images that a failover made go too, others only with `removesImages`; one that stays
    /// gets what its log has. Writes that the vault never got are lost with the log, or with the disk that they came from: only with `dropsWrites`.
    package func releaseReplica(_ unitName: String, removesImages: Bool, dropsWrites: Bool) throws -> [Released] {
        let (standing, lock) = try heads.alone(unitName, on: catalogue.site)
        defer { withExtendedLifetime(lock) {} }
        try standing.unit.refusePart()
        try standing.check(.release)
        var released: [Released] = []
        let own = try catalogue.disks().filter { own in standing.unit.disks.contains { $0.id.description == own.id } }
        try refuseFurtherTargets(of: own, in: standing.unit)
        for disk in own {
            try actions.release(disk.name)
            try settleWrites(of: disk, standing, removesImage: try removes(disk, removesImages), dropsWrites)
        }
        for disk in own {
            let folder = LogFolder(disk.logFolder)
            var image = disk.imagePath
            let removes = try self.removes(disk, removesImages)
            try catalogue.setState(.releasing, ofDisk: disk.name)
            if access(folder.path, F_OK) == 0 {
                let lock = try waitingForUploader(of: catalogue.site) { try OwnerLock.acquire(folder) }
                // An image that was half changed must not look like a disk without its mark: the name of the file tells.
                if access(folder.failbackFile, F_OK) == 0, !removes {
                    guard rename(disk.imagePath, disk.imagePath + ".half-refreshed") == 0 || errno == ENOENT else {
                        throw SystemError(errno: errno, operation: "rename the half-refreshed image", path: disk.imagePath)
                    }
                    image += ".half-refreshed"
                }
                try RefreshMark.remove(folder)
                try folder.discard(lock)
            }
            if removes { try DurableFile.remove(disk.imagePath) }
            // What the machine wrote on its disks that are not replicated is not the next failover's.
            if try catalogue.wasMadeByFailover(disk), let made = Directory.parent(of: disk.imagePath) {
                try standing.catalog.removeEmptyDisks(ofMachines: standing.unit.machines, in: made)
            }
            try catalogue.remove(disk: disk.name)
            try catalogue.record(.information, disk: disk.name, "released: guests write on another host")
            released.append(Released(disk: disk.name, image: image, isImageRemoved: removes))
        }
        for record in try catalogue.openFailovers(.preparation) where record.group == standing.unit.group.description { try catalogue.end(failover: record.run, note: "released") }
        guard !released.isEmpty else { throw FailoverError(.notFound, "this site has nothing of \(unitName)", remedy: "farshore failover show \(unitName)") }
        return released
    }

    private func removes(_ disk: ProtectedDisk, _ removesImages: Bool) throws -> Bool { try catalogue.wasMadeByFailover(disk) || removesImages }

    private func settleWrites(of disk: ProtectedDisk, _ standing: LifeCycleStanding, removesImage: Bool, _ dropsWrites: Bool) throws {
        // Of those the run before asked, or the failback.
        guard disk.state != .releasing, access(LogFolder(disk.logFolder).failbackFile, F_OK) != 0 else { return }
        let isLost = removesImage || access(disk.imagePath, F_OK) != 0
        let unmerged = isLost ? nil : try HomeDisk.merge(disk, catalogue.site)
        let (unsent, unknown) = try HomeDisk.unproven(disk, try history(of: disk, in: standing.head))
        guard !dropsWrites else { return }
        let again = "farshore failover release \(standing.unit.name) --drop-writes"
        if let obstacle = unmerged ?? unknown {
            throw FailoverError(
                .prerequisite, "whether \(disk.name) has writes on this host that the vault never got cannot be told, and \(disk.imagePath) may be without them: \(obstacle)",
                remedy: "copy the image and \(disk.logFolder) aside if they are needed, then \(again)")
        }
        guard unsent.records > 0 else { return }
        throw FailoverError(
            .prerequisite, "\(disk.name) has \(unsent.records) writes on this host that the vault never got" + (isLost ? ": they would be lost" : ", they are in \(disk.imagePath) only"),
            remedy: (isLost ? "copy \(disk.imagePath) and \(disk.logFolder) aside if they are needed" : "what the guests on the other host need of it, copy to there") + ", then \(again)")
    }
}
