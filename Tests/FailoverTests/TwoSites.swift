// A disk at its home and its replica on another site, in a temporary directory with one vault, and a model of what guests see. The replica is
// a plain image with a log that goes on from the point, as a recovery disk is once it stands alone.

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
import Testing
import Vault
import VaultFixtures
import VirtualDisk

final class TwoSites: @unchecked Sendable {
    // Sendable: used by the test's thread only, but for stores.
    static let name = "db"

    final class Side: @unchecked Sendable {
        // Sendable: as above.
        let site: SiteDirectory
        let host: FailoverHost
        let store: InterruptedStore
        var disk: VirtualDisk?
        var releases = 0

        init(_ name: String, _ folder: String, _ store: any ObjectStore) throws {
            site = SiteDirectory(path: folder + "/" + name)
            try site.create()
            host = FailoverHost(id: VaultID(try site.hostID())!, name: name)
            self.store = InterruptedStore(store)
        }

        var entry: ProtectedDisk { get throws { try Catalogue(site: site).disk(named: TwoSites.name) } }

        /// As the mount opens it.
        func open() throws {
            let entry = try entry
            let folder = LogFolder(entry.logFolder)
            disk = try VirtualDisk.open(
                name: entry.name, image: try openImage(entry.imagePath, access: .readWrite, format: try entry.imageFormat()), folder: folder,
                lock: try OwnerLock.acquire(folder), sequencer: try Sequencer(path: site.sequencePath), options: ChangeLog.Options(bootID: try Clock.bootID()))
        }

        func close() throws {
            try disk?.close()
            disk = nil
        }
    }

    struct Owner: DiskOwner {
        let side: Side

        private func withDisk<Value>(_ work: (VirtualDisk) throws -> Value) throws -> Value {
            if let disk = side.disk { return try work(disk) }
            try side.open()
            let value = try work(side.disk!)
            try side.close()
            return value
        }

        func makeDurable() throws -> UInt64 { try withDisk { try $0.makeDurable() } }
        func cut() throws { _ = try withDisk { try VirtualDisk.cutPoint([$0], tag: "") } }
        func freeze() throws -> UInt64 { try withDisk { try $0.freeze() } }
        func unfreeze() throws { try withDisk { try $0.unfreeze() } }
    }

    let folder: String
    let store: CountingStore
    let home: Side, away: Side
    /// What guests see where they write now.
    var model: [UInt8]
    var numbers: SeededNumbers

