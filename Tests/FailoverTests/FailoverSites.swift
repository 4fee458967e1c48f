// A machine protected on one host and two hosts that may take it over, in a temporary directory with one vault. Recovery disks are registered
// with their sites, and no more than that: what is tested is the life cycle around them.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import Foundation
import Logging
import ObjectStore
import RecoveryPoints
import Replication
import Site
import Synchronization
import Vault
import VaultFixtures
import VirtualDisk

final class FailoverSites: @unchecked Sendable {
    // Sendable: used by the test's thread only, but for the disks, which are safe for many.
    static let unit = "shop"

    /// The recovery disks a host has, with the sequences they were made of.
    final class Host: Sendable {
        let host: FailoverHost
        let site: SiteDirectory
        let store: InterruptedStore
        let disks = Mutex<[String: UInt64]>([:])
        /// The action that fails from now on, as for a process that was killed in it.
        let dying = Mutex<String?>(nil)
        /// How many releases and removals are granted still; of what is not named, all.
        let left = Mutex<[String: Int]>([:])

        init(_ name: String, _ folder: String, _ store: any ObjectStore) throws {
            site = SiteDirectory(path: folder + "/" + name)
            try site.create()
            host = FailoverHost(id: VaultID(try site.hostID())!, name: name)
            self.store = InterruptedStore(store)
        }

        func act(_ name: String) throws {
            let isRefused = left.withLock { left in
                left[name] = left[name].map { $0 - 1 }
                return left[name] ?? 0 < 0
            }
            if isRefused || dying.withLock({ $0 == name }) { throw StoreError(.unreachable, "the process is gone in \(name)", try: "") }
        }

        /// All at once, or those that are there already, as `RecoveryDisks` does it.
        func make(_ points: [ChosenPoint], _ record: FailoverRecord) throws {
            let catalogue = try Catalogue(site: site)
            let there = try catalogue.disks().filter { own in points.contains { $0.disk.id.description == own.id } }
            let isSame = there.count == points.count && disks.withLock { disks in points.allSatisfy { disks[$0.disk.name] == $0.sequence } }
            guard there.isEmpty || isSame else { throw SiteError(.diskExists, "this site has the disk \(there[0].name) already", remedy: "") }
            guard there.isEmpty else { return }
            let made = points.map { point in
                let image = FailoverRecord.imagePath(ofDisk: point.disk.name, in: record.folder)
                return ProtectedDisk(
                    name: point.disk.name, id: point.disk.id.description, imagePath: image, format: "raw", sizeBytes: 1 << 20, logFolder: image + ".log", logBudgetBytes: 64 << 20,
                    vaultURL: record.vaultURL, vaultID: record.vaultID, keyFile: nil, passphraseFile: nil, machine: point.disk.machineName, role: .recovery)
            }
            try catalogue.add(made, machineIDs: [:], group: nil)
            for point in points { disks.withLock { $0[point.disk.name] = point.sequence } }
        }

        func remove(_ disk: FailoverRecord.Disk) throws {
            try Catalogue(site: site).remove(disk: disk.name)
            disks.withLock { $0[disk.name] = nil }
        }
    }

    struct Owner: DiskOwner {
        let disk: VirtualDisk

        func makeDurable() throws -> UInt64 { try disk.makeDurable() }
        func cut() throws { _ = try VirtualDisk.cutPoint([disk], tag: "") }
        func freeze() throws -> UInt64 { try disk.freeze() }
        func unfreeze() throws { try disk.unfreeze() }
    }

    let folder: String
    let store: any ObjectStore
    let source: Host, target: Host, third: Host
    private(set) var disks: [String: VirtualDisk] = [:]
    private let sequencer: Sequencer

