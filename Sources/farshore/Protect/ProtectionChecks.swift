// What must hold before a disk is protected. Each check looks and changes nothing; a refusal says what to mend.

import BlockIO
import ChangeLog
import DiskImage
import Foundation
import Glibc
import ObjectStore
import Site
import Vault

struct ProtectionChecks {
    struct Image {
        let path: String
        let format: ImageFormat
        let sizeBytes: UInt64
        let isBlockDevice: Bool
        /// Real paths of the folders named for parents.
        let parentFolders: [String]
        let warnings: [String]
    }

    /// Sixteen segments of 1 MiB.
    static let logBudgetBytesMin: UInt64 = 16 << 20

    /// Targets refuse requests from clocks that are further off.
    static let clockSkewSecondsMax = 900

    let catalogue: Catalogue
    let name: String
    let site: SiteDirectory

    func defaultLogFolder(_ image: Image) -> String {
        image.isBlockDevice ? site.path + "/logs/" + name : image.path + ".log"
    }

    func image(_ path: String, from format: ImageFormat?, parentFolders: [String]) throws -> Image {
        let real = try Self.realPath(path, try: "name an image that exists")
        let folders = try parentFolders.map { try Self.realPath($0, try: "name a folder that exists") }
        guard !folders.contains(where: { $0.contains("\n") }) else {
            throw Failure(.usage, "a folder's name with a line break cannot be kept", try: "another folder")
        }
        if let known = try catalogue.disks().first(where: { $0.imagePath == real || $0.name == name }) {
            let what = known.name == name ? "a disk named \(name)" : "the image \(real) as \(known.name)"
            throw Failure(.inUse, "this site already protects \(what)", try: "farshore status \(known.name)")
        }
        try catalogue.refuseDisksReading(real, try: "protect a copy of it")
        try Self.refuseLoopDevice(of: real)
        let lock = try ImageLock.take(real, for: .exclusive)
        let parentLocks = ParentLocks()
        let image = try openImage(locked: lock, access: .readWrite, format: format, parentFolders: folders, parentLocks: parentLocks)
        let inspected = try inspectImage(real, format: format, parentFolders: folders)
        try catalogue.refuseDisksUnder(real, parents: inspected.parents)
        guard image.sizeBytes <= FormatLimits.diskBytesMax else {
            throw Failure(.badImage, "\(real): a disk of \(image.sizeBytes) bytes is larger than a vault keeps", try: "farshore image info \(real)")
        }
        parentLocks.release()
        try lock.release()
        return Image(
            path: real, format: inspected.format, sizeBytes: image.sizeBytes, isBlockDevice: inspected.isBlockDevice, parentFolders: folders,
            warnings: inspected.parents.compactMap(\.warning) + Self.neverGrows(inspected))
    }

    /// Told of images that grow but for their size: now is the time to make another one.
    private static func neverGrows(_ image: ImageDescription) -> [String] {
        guard [.raw, .vhdFixed, .vhdDynamic].contains(image.format), !image.isBlockDevice, !hasGrowableSize(image.sizeBytes) else { return [] }
        return ["the disk has \(image.sizeBytes) bytes, no multiple of 4 KiB, and can never grow (docs/operating/mounts.md, Growing a disk)"]
    }

    static func refuseLoopDevice(of image: String) throws(Failure) {
        guard let device = loopDevice(of: image) else { return }
        throw Failure(.inUse, "\(image) is attached to \(device), which writes to it without asking for its lock", try: "unmount what is on it, then losetup -d \(device)")
    }

    /// The kernel names the file as it was when the device was made.
    private static func loopDevice(of image: String) -> String? {
        let names = (try? Directory.list("/sys/block")) ?? []
        return names.filter { $0.hasPrefix("loop") }.sorted().first { name in
            let backing = try? String(contentsOfFile: "/sys/block/\(name)/loop/backing_file", encoding: .utf8)
            return backing?.trimmingCharacters(in: .newlines) == image
        }.map { "/dev/\($0)" }
    }

