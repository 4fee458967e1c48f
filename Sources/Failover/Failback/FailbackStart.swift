// `failback start`, `status` and `cancel`: the home's images follow the replica while that runs. In the vault only pins change.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import RecoveryPoints
package import Site
package import Vault

/// Where the two sides of a disk parted, and what each has since.
package struct PartedDisk: Sendable {
    package let disk: ProtectedDisk
    package let image: String
    package let isBegun: Bool
    /// The newest state of the home that the vault has too; nil: not known.
    package let common: RefreshMark.State?
    /// Where the replica went on: `common`, or below it after a failover to an older point. What the home has beyond is in the vault only.
    package let partedSequence: UInt64?
    package let unsent: UnsentWrites
    package let obstacle: String?
    /// Of the replica: its history, its newest sequence, and the records since `common` as its manifests count them.
    package let lineage: VaultID
    package let newestSequence: UInt64
    package let replicaRecords: UInt64?
    package let newestMicros: UInt64?
}

package struct FailbackReport: Sendable {
    package struct Disk: Sendable {
        package let parted: PartedDisk
        package internal(set) var mark: RefreshMark?
    }

    package let unit: String
    package internal(set) var state: LifeCycle.State
    package internal(set) var disks: [Disk]
    package internal(set) var passes = 0
    package internal(set) var unserved = false
}

extension Failbacks {
    /// A pass that wrote less is the last one: what is left is short.
    private static let restBytes: UInt64 = 16 << 20
    private static let passesMax = 8

    package struct StartRequest: Sendable {
        package let unit: String
        /// Where the image is to be, of a unit of one disk; of others `imageFolder` with the names they have.
        package let image: String?
        package let imageFolder: String?
        package let logFolder: String?
        package let isFull: Bool
        /// Writes of the home that the vault never got are given up.
        package let dropsHomeWrites: Bool

        package init(unit: String, image: String? = nil, imageFolder: String? = nil, logFolder: String? = nil, isFull: Bool = false, dropsHomeWrites: Bool = false) {
            self.unit = unit
            self.image = image
            self.imageFolder = imageFolder
            self.logFolder = logFolder
            self.isFull = isFull
            self.dropsHomeWrites = dropsHomeWrites
        }
    }

    package func start(_ request: StartRequest, show: ([PartedDisk]) -> Void) throws -> FailbackReport {
        let (standing, lock) = try heads.alone(request.unit, on: catalogue.site)
        defer { withExtendedLifetime(lock) {} }
        try standing.unit.refusePart()
        try standing.check(.failbackStart)
        return try asJob(request.unit, steps: ["prerequisites", "refresh"]) { job in
            var homes: [HomeDisk] = []
            try job.step("prerequisites") {
                let own = try ownDisks(standing.unit)
                // A place that was left before an earlier failback ended is no place to go back to.
                for disk in own where access(LogFolder(disk.logFolder).failbackFile, F_OK) != 0 { try catalogue.settleMove(ofDisk: disk.name, goingBack: false) }
                let places = try places(of: own, request)
                try holding(own) {
                    // Where a disk is now tells what it has, also of one that is left.
                    homes = try examine(own, standing.head, leaving: Set(zip(own, places).filter { $0 != $1 }.map(\.0.name)))
                    let parted = try homes.map { try self.parted($0, standing.head) }
                    show(parted)
                    try refuseUnconfirmed(parted, request)
                    for (index, place) in places.enumerated() where place != own[index] {
                        let known = try history(of: own[index], in: standing.head)
                        try move(own[index], to: place, sizeBytes: known.state.sizeBytes(at: known.newestSequence))
                        homes[index] = try HomeDisk(place, site: catalogue.site, history: try history(of: place, in: standing.head))
                    }
                }
                return "\(homes.count) images can be changed"
            }
            var report = FailbackReport(unit: request.unit, state: standing.state, disks: try homes.map { .init(parted: try self.parted($0, standing.head), mark: nil) })
            try catalogue.record(.information, disk: nil, "a failback of \(request.unit) to this host began")
            try job.step("refresh") {
                try follow(&report, homes, standing.unit, request)
                return "\(report.passes) passes"
            }
            return report
        }
    }

    /// `leaving`: disks whose images stay as they are.
    func examine(_ disks: [ProtectedDisk], _ head: Head, leaving: Set<String> = []) throws -> [HomeDisk] {
        for disk in disks { try actions.release(disk.name) }
        for disk in disks where !leaving.contains(disk.name) { try requireChangeable(disk) }
        return try disks.map { try HomeDisk($0, site: catalogue.site, history: try history(of: $0, in: head)) }
    }

