// A host that takes disks over from a vault: a site of its own, recovery disks made there, opened, written, and replicated on.

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
import Testing
import Vault
import VaultFixtures
import VirtualDisk

final class RecoveredSite: @unchecked Sendable {
    // Sendable: `opened` is changed by the test's thread only, while nothing replicates.
    static let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    final class Opened {
        let disk: VirtualDisk
        let image: any ImageFile
        let hydration: Hydration?
        private let lock: ImageLock

        init(_ disk: VirtualDisk, _ image: any ImageFile, _ hydration: Hydration?, _ lock: consuming ImageLock) {
            self.disk = disk
            self.image = image
            self.hydration = hydration
            self.lock = lock
        }
    }

    let folder: String
    let test: TestVault
    let catalogue: Catalogue
    let vaults: RecoveryVaults
    private(set) var opened: [String: Opened] = [:]

    init(_ test: TestVault) throws {
        self.test = test
        folder = try temporaryDirectory()
        catalogue = try Catalogue(site: SiteDirectory(path: folder + "/site"))
        // The points of a model are seconds after 1970.
        _ = try catalogue.changePolicy(named: Policy.defaultName, PolicyChange(retention: .everything))
        vaults = RecoveryVaults(openVault: { [store = test.store, key = test.key] _ in
            try Vault.open(store: store, key: key, memory: HeadMemory(folder: nil), settings: TestVault.settings)
        }) { _ in }
    }

    deinit {
        for disk in opened.values { disk.hydration?.stop(); disk.disk.abandon() }
        vaults.close()
        try? FileManager.default.removeItem(atPath: folder)
    }

    var plan: RecoveryDisks.Plan {
        RecoveryDisks.Plan(folder: folder + "/disks", role: .recovery, vaultURL: test.store.location, keyFile: nil, passphraseFile: nil)
    }

    func disks() throws -> RecoveryDisks { RecoveryDisks(catalogue: catalogue, vault: try test.reopened()) }

    @discardableResult
    func create(_ names: [String], at sequence: UInt64, _ plan: RecoveryDisks.Plan? = nil) throws -> [ProtectedDisk] {
        let vault = try test.reopened()
        return try disks().create(ChosenPoint.resolve(.sequence(sequence), on: try names.map { try vault.disk($0) }, in: vault), plan ?? self.plan)
    }

    /// As the mount's worker opens it.
    @discardableResult
    func open(_ name: String, fills: Bool = false) throws -> VirtualDisk {
        let disk = try catalogue.disk(named: name)
        let folder = LogFolder(disk.logFolder)
        let lock = try ImageLock.take(disk.imagePath, for: .exclusive)
        let image = try vaults.openImage(of: disk, locked: lock, parentLocks: ParentLocks())
        let opened = try VirtualDisk.open(
            name: name, image: image, folder: folder, lock: try OwnerLock.acquire(folder), sequencer: try Sequencer(path: catalogue.site.sequencePath),
            options: ChangeLog.Options(bootID: "boot"))
        let hydration = try fills ? (image as? RecoveryImage).map { try Hydration($0, Hydration.Plan(basePath: folder.baseFile, presencePath: folder.presenceFile)) } : nil
        self.opened[name] = Opened(opened, image, hydration, lock)
        return opened
    }

    func close(_ name: String) throws {
        let removed = opened.removeValue(forKey: name)
        let disk = try #require(removed)
        disk.hydration?.stop()
        try disk.disk.close()
    }

    /// As a kill leaves it.
    func kill(_ name: String) throws {
        let removed = opened.removeValue(forKey: name)
        let disk = try #require(removed)
        disk.hydration?.stop()
        disk.disk.abandon()
    }

    private struct Owner: DiskOwner {
        let disk: VirtualDisk
        func makeDurable() throws -> UInt64 { try disk.makeDurable() }
        func cut() throws { _ = try VirtualDisk.cutPoint([disk], tag: "") }
        func freeze() throws -> UInt64 { try disk.freeze() }
        func unfreeze() throws { try disk.unfreeze() }
    }

    /// One run of the uploader.
    func upload(host: String = "other") throws -> [(disk: String, vault: String, failure: AttemptFailure)] {
        let replicator = Replicator(
            catalogue: catalogue, host: host, stop: StopFlag(), openVault: { [self] _ in try test.reopened() },
            owner: { [self] disk in Owner(disk: try #require(opened[disk.name]).disk) }, progress: { _, _, _ in })
        return try UploadService(replicator: replicator, log: Self.quiet).runOnce()
    }
}

extension VirtualDisk {
    func bytes(_ offset: Int, _ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        var failure: SystemError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(SystemError) { try read(into: buffer, at: UInt64(offset)) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    func put(_ bytes: [UInt8], at offset: Int) throws {
        var failure: SystemError?
        bytes.withUnsafeBytes { buffer in
            do throws(SystemError) { try write(buffer, at: UInt64(offset), sequenceSlot: nil) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

extension TestVault {
    /// The disk's content at a sequence, as a reader of the vault sees it.
    func content(_ name: String, at sequence: UInt64) throws -> [UInt8] {
        let vault = try reopened()
        let disk = try vault.disk(name)
        let history = try #require(try DiskHistory.newest(vault, disk))
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        let reader = try PointReader(sources, disk: disk.id, plan: try history.plan(at: sequence))
        var bytes = [UInt8](repeating: 0xEE, count: Int(reader.sizeBytes))
        var failure: VaultError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(VaultError) { try reader.read(into: buffer, at: 0) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }
}
