// A protected disk in a temporary directory with its site and a vault, and a model of what every point must hold.

import BlockIO
import ChangeLog
import DiskImage
import Foundation
import Logging
import ObjectStore
import Replication
import Site
import Synchronization
import Vault
import VaultFixtures
import VirtualDisk

/// The owner of the disk's log, in the test's own process.
struct TestOwner: DiskOwner {
    let disk: @Sendable () throws -> VirtualDisk

    func makeDurable() throws -> UInt64 { try disk().makeDurable() }
    func cut() throws { _ = try VirtualDisk.cutPoint([disk()], tag: "") }
    func freeze() throws -> UInt64 { try disk().freeze() }
    func unfreeze() throws { try disk().unfreeze() }
}

final class ReplicatedDisk: @unchecked Sendable {
    // Sendable: `disk` is replaced by the test's thread only, while nothing replicates.
    static let name = "d"

    let folder: String
    let site: SiteDirectory
    let store: WatchedStore
    /// How vaults are opened, here and by the uploader.
    let settings: VaultSettings
    let id: LogID
    let key = KeySource.keyFile([UInt8](repeating: 7, count: 32))
    private(set) var sizeBytes: Int
    private let logBudgetBytes: UInt64
    private let catchingUpSeconds: UInt64
    private var opened: VirtualDisk?
    var disk: VirtualDisk { opened! }
    private(set) var bootID = "boot-1"
    /// What the disk holds now, and what it held at each point.
    private(set) var model: [UInt8]
    private(set) var points: [UInt64: [UInt8]] = [:]

    /// The vault lies in `target`, or else in a directory.
    init(
        content: [UInt8], in target: (any ObjectStore)? = nil, settings: VaultSettings = VaultSettings(), logBudgetBytes: UInt64 = 256 << 20, catchingUpSeconds: UInt64 = 30
    ) throws {
        self.settings = settings
        self.logBudgetBytes = logBudgetBytes
        self.catchingUpSeconds = catchingUpSeconds
        // With a target in memory the rest is in memory too, where that is to be had.
        folder = try target == nil ? FileManager.default.temporaryDirectory.path + "/farshore-replication-" + UUID().uuidString : temporaryDirectory()
        try Directory.create(folder)
        id = .random()
        model = content
        sizeBytes = content.count
        try Data(content).write(to: URL(fileURLWithPath: folder + "/image"))
        site = SiteDirectory(path: folder + "/site")
        try site.create()
        store = WatchedStore(try target ?? DirectoryStore(root: folder + "/vault", create: true))
        let vault = try Vault.create(store: store, protection: key, memory: HeadMemory(folder: nil), settings: settings).vault
        let start = try Sequencer(path: site.sequencePath).next()
        try ChangeLog.create(
            LogFolder(folder + "/log"), diskID: id, diskBytes: UInt64(content.count), targets: [vault.id.description], segmentBytes: 1 << 20,
            budgetBytes: logBudgetBytes, startSequence: start)
        _ = try vault.register(disk: VaultID(id.description)!, name: Self.name, sizeBytes: UInt64(content.count))
        try Catalogue(site: site).add(ProtectedDisk(
            name: Self.name, id: id.description, imagePath: folder + "/image", format: "raw", sizeBytes: UInt64(content.count),
            logFolder: folder + "/log", logBudgetBytes: logBudgetBytes, vaultURL: vault.store.location,
            vaultID: vault.id.description, keyFile: nil, passphraseFile: nil))
        _ = try Catalogue(site: site).changePolicy(named: Policy.defaultName, PolicyChange(intervalSeconds: 1))
        opened = try Self.open(folder, site, bootID, catchingUpSeconds)
    }

    /// The same disk on another host: copies of image, log and site, and the same vault.
    init(copyOf other: ReplicatedDisk) throws {
        folder = other.folder + "-copy"
        try Directory.create(folder)
        for name in ["image", "log", "site"] { try FileManager.default.copyItem(atPath: other.folder + "/" + name, toPath: folder + "/" + name) }
        (id, model, points, sizeBytes, bootID) = (other.id, other.model, other.points, other.sizeBytes, other.bootID)
        (store, settings) = (other.store, other.settings)
        (logBudgetBytes, catchingUpSeconds) = (other.logBudgetBytes, other.catchingUpSeconds)
        site = SiteDirectory(path: folder + "/site")
        let catalogue = try Catalogue(site: site)
        let state = try catalogue.replication(ofDisk: Self.name)
        let entry = entry(vault: try openVault())
        try catalogue.remove(disk: Self.name)
        try catalogue.add(entry)
        try catalogue.setReplication(state, ofDisk: Self.name)
        opened = try Self.open(folder, site, bootID, catchingUpSeconds)
    }

    deinit {
        opened?.abandon()
        try? FileManager.default.removeItem(atPath: folder)
    }

