// The commands of a failback as they run on the home host, and what they have in common. The image of each disk is brought to states of
// the replica while that runs on (`start`, as often as wanted), then to its last one (`complete`), and is the disk's source again.

import BlockIO
import ChangeLog
package import DiskImage
import Glibc
package import RecoveryPoints
import Replication
package import Site
import Vault

package struct Failbacks: Sendable {
    /// What a failback does beyond vault, catalogue and image.
    package struct Actions: Sendable {
        /// The site's mount gives the disk up. Throws while somebody uses it.
        let release: @Sendable (String) throws -> Void
        /// Lets the site's mount serve the disk; false where no mount runs.
        let serve: @Sendable (String) throws -> Bool
        /// Throws where something else than the site has the image, which takes no lock.
        let refuseForeignUse: @Sendable (ProtectedDisk) throws -> Void

        package init(
            release: @escaping @Sendable (String) throws -> Void, serve: @escaping @Sendable (String) throws -> Bool,
            refuseForeignUse: @escaping @Sendable (ProtectedDisk) throws -> Void
        ) {
            self.release = release
            self.serve = serve
            self.refuseForeignUse = refuseForeignUse
        }
    }

    package let heads: LifeCycleHeads
    package let catalogue: Catalogue
    let actions: Actions
    let surroundings: ImageRefresh.Surroundings

    package init(heads: LifeCycleHeads, catalogue: Catalogue, actions: Actions, _ surroundings: ImageRefresh.Surroundings) {
        self.heads = heads
        self.catalogue = catalogue
        self.actions = actions
        self.surroundings = surroundings
    }

    var vault: Vault { heads.vault }

    /// This site's disks of the unit, in the unit's order.
    func ownDisks(_ unit: FailoverUnit) throws -> [ProtectedDisk] {
        let all = try catalogue.disks()
        try refuseFurtherTargets(of: all, in: unit)
        return try unit.disks.map { disk in
            guard let own = all.first(where: { $0.id == disk.id.description }) else {
                throw FailoverError(
                    .prerequisite, "this site does not have \(disk.name) any more, which is in \(unit.name)",
                    remedy: "fail over to here instead: farshore failover prepare \(unit.name) on the active host, then farshore failover run \(unit.name) --planned here")
            }
            return own
        }
    }

    /// What the home has that one vault lacks is not what another lacks, and a failback brings it to a history that only one of them has.
    func refuseFurtherTargets(of disks: [ProtectedDisk], in unit: FailoverUnit) throws {
        guard let first = disks.first(where: { own in own.targetCount > 1 && unit.disks.contains { $0.id.description == own.id } }) else { return }
        throw FailoverError(
            .prerequisite, "\(first.name) has \(first.targetCount) targets on this site, and guests went to another host by one of them",
            remedy: "farshore target remove \(unit.name) --vault URL for the others; added again afterwards they are resynchronised")
    }

    func history(of disk: ProtectedDisk, in head: Head) throws -> DiskHistory {
        guard let id = VaultID(disk.id), let state = head.state(of: id), state.current != nil else { throw VaultError.notFound("nothing of the disk \(disk.name) is in the vault yet") }
        return DiskHistory(vault: vault, state: state, peers: head.disks)
    }

    // MARK: Images

    static let heldReason = heldWords + "; farshore failback complete UNIT ends that"
    /// Of a home whose guests write elsewhere.
    static func takenBack(_ unit: String) -> String { "its failback was taken back, guests write on another host; farshore failback start \(unit) brings it up to date" }
    /// By which a disk that is held is known.
    static let heldWords = "a failback to it is under way"

    /// No mount takes one of the disks up while `body` looks at them; what was begun with none of them is given back when it throws.
    func holding(_ disks: [ProtectedDisk], _ body: () throws -> Void) throws {
        for disk in disks where disk.held == nil { try catalogue.hold(disk: disk.name, reason: Self.heldReason) }
        do { try body() } catch {
            try letGo(disks.filter { $0.held == nil })
            throw error
        }
    }

    /// Of disks whose images are untouched.
    func letGo(_ disks: [ProtectedDisk]) throws {
        for disk in disks where access(LogFolder(disk.logFolder).failbackFile, F_OK) != 0 { try catalogue.hold(disk: disk.name, reason: nil) }
    }

    /// Throws, naming what to mend, where the image cannot be changed: in use, read by others, read-only, with snapshots inside.
    func requireChangeable(_ disk: ProtectedDisk) throws {
        guard access(disk.imagePath, F_OK) == 0 else { return }
        try actions.refuseForeignUse(disk)
        let children = try imageChildren(of: disk.imagePath)
        guard children.isEmpty else {
            throw FailoverError(
                .inUse, "\(disk.imagePath) is read through by \(children.joined(separator: ", ")): what they show would change with it",
                remedy: "merge or move them away, or farshore failback start UNIT --image-folder with another folder")
        }
        let lock = try waitingForUploader(of: catalogue.site) { try ImageLock.take(disk.imagePath, for: .exclusive) }
        do {
            _ = try disk.openImage(locked: lock, parentLocks: ParentLocks())
        } catch ImageError.system(let error) where error.errno == EACCES || error.errno == EROFS || error.errno == EPERM {
            throw FailoverError(
                .prerequisite, "\(disk.imagePath) cannot be written: \(error)", remedy: "make the file and its volume writable, or farshore failback start UNIT --image-folder with another folder")
        }
        try lock.release()
    }

    /// Brings the image to `target`; the mark is in the folder when this returns, also by an error after the first change. `last`: what the pass
    /// before in this process returned. Before the first one `home.mark` counts and not the file's: it fits `home.unsent`.
    func refresh(_ home: HomeDisk, after last: RefreshMark?, to target: RefreshMark.State, _ history: DiskHistory, isFull: Bool) throws -> RefreshMark {
        let folder = home.folder
        try Directory.create(folder.path, mode: 0o700)
        let owner = try waitingForUploader(of: catalogue.site) { try OwnerLock.acquire(folder) }
        let isBegun = home.isBegun || last != nil
        guard isBegun || home.isUnchanged else {
            throw FailoverError(.inUse, "\(home.disk.name) was written to on this host since it was looked at", remedy: "end who writes there, then the same command again")
        }
        var mark = last ?? home.mark
        if isFull, !isBegun { mark = RefreshMark(vault: mark.vault, disk: mark.disk, base: nil, hasUnsent: false) }
        let sizeBytes = history.state.sizeBytes(at: target.sequence)
        let hadImage = home.hasImage
        // What it held went with it: one that is made anew is compared as a whole.
        if !hadImage { (mark.base, mark.hasUnsent, mark.pass) = (nil, false, nil) }
        try mark.store(folder)
        // A mount that is started meanwhile waits for the disk instead of failing by it.
        try catalogue.hold(disk: home.disk.name, reason: Self.heldReason)
        if !hadImage { try makeImage(home.disk, sizeBytes) }
        let lock = try waitingForUploader(of: catalogue.site) { try ImageLock.take(home.disk.imagePath, for: .exclusive) }
        try grow(home.disk, to: sizeBytes, lock)
        let image = try home.disk.openImage(locked: lock, parentLocks: ParentLocks())
        if isFull, hadImage, !isBegun { try image.zero(at: 0, length: image.sizeBytes) }
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let pace = DownloadPace(home.disk, catalogue)
        let sizes = (history.state.grown ?? []).map(\.sizeBytes) + [try? folder.readState().diskBytes].compactMap { $0 }
        let ends = Self.formerEnds(try home.disk.imageFormat(), sizes, below: sizeBytes)
        let refresh = ImageRefresh(image, mark, folder: folder, history: history, sources: sources, unsent: home.unsent.ranges, formerEnds: ends, surroundings) { [surroundings] in
            pace.wait($0, isOver: surroundings.isOver)
        }
        try refresh.bring(to: target)
        _ = consume owner
        try lock.release()
        return refresh.mark
    }

    func makeImage(_ disk: ProtectedDisk, _ sizeBytes: UInt64) throws {
        guard let format = OutputFormat(rawValue: disk.format), let id = VaultID(disk.id) else {
            throw FailoverError(.prerequisite, "\(disk.imagePath) is gone, and an image of the format \(disk.format) cannot be made", remedy: "bring the image back with its parents")
        }
        if let parent = Directory.parent(of: disk.imagePath) { try Directory.create(parent) }
        let output = try OutputImage.begin(disk.imagePath, format: format, sizeBytes: sizeBytes, uniqueID: id.bytes, timeStamp: 0)
        try output.finish(replacing: false)
    }

    private func grow(_ disk: ProtectedDisk, to sizeBytes: UInt64, _ lock: borrowing ImageLock) throws {
        let format = try disk.imageFormat()
        let found = try disk.openImage(locked: lock, access: .readOnly).sizeBytes
        guard found < sizeBytes else { return }
        try requireGrowable(lock.descriptor, format: format, disk: disk.name, from: found, to: sizeBytes)
        try growImage(lock.descriptor, format: format, from: found, to: sizeBytes)
    }

    /// Blocks of a fixed VHD that may still have the footer of a smaller one: nothing but the file tells that its growth ended, and that tells
    /// it before the old footer is gone.
    package static func formerEnds(_ format: ImageFormat, _ sizesBytes: [UInt64], below sizeBytes: UInt64) -> BlockRanges {
        guard format == .vhdFixed else { return .none }
        return BlockRanges(sizesBytes.filter { $0 < sizeBytes }.map { size in size / UInt64(FormatLimits.blockBytes) }.map { $0..<$0 + 1 })
    }

    // MARK: Pins

    /// What the images stand on, and what they are brought to.
    func pin(_ unit: FailoverUnit, from bases: [VaultID: RefreshMark.State], to targets: [VaultID: RefreshMark.State]) throws {
        let catalog = try vault.catalog().document
        try vault.heads(group: unit.group).edit { head throws(VaultError) in
            let shared = SharedPoints(vault, head: head, catalog: catalog)
            for (word, states) in [("from", bases), ("to", targets)] {
                // A pin of what can no longer be read would stand in retention's way.
                var points: [LifeCycle.Point] = []
                for (disk, state) in states {
                    guard let history = shared.history(of: disk), try history.tells(state), (try? history.plan(at: state.sequence)) != nil else { continue }
                    points.append(LifeCycle.Point(disk: disk, lineage: state.lineage, sequence: state.sequence))
                }
                try Failovers.addPins("", points, reason: "failback of \(unit.name) to \(heads.host.name)", to: &head, shared, named: pinName(word))
            }
        }
    }

    func unpin(_ head: inout Head) {
        let names = [pinName("from"), pinName("to")]
        let left = (head.pins ?? []).filter { !names.contains($0.name) }
        head.pins = left.isEmpty ? nil : left
    }

    private func pinName(_ word: String) -> String { "failback-\(word)-\(heads.host.id.description.prefix(8))" }

    // MARK: Jobs

    func asJob<Value>(_ unit: String, steps: [String], _ body: (RunningJob) throws -> Value) throws -> Value {
        let job = try catalogue.beginJob(.failback, disk: unit, steps: steps)
        do {
            let value = try body(job)
            try job.succeed()
            return value
        } catch {
            try job.fail("\(error)", remedy: (error as? FailoverError)?.remedy ?? (error as? SiteError)?.remedy ?? "farshore failback status \(unit)")
            throw error
        }
    }
}