    init(disks names: [String] = ["data", "log"]) throws {
        folder = try temporaryDirectory()
        store = try DirectoryStore(root: folder + "/vault", create: true)
        source = try Host("source", folder, store)
        target = try Host("target", folder, store)
        third = try Host("third", folder, store)
        sequencer = try Sequencer(path: source.site.sequencePath)
        let vault = try Vault.create(store: store, protection: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        for name in names {
            let (id, log, image) = (LogID.random(), LogFolder(folder + "/" + name + ".log"), folder + "/" + name)
            try Data(count: 1 << 20).write(to: URL(fileURLWithPath: image))
            try ChangeLog.create(
                log, diskID: id, diskBytes: 1 << 20, targets: [vault.id.description], segmentBytes: 1 << 20, budgetBytes: 64 << 20, startSequence: try sequencer.next())
            _ = try vault.register(disk: VaultID(id.description)!, name: name, sizeBytes: 1 << 20, machine: Self.unit)
            try Catalogue(site: source.site).add(ProtectedDisk(
                name: name, id: id.description, imagePath: image, format: "raw", sizeBytes: 1 << 20, logFolder: log.path, logBudgetBytes: 64 << 20,
                vaultURL: vault.store.location, vaultID: vault.id.description, keyFile: nil, passphraseFile: nil, machine: Self.unit))
            disks[name] = try VirtualDisk.open(
                name: name, image: try openImage(image, access: .readWrite, format: .raw), folder: log, lock: try OwnerLock.acquire(log), sequencer: sequencer,
                options: ChangeLog.Options(bootID: "boot"))
        }
        try write(1)
        try upload()
    }

    deinit {
        for disk in disks.values { disk.abandon() }
        try? FileManager.default.removeItem(atPath: folder)
    }

    func open(_ store: any ObjectStore) throws -> Vault { try Self.open(store) }

    private static func open(_ store: any ObjectStore) throws -> Vault { try Vault.open(store: store, key: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings) }

    /// One write and a point on all disks.
    func write(_ value: UInt8) throws {
        for disk in disks.values { try [UInt8](repeating: value, count: 4096).withUnsafeBytes { try disk.write($0, at: 0, sequenceSlot: nil) } }
        _ = try VirtualDisk.cutPoint(Array(disks.values), tag: "")
    }

    var service: UploadService {
        get throws {
            UploadService(
                replicator: Replicator(
                    catalogue: try Catalogue(site: source.site), host: source.host.name, stop: StopFlag(), openVault: { [source] _ in try Self.open(source.store) },
                    // Not the fixture itself: its disks are let go when it goes.
                    owner: { [disks] disk in Owner(disk: disks[disk.name]!) }, progress: { _, _, _ in }),
                log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        }
    }

    /// As a new process of the uploader does it; what failed.
    @discardableResult
    func upload() throws -> [AttemptFailure] { try service.runOnce().map(\.failure) }

    func heads(_ host: Host) throws -> LifeCycleHeads {
        let own = Set(try Catalogue(site: host.site).disks().filter { $0.role == .source }.map(\.id))
        return LifeCycleHeads(vault: try open(host.store), host: host.host) { own.contains($0.description) }
    }

    func failovers(_ host: Host) throws -> Failovers {
        Failovers(heads: try heads(host), catalogue: try Catalogue(site: host.site), actions: FailoverActions(
            make: { points, record in
                try host.act("make")
                try host.make(points, record)
                try host.act("made")
                return points.map(\.disk.name)
            },
            remove: { disk, _ in
                try host.act("remove")
                try host.remove(disk)
            },
            serve: { disk in
                try host.act("serve")
                return "/mnt/\(disk)"
            }, release: { _ in try host.act("release") }))
    }

    @discardableResult
    func run(_ host: Host, planned: Bool = false, at point: String? = nil, source: String? = nil, start: String? = nil, folder: String? = nil) throws -> FailoverReport {
        try failovers(host).run(FailoverRequest(
            unit: Self.unit, point: point.map { PointName($0)! }, isPlanned: planned, vaultURL: store.location, keyFile: nil, passphraseFile: nil,
            folder: folder ?? host.site.path + "/recovery", sourceCommand: source, startCommand: start, commandSeconds: 5))
    }

    /// `sending` runs while it waits for the vault.
    @discardableResult
    func prepare(stop: String? = nil, sending: @escaping @Sendable () throws -> Void = {}) throws -> LifeCycleStanding {
        try failovers(source).prepare(
            Self.unit, stopCommand: stop, commandSeconds: 5, waitSeconds: 0,
            PreparationActions(
                cutLast: { [self] _ in
                    let last = try VirtualDisk.cutPoint(Array(disks.values), tag: "")
                    for disk in disks.values { _ = try disk.makeDurable() }
                    return last
                },
                send: { [self] in
                    try sending()
                    try upload()
                }))
    }

    func standing() throws -> LifeCycleStanding { try LifeCycleHeads(vault: try open(store), host: source.host, protects: { _ in true }).standing(of: Self.unit) }

    /// The newest sequence that the vault has of each disk.
    func newest() throws -> Set<UInt64> { Set(try standing().head.disks.map(\.newestSequence)) }
}
