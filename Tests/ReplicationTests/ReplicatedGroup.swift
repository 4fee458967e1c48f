// Several protected disks of one site in a temporary directory, and a model of what each must hold at every point.

import BlockIO
import ChangeLog
import DiskImage
import Foundation
import Logging
import ObjectStore
import Replication
import Site
import Vault
import VirtualDisk

final class ReplicatedGroup: @unchecked Sendable {
    // Sendable: used by the test's thread only, but for the disks, which are safe for many.
    static let diskBytes = 1 << 20

    let folder: String
    let site: SiteDirectory
    let store: WatchedStore
    let key = KeySource.keyFile([UInt8](repeating: 7, count: 32))
    let names: [String]
    private let sequencer: Sequencer
    private(set) var disks: [String: VirtualDisk] = [:]
    private(set) var models: [String: [UInt8]] = [:]
    /// What each disk that was cut held at each point.
    private(set) var points: [UInt64: [String: [UInt8]]] = [:]

    /// Each disk a machine of its own, none in a group.
    init(_ names: [String], logBudgetBytes: UInt64 = 256 << 20, catchingUpSeconds: UInt64 = 30) throws {
        self.names = names
        folder = FileManager.default.temporaryDirectory.path + "/farshore-group-" + UUID().uuidString
        try Directory.create(folder)
        site = SiteDirectory(path: folder + "/site")
        try site.create()
        sequencer = try Sequencer(path: site.sequencePath)
        store = WatchedStore(try DirectoryStore(root: folder + "/vault", create: true))
        let vault = try Vault.create(store: store, protection: key, memory: HeadMemory(folder: nil)).vault
        for name in names { try protect(name, vault, logBudgetBytes, catchingUpSeconds) }
    }

    private func protect(_ name: String, _ vault: Vault, _ logBudgetBytes: UInt64, _ catchingUpSeconds: UInt64) throws {
        let (id, log, image) = (LogID.random(), LogFolder(folder + "/" + name + ".log"), folder + "/" + name)
        let content = [UInt8](repeating: UInt8(models.count + 1), count: Self.diskBytes)
        try Data(content).write(to: URL(fileURLWithPath: image))
        try ChangeLog.create(
            log, diskID: id, diskBytes: UInt64(content.count), targets: [vault.id.description], segmentBytes: 1 << 20, budgetBytes: logBudgetBytes,
            startSequence: try sequencer.next())
        _ = try vault.register(disk: VaultID(id.description)!, name: name, sizeBytes: UInt64(content.count))
        try Catalogue(site: site).add(ProtectedDisk(
            name: name, id: id.description, imagePath: image, format: "raw", sizeBytes: UInt64(content.count), logFolder: log.path,
            logBudgetBytes: logBudgetBytes, vaultURL: vault.store.location, vaultID: vault.id.description, keyFile: nil, passphraseFile: nil))
        models[name] = content
        disks[name] = try VirtualDisk.open(
            name: name, image: try openImage(image, access: .readWrite, format: .raw), folder: log, lock: try OwnerLock.acquire(log),
            sequencer: sequencer, options: ChangeLog.Options(bootID: "boot", catchingUpSeconds: catchingUpSeconds))
    }

    deinit {
        for disk in disks.values { disk.abandon() }
        try? FileManager.default.removeItem(atPath: folder)
    }

    var catalogue: Catalogue { get throws { try Catalogue(site: site) } }

    func openVault() throws -> Vault { try Vault.open(store: store, key: key, memory: HeadMemory(folder: nil)) }

    func replicator(host: String = "test") throws -> Replicator {
        try Replicator(
            catalogue: catalogue, host: host, stop: StopFlag(),
            openVault: { [store, key] _ in try Vault.open(store: store, key: key, memory: HeadMemory(folder: nil)) },
            owner: { [self] disk in
                guard let opened = disks[disk.name] else { throw SiteError(.diskNotFound, "no \(disk.name)", remedy: "") }
                return TestOwner { opened }
            }, progress: { _, _, _ in })
    }

    /// As a new process of the uploader does it.
    @discardableResult
    func upload(host: String = "test") throws -> [(disk: String, vault: String, failure: AttemptFailure)] {
        try UploadService(replicator: replicator(host: host), log: ReplicatedDisk.quiet).runOnce()
    }

    func write(_ disk: String, _ value: UInt8, at offset: Int = 0) throws {
        let bytes = [UInt8](repeating: value, count: 4096)
        try bytes.withUnsafeBytes { try disks[disk]!.write($0, at: UInt64(offset), sequenceSlot: nil) }
        models[disk]!.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }

    /// One point over the disks named, or all.
    @discardableResult
    func cut(_ names: [String]? = nil, tag: String = "", isAppConsistent: Bool = false) throws -> UInt64 {
        let chosen = names ?? self.names
        let point = try VirtualDisk.cutPoint(chosen.map { disks[$0]! }, tag: tag) { _ in isAppConsistent }
        points[point] = Dictionary(uniqueKeysWithValues: chosen.map { ($0, models[$0]!) })
        return point
    }

    // MARK: Reading back

    func shared(_ disk: String) throws -> SharedPoints {
        let vault = try openVault()
        return try SharedPoints(vault, of: try vault.disk(disk))
    }

    /// Numbers of the points that the vault lists for the disk, and the disks that it says share them.
    func listed(_ disk: String) throws -> [UInt64: [String]] {
        let shared = try shared(disk)
        let id = try openVault().disk(disk).id
        return Dictionary(uniqueKeysWithValues: try shared.points(of: id).map { ($0.point.sequence, $0.disks.map(\.name)) })
    }

    func history(_ disk: String) throws -> DiskHistory? {
        let vault = try openVault()
        return try DiskHistory.newest(vault, try vault.disk(disk))
    }

    /// Whether every point that the vault lists of any disk holds there what the model says.
    func mismatches() throws -> [String] {
        var wrong: [String] = []
        for disk in names {
            guard let history = try history(disk) else { continue }
            for point in try history.points() {
                guard let expected = points[point.sequence]?[disk] else { continue }
                if try vaultContent(history, at: point.sequence) != expected { wrong.append("#\(point.sequence) of \(disk)") }
            }
        }
        return wrong
    }
}
