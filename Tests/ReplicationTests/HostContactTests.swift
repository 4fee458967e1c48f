// Hosts that keep contact with a vault and watch each other, on a simulated clock.

import BlockIO
import ChangeLog
import Foundation
import Logging
import ObjectStore
import Replication
import Site
import Synchronization
import Testing
import Vault
import VaultFixtures
import VirtualDisk

private final class World: Sendable {
    let memory = MemoryStore()
    let clock = Mutex<UInt64>(1)
    let vault: Vault
    let folder: String

    init() throws {
        folder = try temporaryDirectory()
        vault = try Vault.create(store: memory, protection: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func pass(seconds: Int) { clock.withLock { $0 += UInt64(seconds) * 1_000_000_000 } }
}

/// One host: its site, which joined the vault, and its rounds.
private struct Host {
    let catalogue: Catalogue
    let store: InterruptedStore
    private let contacts: HostContacts
    private var round: HostContacts.Round

    init(_ name: String, _ world: World, everySeconds: Int = ContactSettings.everySecondsDefault) throws {
        catalogue = try Catalogue(site: SiteDirectory(path: world.folder + "/" + name))
        try catalogue.join(VaultPlace(id: world.vault.id.description, url: "memory://", keyFile: nil, passphraseFile: nil))
        let store = InterruptedStore(world.memory)
        self.store = store
        var settings = ContactSettings()
        settings.everySeconds = everySeconds
        contacts = HostContacts(
            catalogue: catalogue, name: name, version: "9.9", settings: settings, clock: UploadClock(now: { world.clock.withLock { $0 } }, sleep: { _, _ in }),
            log: ReplicatedDisk.quiet
        ) { _ in try Vault.open(store: store, key: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings) }
        round = HostContacts.Round(contacts)
    }

    mutating func take() { round.take() }
    mutating func restart() { round = HostContacts.Round(contacts) }

    func events() throws -> [String] { try catalogue.events(limit: 100).map(\.text) }
}

@Suite struct HostContactTests {
    @Test func aSilentHostIsOneEventOnTheOtherSideAndItsReturnAnother() throws {
        let world = try World()
        var (a, b) = (try Host("a", world), try Host("b", world))
        a.take()
        b.take()
        #expect(try world.vault.catalog().document.hosts?.map(\.name).sorted() == ["a", "b"])
        let id = try #require(VaultID(try a.catalogue.site.hostID()))
        let contact = try #require(try HostContactChain(world.vault, of: id).newest())
        #expect(contact.name == "a" && contact.version == "9.9" && contact.role == .target && contact.everySeconds == 300)
        // Both are there for an hour, then a is killed. It is seen when b looks.
        for _ in 0..<360 {
            world.pass(seconds: 10)
            a.take()
            b.take()
        }
        #expect(try a.events().isEmpty && b.events().isEmpty)
        for _ in 0..<180 {
            world.pass(seconds: 10)
            b.take()
        }
        let silent = try b.events()
        #expect(silent.count == 1 && silent[0].contains("the host a is silent"))
        #expect(try b.catalogue.silentHosts().map(\.name) == ["a"])
        // b's uploader starts anew: it knows. One contact is not enough to be back.
        b.restart()
        a.restart()
        a.take()
        for _ in 0..<60 {
            world.pass(seconds: 10)
            b.take()
        }
        #expect(try b.events() == silent)
        world.pass(seconds: 300)
        a.take()
        b.take()
        #expect(try b.events().last?.contains("in contact again") == true && b.catalogue.silentHosts().isEmpty)
    }

    @Test func whoCannotReachTheVaultCallsNobodySilent() throws {
        let world = try World()
        var (a, b) = (try Host("a", world), try Host("b", world))
        a.take()
        b.take()
        b.store.interrupt(at: 1, .dies)
        for _ in 0..<100 {
            world.pass(seconds: 60)
            a.take()
            b.take()
        }
        b.store.interrupt(at: .max, .dies)
        for _ in 0..<20 {
            world.pass(seconds: 60)
            a.take()
            b.take()
        }
        #expect(try b.events().isEmpty)
        // And b was silent to a meanwhile.
        #expect(try a.events().count == 2)
    }

    @Test func aHostThatWasTakenOffIsNotMissedAndComesBackByItself() throws {
        let world = try World()
        var (a, b) = (try Host("a", world), try Host("b", world))
        a.take()
        b.take()
        world.pass(seconds: 1_300)
        b.take()
        #expect(try b.catalogue.silentHosts().map(\.name) == ["a"])
        try world.vault.unlist(host: try #require(VaultID(try a.catalogue.site.hostID())))
        for _ in 0..<20 {
            world.pass(seconds: 300)
            b.take()
        }
        #expect(try b.catalogue.silentHosts().isEmpty && b.events().count == 1)
        world.pass(seconds: 3_600)
        a.take()
        #expect(try world.vault.catalog().document.hosts?.count == 2)
    }

    /// What the log has let go of cannot be counted: the host must not look as if its vault had everything.
    @Test func aDiskThatWaitsForItsResynchronisationIsBehindForOtherHostsToo() throws {
        let disk = try ReplicatedDisk(content: sampleContent())
        #expect(try disk.upload() == nil)
        let catalogue = try Catalogue(site: disk.site)
        let vault = try disk.openVault()
        try markResynchronisation(disk.entry(vault: vault), LogFolder(disk.folder + "/log"), catalogue, reason: "test")
        try disk.write([1, 2, 3], at: 4_096)
        try disk.disk.mergeAll()
        var state = try disk.proven
        state.provenAtNanoseconds = try #require(state.provenAtNanoseconds) - 1_000_000_000_000
        try catalogue.setReplication(state, ofDisk: ReplicatedDisk.name)
        let contacts = HostContacts(catalogue: catalogue, name: "a", version: "9.9", settings: ContactSettings(), log: ReplicatedDisk.quiet) { _ in vault }
        var round = HostContacts.Round(contacts)
        round.take()
        let own = try #require(VaultID(try disk.site.hostID()))
        let contact = try #require(try HostContactChain(vault, of: own).newest())
        #expect(try #require(contact.lagSeconds) >= 1_000)
    }

    @Test func aDayOfTwoIdleHostsCostsLittle() throws {
        let world = try World()
        var (a, b) = (try Host("a", world), try Host("b", world))
        // A client that never saw a host's contacts asks LIST once.
        for _ in 0..<2 {
            a.take()
            b.take()
            world.pass(seconds: 3_600)
        }
        world.memory.resetRequests()
        for _ in 0..<1_440 {
            world.pass(seconds: 60)
            a.take()
            b.take()
        }
        let requests = world.memory.requests
        #expect(requests.lists == 0 && requests.deletes == 0)
        #expect(requests.puts <= 2 * 289, "\(requests)")
        #expect(requests.all <= 2 * 289 * 12, "\(requests)")
        #expect(try a.events().isEmpty && b.events().isEmpty)
    }
}