    /// What the two sides have, for a person to decide.
    func parted(_ home: HomeDisk, _ head: Head) throws -> PartedDisk {
        let history = try history(of: home.disk, in: head)
        var records: UInt64?
        if let common = home.mark.base, let current = history.state.current {
            var count: UInt64 = 0
            try history.visitManifests(of: current) { manifest in
                count += manifest.segments.filter { $0.first > common.sequence }.reduce(0) { $0 + $1.records }
                return manifest.after > common.sequence
            }
            records = count
        }
        return PartedDisk(
            disk: home.disk, image: home.disk.imagePath, isBegun: home.isBegun, common: home.mark.base,
            partedSequence: home.mark.base.map { history.state.partedSequence(from: $0) }, unsent: home.unsent, obstacle: home.obstacle,
            lineage: history.state.current?.id ?? history.state.disk, newestSequence: history.newestSequence, replicaRecords: records,
            newestMicros: try history.newestPoint { _ in true }?.timeMicros)
    }

    /// Who is right after both sides were written to, a person says.
    private func refuseUnconfirmed(_ parted: [PartedDisk], _ request: StartRequest) throws {
        guard !request.dropsHomeWrites, let first = parted.first(where: { !$0.isBegun && ($0.unsent.records > 0 || ($0.common == nil && $0.obstacle != nil && access($0.image, F_OK) == 0)) }) else { return }
        let what =
            first.unsent.records > 0
            ? "\(first.disk.name) has \(first.unsent.records) writes on this host that the vault never got, made after the two sides parted at #\(first.common?.sequence ?? 0)"
            : "what \(first.disk.name) has on this host cannot be compared with what the vault got of it (\(first.obstacle ?? ""))"
        let copy = first.unsent.records > 0 ? "copy \(first.image) aside if it is needed, it is complete" : "copy \(first.image) and \(first.disk.logFolder) aside if they are needed"
        throw FailoverError(
            .prerequisite, "\(what): a failback replaces it by what was written on the other side",
            remedy: "\(copy); then farshore failback start \(request.unit) --drop-home-writes")
    }

    /// Where images and logs are to be; a failback that was begun stays where it is.
    private func places(of disks: [ProtectedDisk], _ request: StartRequest) throws -> [ProtectedDisk] {
        guard request.image == nil || disks.count == 1 else {
            throw FailoverError(
                .prerequisite, "\(request.unit) has \(disks.count) disks, and one image was named for them",
                remedy: "farshore failback start \(request.unit) --image-folder with a folder for all of them")
        }
        let found = try disks.map { try place(of: $0, request) }
        guard Set(found.map(\.imagePath)).count == found.count, Set(found.map(\.logFolder)).count == found.count else {
            throw FailoverError(
                .prerequisite, "images of \(request.unit) have the same file name and would be one in that folder",
                remedy: "farshore failback start \(request.unit) without another folder")
        }
        return found
    }

    private func place(of disk: ProtectedDisk, _ request: StartRequest) throws -> ProtectedDisk {
        let name = disk.imagePath.split(separator: "/").last.map(String.init) ?? disk.name
        let named = request.image ?? request.imageFolder.map { "\($0)/\(name)" }
        let image = named.flatMap { $0 == disk.imagePath || isSameFile($0, disk.imagePath) ? nil : $0 }
        var moved = disk
        moved.imagePath = image ?? disk.imagePath
        let logName = moved.imagePath.split(separator: "/").last.map(String.init) ?? disk.name
        moved.logFolder = request.logFolder.map { "\($0)/\(logName).log" } ?? (image == nil ? disk.logFolder : moved.imagePath + ".log")
        guard moved != disk else { return disk }
        guard access(disk.logFolder + "/failback", F_OK) != 0 else {
            throw FailoverError(
                .inUse, "a failback of \(disk.name) was begun in \(disk.imagePath)",
                remedy: "farshore failback start \(request.unit) without another place, or farshore failback cancel \(request.unit) first")
        }
        if image == nil {
            throw FailoverError(.prerequisite, "the log alone cannot move: it tells what the image holds", remedy: "--to or --image-folder as well")
        }
        guard !Self.isTaken(moved.imagePath), try !catalogue.disks().contains(where: { $0.imagePath == moved.imagePath }) else {
            throw FailoverError(
                .inUse, "\(moved.imagePath) is there already and is not the image of \(disk.name): a failback writes over no other file",
                remedy: "--to or --image-folder with a place that is free, or farshore failback start \(request.unit) without them, which reuses \(disk.imagePath)")
        }
        guard try isFree(moved.logFolder, for: disk) else {
            throw FailoverError(.inUse, "the folder \(moved.logFolder) for its log is there already", remedy: "--log-folder with another folder, or another place for the image")
        }
        return moved
    }

    private static func isTaken(_ path: String) -> Bool {
        var info = stat()
        return lstat(path, &info) == 0
    }

    /// There is nothing, or what a start left that was killed before the catalogue named the place.
    private func isFree(_ logFolder: String, for disk: ProtectedDisk) throws -> Bool {
        guard Self.isTaken(logFolder) else { return true }
        if try RefreshMark.load(LogFolder(logFolder))?.disk.description == disk.id { return true }
        return try Directory.list(logFolder).allSatisfy(RefreshMark.isUnfinished)
    }