    private static func realPath(_ path: String, try remedy: String) throws -> String {
        guard let resolved = realpath(path, nil) else { throw Failure(.notFound, "\(path): \(String(cString: strerror(errno)))", try: remedy) }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    /// The state of a log that an earlier `protect` made and nobody ever opened: it is taken over, or made anew.
    func leftover(_ folder: String) throws -> LogState? {
        guard access(folder, F_OK) == 0 else { return nil }
        let present = try Directory.list(folder)
        guard let first = present.first else { return nil }
        guard present.allSatisfy({ ["log.state", "owner.lock"].contains($0) || $0.hasPrefix("log.state.") && $0.hasSuffix(".new") }) else {
            throw notEmpty(folder, first)
        }
        // Killed before the state had its name, it left nothing of use.
        guard present.contains("log.state") else { return nil }
        let state = try LogFolder(folder).readState()
        guard state.bootID.isEmpty else { throw notEmpty(folder, first) }
        if let disk = try catalogue.disks().first(where: { $0.id == state.diskID.description }) {
            throw Failure(.inUse, "\(folder) is the change log of \(disk.name), which was not mounted yet", try: "--log-dir with a new folder")
        }
        return state
    }

    /// The leftover's id, by which the vault may know the disk; nil where it knows another one by it, or there is no leftover.
    func id(of leftover: LogState?, in vault: Vault, sizeBytes: UInt64) throws -> LogID? {
        guard let id = leftover?.diskID else { return nil }
        let known = try vault.catalog().document.disks.first { $0.id.description == id.description }
        return known.map { $0.name == name && $0.sizeBytes == sizeBytes } ?? true ? id : nil
    }

    private func notEmpty(_ folder: String, _ file: String) -> Failure {
        access(folder + "/log.state", F_OK) == 0
            ? Failure(.inUse, "\(folder) is the change log of a protected disk: it may hold writes that the image lacks", try: "farshore unprotect DISK on the site that protects it, or farshore status there")
            : Failure(.inUse, "\(folder) is not empty (\(file))", try: "--log-dir with a new folder")
    }

    /// There is room for the log.
    func logFolder(_ folder: String, budgetBytes: UInt64) throws -> [String] {
        var nearest = folder
        while access(nearest, F_OK) != 0, let parent = Directory.parent(of: nearest), parent != nearest { nearest = parent }
        var status = statvfs()
        guard statvfs(nearest, &status) == 0 else { throw SystemError(errno: errno, operation: "ask for free space", path: nearest) }
        let free = UInt64(status.f_bavail) * UInt64(status.f_frsize)
        guard free >= Self.logBudgetBytesMin else {
            throw Failure(.notEnoughSpace, "\(nearest) has \(bytesText(free)) free; a log needs \(bytesText(Self.logBudgetBytesMin)) to begin with", try: "make room, or --log-dir on another volume")
        }
        guard free < budgetBytes else { return [] }
        return ["\(nearest) has \(bytesText(free)) free, less than the log may grow to (\(bytesText(budgetBytes))): writes will fail when it is full"]
    }

    /// The vault's group of that name, if it has one, is this site's.
    func groupName(_ group: String, _ vault: Vault) throws {
        try vault.catalog().document.refuseTaken(group, for: try catalogue.vaultID(ofGroup: group), own: Set(try catalogue.disks().map(\.id)))
    }

    /// A site has each vault at one place: which chunks a vault holds is remembered by its id.
    func place(of vault: Vault, url: String) throws {
        guard let other = try catalogue.disksAtTargets().first(where: { $0.vaultID == vault.id.description && $0.vaultURL != url }) else { return }
        throw Failure(.inUse, "\(other.name) is replicated to that vault at \(other.vaultURL)", try: "--vault with that URL, or farshore retarget \(url), when the vault is there now")
    }

    /// `own`: the disk's id, where the vault may know it already.
    func vault(_ vault: Vault, own: String?) throws -> [String] {
        let catalog = try vault.catalog().document
        if let known = catalog.disk(named: name), known.id.description != own {
            throw Failure(.inUse, "the vault already has a disk named \(name)", try: "another --name, or farshore vault forget \(name) --vault \(vault.store.location) if its points are not wanted")
        }
        guard let offset = vault.store.clockOffsetSeconds else { return [] }
        if abs(offset) >= Self.clockSkewSecondsMax {
            throw Failure(.failed, "this host's clock is \(abs(offset)) s \(offset > 0 ? "behind" : "ahead of") the target's", try: "set the clock: timedatectl set-ntp true")
        }
        return abs(offset) > 60 ? ["this host's clock is \(abs(offset)) s off the target's"] : []
    }
}