    private static func open(_ folder: String, _ site: SiteDirectory, _ bootID: String, _ catchingUpSeconds: UInt64) throws -> VirtualDisk {
        let log = LogFolder(folder + "/log")
        let lock = try OwnerLock.acquire(log)
        _ = try VirtualDisk.completeGrowth(of: ImageLock.take(folder + "/image", for: .exclusive), format: .raw, folder: log, lock: lock)
        return try VirtualDisk.open(
            name: name, image: try openImage(folder + "/image", access: .readWrite, format: .raw), folder: log, lock: lock,
            sequencer: try Sequencer(path: site.sequencePath), options: ChangeLog.Options(bootID: bootID, catchingUpSeconds: catchingUpSeconds))
    }

    /// Drops the disk without a clean stop, and opens it again, in another boot if asked.
    func reopen(inAnotherBoot: Bool = false) throws {
        disk.abandon()
        if inAnotherBoot { bootID += "x" }
        // The old owner's lock goes with the old disk.
        opened = nil
        opened = try Self.open(folder, site, bootID, catchingUpSeconds)
    }

    /// Grows the disk as `farshore grow` does with one that is mounted: the worker's successor ends it.
    func grow(to bytes: Int) throws {
        try disk.beginGrowth(to: UInt64(bytes), format: .raw)
        try reopen()
        model += [UInt8](repeating: 0, count: bytes - sizeBytes)
        sizeBytes = bytes
    }

    func openVault() throws -> Vault { try Vault.open(store: store, key: key, memory: HeadMemory(folder: nil), settings: settings) }

    func replicator(
        stop: StopFlag = StopFlag(), site: SiteDirectory? = nil, key: KeySource? = nil, owner: (any DiskOwner)? = nil, host: String = "test",
        catalogAgeSecondsMax: UInt64 = ReplicationLimits.catalogAgeSecondsMax, clock: UploadClock = .system, history: HistoryWriter.Limits = HistoryWriter.Limits(), through target: (any ObjectStore)? = nil
    ) throws -> Replicator {
        try Replicator(
            catalogue: Catalogue(site: site ?? self.site), host: host, stop: stop, catalogAgeSecondsMax: catalogAgeSecondsMax, clock: clock, history: history,
            openVault: { [store, settings, own = self.key, remembered = (site ?? self.site).headsFolder] _ in
                try Vault.open(store: target ?? store, key: key ?? own, memory: HeadMemory(folder: remembered), settings: settings)
            },
            owner: { [self] _ in owner ?? TestOwner { self.disk } }, progress: { _, _, _ in })
    }

    static let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    /// How a catalogue names it when it is protected to `vault`.
    func entry(vault: Vault) -> ProtectedDisk {
        ProtectedDisk(
            name: Self.name, id: id.description, imagePath: folder + "/image", format: "raw", sizeBytes: UInt64(sizeBytes), logFolder: folder + "/log",
            logBudgetBytes: logBudgetBytes, vaultURL: vault.store.location, vaultID: vault.id.description, keyFile: nil, passphraseFile: nil)
    }

    /// One run of the uploader, as `upload --once` does it.
    @discardableResult
    func upload(key: KeySource? = nil, owner: (any DiskOwner)? = nil) throws -> AttemptFailure? {
        try UploadService(replicator: replicator(key: key, owner: owner), log: Self.quiet).runOnce().first?.failure
    }

    // MARK: Writing

    func write(_ bytes: [UInt8], at offset: Int) throws {
        try bytes.withUnsafeBytes { try disk.write($0, at: UInt64(offset), sequenceSlot: nil) }
        model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }

    func zero(at offset: Int, length: Int) throws {
        try disk.zero(at: UInt64(offset), length: UInt64(length), mayFree: true, sequenceSlot: nil)
        model.replaceSubrange(offset..<offset + length, with: repeatElement(0, count: length))
    }

    @discardableResult
    func cut(tag: String = "") throws -> UInt64 {
        let point = try VirtualDisk.cutPoint([disk], tag: tag)
        points[point] = model
        return point
    }

    /// Random writes, zeros and cuts.
    func scribble(_ count: Int, using random: inout some RandomNumberGenerator) throws {
        for _ in 0..<count {
            let length = Int.random(in: 1...60_000, using: &random)
            let offset = Int.random(in: 0..<(sizeBytes - length), using: &random)
            switch Int.random(in: 0..<10, using: &random) {
            case 0: try zero(at: offset, length: length)
            case 1: try cut(tag: Bool.random(using: &random) ? "t\(points.count)" : "")
            default: try write((0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }, at: offset)
            }
        }
        try cut()
    }

    // MARK: Reading back

    var proven: ReplicationState { get throws { try Catalogue(site: site).replication(ofDisk: Self.name) } }

    func history() throws -> DiskHistory? {
        let vault = try openVault()
        return try DiskHistory.newest(vault, try vault.disk(Self.name))
    }
}