    private func move(_ disk: ProtectedDisk, to place: ProtectedDisk, sizeBytes: UInt64) throws {
        guard let vaultID = VaultID(disk.vaultID), let id = VaultID(disk.id) else { throw VaultError.notFound("nothing of the disk \(disk.name) is in the vault yet") }
        try Directory.create(place.logFolder, mode: 0o700)
        // Before the catalogue names it: nobody takes the empty folder for a disk.
        let folder = LogFolder(place.logFolder)
        try RefreshMark(vault: vaultID, disk: id, base: nil, hasUnsent: false).store(folder)
        // Before that too: from then on what has the name is this failback's, to be changed and removed.
        do { try makeImage(place, sizeBytes) } catch {
            try RefreshMark.remove(folder)
            rmdir(folder.path)
            throw error
        }
        try catalogue.move(disk: disk.name, imagePath: place.imagePath, logFolder: place.logFolder)
    }

    /// Passes until little is left; each one goes to what the vault has when it begins.
    private func follow(_ report: inout FailbackReport, _ homes: [HomeDisk], _ unit: FailoverUnit, _ request: StartRequest) throws {
        var isFull = request.isFull
        while report.passes < Self.passesMax {
            let head = try heads.standing(of: request.unit).head
            var targets: [VaultID: RefreshMark.State] = [:]
            var bases: [VaultID: RefreshMark.State] = [:]
            var endsInterrupted = false
            for (home, last) in zip(homes, report.disks.map(\.mark)) {
                guard let current = head.state(of: home.mark.disk)?.current else { throw VaultError.notFound("nothing of the disk \(home.disk.name) is in the vault yet") }
                targets[home.mark.disk] = RefreshMark.State(lineage: current.id, sequence: current.sequence)
                let mark = last ?? home.mark
                bases[home.mark.disk] = mark.base
                // One that was interrupted is ended first, and needs its target as well.
                if let interrupted = mark.pass?.target {
                    targets[home.mark.disk] = interrupted
                    endsInterrupted = true
                }
            }
            try pin(unit, from: bases, to: targets)
            var written: UInt64 = 0
            for index in homes.indices {
                guard let target = targets[homes[index].mark.disk] else { continue }
                let last = report.disks[index].mark
                let mark = try refresh(homes[index], after: last, to: target, try history(of: homes[index].disk, in: head), isFull: isFull)
                written += mark.writtenBytes - (last ?? homes[index].mark).writtenBytes
                report.disks[index].mark = mark
            }
            isFull = false
            report.passes += 1
            // What it ended may be far behind the replica by now.
            guard endsInterrupted || written > Self.restBytes else { return }
        }
    }

    /// How far each image is; nothing is opened or changed.
    package func status(_ unitName: String) throws -> (standing: LifeCycleStanding, disks: [(disk: ProtectedDisk, mark: RefreshMark?, newestSequence: UInt64)]) {
        let standing = try heads.standing(of: unitName)
        return (standing, try ownDisks(standing.unit).map { disk in
            (disk, try RefreshMark.load(LogFolder(disk.logFolder)), try history(of: disk, in: standing.head).newestSequence)
        })
    }

    /// Lets the vault's states go that were kept for it. Images that were changed stay as they are, and refused: a later start goes on with them.
    /// New ones that it made elsewhere go, and the disks are again where they were.
    package func cancel(_ unitName: String) throws -> (begun: [ProtectedDisk], untouched: [ProtectedDisk]) {
        let (standing, lock) = try heads.alone(unitName, on: catalogue.site)
        defer { withExtendedLifetime(lock) {} }
        try standing.check(.failbackCancel)
        for disk in try ownDisks(standing.unit) { try goBack(disk, unitName) }
        let disks = try ownDisks(standing.unit)
        try vault.heads(group: standing.unit.group).edit { unpin(&$0) }
        try catalogue.record(.information, disk: nil, "the failback of \(unitName) to this host was cancelled")
        try letGo(disks.filter { $0.held?.hasPrefix(Self.heldWords) == true })
        let begun = disks.filter { access(LogFolder($0.logFolder).failbackFile, F_OK) == 0 }
        return (begun, disks.filter { disk in !begun.contains(disk) })
    }

    /// The new image goes first: until the catalogue names the old one, a repetition finds it by its mark.
    private func goBack(_ disk: ProtectedDisk, _ unit: String) throws {
        let folder = LogFolder(disk.logFolder)
        guard try catalogue.placeLeft(ofDisk: disk.name) != nil, access(folder.failbackFile, F_OK) == 0 else { return }
        let lock = try waitingForUploader(of: catalogue.site) { try OwnerLock.acquire(folder) }
        for path in [disk.imagePath, disk.imagePath + OutputImage.partialSuffix] { try DurableFile.remove(path) }
        // Guests write elsewhere still: no mount serves it before somebody says so.
        try catalogue.hold(disk: disk.name, reason: Self.takenBack(unit))
        try catalogue.settleMove(ofDisk: disk.name, goingBack: true)
        try RefreshMark.remove(folder)
        try folder.discard(lock, duringFailback: true)
    }
}