    init(seed: UInt64, format: OutputFormat = .raw) throws {
        folder = try temporaryDirectory()
        store = CountingStore(try DirectoryStore(root: folder + "/vault", create: true))
        home = try Side("home", folder, store)
        away = try Side("away", folder, store)
        numbers = SeededNumbers(seed: seed)
        model = numbers.bytes(3 << 20)
        let vault = try Vault.create(store: store, protection: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        let (id, image) = (LogID.random(), folder + "/home.image")
        let output = try OutputImage.begin(image, format: format, sizeBytes: UInt64(model.count), uniqueID: [UInt8](repeating: 1, count: 16), timeStamp: 0)
        try model.withUnsafeBytes { try output.image.write($0, at: 0) }
        try output.finish(replacing: false)
        try ChangeLog.create(
            LogFolder(image + ".log"), diskID: id, diskBytes: UInt64(model.count), targets: [vault.id.description], segmentBytes: 1 << 20, budgetBytes: 64 << 20,
            startSequence: try Sequencer(path: home.site.sequencePath).next())
        _ = try vault.register(disk: VaultID(id.description)!, name: Self.name, sizeBytes: UInt64(model.count))
        try Catalogue(site: home.site).add(entry(image, id.description, vault, format.rawValue))
        try home.open()
        try write(home)
        try upload(home)
    }

    deinit {
        for side in [home, away] { side.disk?.abandon() }
        try? FileManager.default.removeItem(atPath: folder)
    }

    private func entry(_ image: String, _ id: String, _ vault: Vault, _ format: String, role: ProtectedDisk.Role = .source) -> ProtectedDisk {
        ProtectedDisk(
            name: Self.name, id: id, imagePath: image, format: format, sizeBytes: UInt64(model.count), logFolder: image + ".log", logBudgetBytes: 64 << 20,
            vaultURL: vault.store.location, vaultID: vault.id.description, keyFile: nil, passphraseFile: nil, role: role)
    }

    func vault(_ store: (any ObjectStore)? = nil) throws -> Vault { try Vault.open(store: store ?? self.store, key: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings) }

    /// Random writes and discards, then a point.
    func write(_ side: Side, changes: Bool = true) throws {
        for _ in 0..<8 {
            let start = Int.random(in: 0..<model.count - 70_000, using: &numbers) / 4096 * 4096
            let count = Int.random(in: 1...60_000, using: &numbers)
            let bytes = Bool.random(using: &numbers) ? numbers.bytes(count) : [UInt8](repeating: 0, count: count / 4096 * 4096 + 4096)
            if bytes.allSatisfy({ $0 == 0 }) {
                try side.disk?.zero(at: UInt64(start), length: UInt64(bytes.count), mayFree: true, sequenceSlot: nil)
            } else {
                try bytes.withUnsafeBytes { try side.disk?.write($0, at: UInt64(start), sequenceSlot: nil) }
            }
            if changes { model.replaceSubrange(start..<start + bytes.count, with: bytes) }
        }
        _ = try VirtualDisk.cutPoint([#require(side.disk)], tag: "")
    }

    @discardableResult
    func upload(_ side: Side) throws -> [AttemptFailure] {
        try UploadService(
            replicator: Replicator(
                catalogue: try Catalogue(site: side.site), host: side.host.name, stop: StopFlag(), openVault: { [self] _ in try vault() }, owner: { _ in Owner(side: side) },
                progress: { _, _, _ in }),
            log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        ).runOnce().map(\.failure)
    }

    func heads(_ side: Side) throws -> LifeCycleHeads {
        let own = Set(try Catalogue(site: side.site).disks().map(\.id))
        return LifeCycleHeads(vault: try vault(side.store), host: side.host) { own.contains($0.description) }
    }

    func failovers(_ side: Side) throws -> Failovers {
        Failovers(heads: try heads(side), catalogue: try Catalogue(site: side.site), actions: FailoverActions(
            make: { [self] points, _ in
                for point in points { try makeReplica(point) }
                return points.map(\.disk.name)
            },
            remove: { _, _ in }, serve: { _ in nil }, release: { _ in try side.close() }))
    }

    func failbacks(_ side: Side, isOver: @escaping @Sendable () -> Bool = { false }) throws -> Failbacks {
        Failbacks(
            heads: try heads(side), catalogue: try Catalogue(site: side.site),
            actions: .init(release: { _ in try side.close() }, serve: { _ in false }, refuseForeignUse: { _ in }),
            ImageRefresh.Surroundings(fetchedBytes: { [store] in UInt64(store.counts.bytesReceived) }, isOver: isOver, progress: { _ in }))
    }

    private func makeReplica(_ point: ChosenPoint) throws {
        let vault = try vault()
        let head = try #require(try vault.heads(group: point.disk.group).newest()).document
        let state = try #require(head.state(of: point.disk.id))
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let reader = try PointReader(sources, disk: point.disk.id, plan: try DiskHistory(vault: vault, state: state).plan(at: point.sequence))
        try model.withUnsafeMutableBytes { try reader.read(into: $0, at: 0) }
        let image = FailoverRecord.imagePath(ofDisk: Self.name, in: folder + "/recovery")
        try Directory.create(folder + "/recovery")
        try Data(model).write(to: URL(fileURLWithPath: image))
        let known = state.lineages.map { LogState.Lineage(id: LogID(high: $0.id.high, low: $0.id.low), branchSequence: $0.branchSequence ?? 0) }
        try ChangeLog.create(
            LogFolder(image + ".log"), diskID: LogID(hex: point.disk.id.description)!, diskBytes: UInt64(model.count), targets: [vault.id.description], segmentBytes: 1 << 20,
            budgetBytes: 64 << 20, startSequence: point.sequence, lineages: known + [LogState.Lineage(id: .random(), branchSequence: point.sequence)])
        try Sequencer(path: away.site.sequencePath).raise(above: state.lineages.map(\.sequence).max()!)
        try Catalogue(site: away.site).add(entry(image, point.disk.id.description, vault, "raw", role: .recovery))
    }

    /// Guests go over to the other site, for good, and are replicated from there.
    func failOver(planned: Bool, at point: PointName = .latest) throws {
        if planned { try prepare(home) }
        _ = try failovers(away).run(FailoverRequest(
            unit: Self.name, point: point, isPlanned: planned, vaultURL: store.location, keyFile: nil, passphraseFile: nil,
            folder: folder + "/recovery", sourceCommand: nil, startCommand: nil, commandSeconds: 5))
        _ = try failovers(away).commit(Self.name, keepsPoints: true)
        _ = try failbacks(away).reprotect(Self.name)
        try away.open()
    }

    func prepare(_ side: Side) throws {
        _ = try failovers(side).prepare(
            Self.name, stopCommand: nil, commandSeconds: 5, waitSeconds: 5,
            PreparationActions(
                cutLast: { _ in
                    try side.open()
                    defer { try? side.close() }
                    let last = try VirtualDisk.cutPoint([side.disk!], tag: "")
                    _ = try side.disk!.makeDurable()
                    return last
                },
                send: { [self] in try upload(side) }))
    }

    /// What the image of the side holds, read without its log.
    func image(_ side: Side) throws -> [UInt8] {
        let image = try openImage(try side.entry.imagePath, access: .readOnly, format: try side.entry.imageFormat())
        var bytes = [UInt8](repeating: 0xEE, count: Int(image.sizeBytes))
        try bytes.withUnsafeMutableBytes { try image.read(into: $0, at: 0) }
        return bytes
    }

    /// What the vault's newest state holds.
    func newest() throws -> [UInt8] {
        let vault = try vault()
        let history = try #require(try DiskHistory.newest(vault, try vault.disk(Self.name)))
        return try content(at: history.newestSequence)
    }

    func content(at sequence: UInt64) throws -> [UInt8] {
        let vault = try vault()
        let disk = try vault.disk(Self.name)
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let reader = try PointReader(sources, disk: disk.id, plan: try #require(try DiskHistory.newest(vault, disk)).plan(at: sequence))
        var bytes = [UInt8](repeating: 0xEE, count: Int(reader.sizeBytes))
        try bytes.withUnsafeMutableBytes { try reader.read(into: $0, at: 0) }
        return bytes
    }
}
