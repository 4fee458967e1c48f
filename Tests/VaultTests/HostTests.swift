// Hosts of a vault: registration keys that are good once and for a while, contacts, and what a collection removes of both.

import Foundation
import ObjectStore
import Testing
import Vault
import VaultFixtures

@Suite struct HostTests {
    private let first = VaultID(high: 1, low: 1)
    private let second = VaultID(high: 2, low: 2)

    private func message(_ body: () throws -> Void) -> String {
        do { try body() } catch { return "\(error)" }
        return "nothing was refused"
    }

    private func contact(_ vault: Vault, _ host: VaultID) -> HostContact {
        HostContact(vault: vault.id, host: host, name: "h", role: .target, version: "1", everySeconds: 300, lagSeconds: nil)
    }

    @Test func aRegistrationKeyOpensTheVaultForOneHost() throws {
        let test = try TestVault()
        let line = try test.vault.makeRegistration(url: "file:///v", days: 5).text()
        let registration = try Registration("  \(line)\n")
        #expect(registration.url == "file:///v" && registration.vault == test.vault.id)
        for _ in 0..<2 {
            // Again, as after a kill.
            let kit = try Vault.join(registration, store: test.store, host: first)
            let opened = try Vault.open(store: test.store, key: .kit(kit), memory: HeadMemory(folder: nil), settings: TestVault.settings)
            #expect(try opened.catalog().document == test.vault.catalog().document)
        }
        #expect(message { _ = try Vault.join(registration, store: test.store, host: second) }.contains("was used by the host \(first)"))
        // What lies in the vault is not the secret, and each line has its own.
        let object = try test.store.get("hosts/keys/\(registration.id)", range: nil)
        #expect(!String(decoding: object, as: UTF8.self).contains(line.suffix(40)))
        #expect(try test.vault.makeRegistration(url: "file:///v", days: 5).text() != line)
    }

    @Test func anUnencryptedVaultIsJoinedWithoutAKey() throws {
        let test = try TestVault(encrypted: false)
        #expect(try !Vault.isEncrypted(test.store))
        #expect(try !Vault.join(test.vault.makeRegistration(url: "file:///v", days: 1), store: test.store, host: first).isEncrypted)
    }

    @Test func whatIsNotGoodIsRefused() throws {
        let test = try TestVault()
        let other = try TestVault()
        let good = try test.vault.makeRegistration(url: "file:///v", days: 1)
        #expect(message { _ = try Vault.join(good, store: other.store, host: first) }.contains("is for the vault \(test.vault.id)"))
        let expired = try test.vault.makeRegistration(url: "file:///v", days: 0)
        #expect(message { _ = try Vault.join(expired, store: test.store, host: first) }.contains("by this host's clock"))
        #expect(message { _ = try Vault.join(good, store: try DirectoryStore(root: test.directory + "/empty", create: true), host: first) }.contains("no vault"))
        let line = try good.text()
        for text in ["", "nothing", String(line.dropLast(3)), line + "xxxx"] {
            let said = message { _ = try Registration(text) }
            #expect(said.contains("registration key") && !said.contains(line.suffix(30)), "\(said)")
        }
        // The secret of one with the object of another.
        let key = "hosts/keys/\(good.id)"
        let sound = try test.store.get(key, range: nil)
        for bit in [300, sound.count * 8 - 300] {
            try test.flipBit(key, at: bit)
            #expect(throws: VaultError.self) { try Vault.join(good, store: test.store, host: first) }
            try test.flipBit(key, at: bit)
        }
        try test.store.delete([key])
        #expect(message { _ = try Vault.join(good, store: test.store, host: first) }.contains("does not know the registration key"))
        // Nothing of all that used one up.
        #expect(try !test.keys().contains { $0.hasSuffix(".used") })
    }

    @Test func aCollectionRemovesWhatIsUsedExpiredOrOffTheList() throws {
        let test = try TestVault()
        let (used, fresh, expired) = (try test.vault.makeRegistration(url: "u", days: 1), try test.vault.makeRegistration(url: "u", days: 1), try test.vault.makeRegistration(url: "u", days: 0))
        _ = try Vault.join(used, store: test.store, host: first)
        for host in [first, second] {
            try test.vault.list(host: host, name: "h", role: .target)
            let chain = HostContactChain(test.vault, of: host)
            for _ in 0..<3 { try chain.put(contact(test.vault, host)) }
        }
        try test.vault.unlist(host: second)
        _ = try Collector(vault: try test.reopened()).run()
        let left = try test.keys().filter { $0.hasPrefix("hosts/") }
        #expect(left.filter { $0.hasPrefix("hosts/keys/") } == ["hosts/keys/\(fresh.id)"])
        #expect(left.filter { $0.hasPrefix("hosts/\(first)/") }.count == 3 && !left.contains { $0.hasPrefix("hosts/\(second)/") })
        #expect(message { _ = try Vault.join(expired, store: test.store, host: first) }.contains("does not know"))
        _ = try Vault.join(fresh, store: test.store, host: second)
        // One that comes back goes on.
        try HostContactChain(try test.reopened(), of: second).put(contact(test.vault, second))
        #expect(try HostContactChain(test.vault, of: second).newest()?.number == 1)
    }

    @Test func contactsAreNumberedAndOldOnesGo() throws {
        let store = MemoryStore()
        let vault = try Vault.create(store: store, protection: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        try vault.list(host: first, name: "h", role: .source)
        let (chain, watcher) = (HostContactChain(vault, of: first), HostContactChain(vault, of: first))
        #expect(try watcher.newest() == nil)
        for number in 1...3_000 { try chain.put(contact(vault, first)); if number % 500 == 1 { #expect(try watcher.newest()?.number == UInt64(number)) } }
        store.resetRequests()
        try chain.put(contact(vault, first))
        #expect(store.requests.puts == 1 && store.requests.all == 2)
        #expect(try watcher.newest()?.number == 3_001)
        store.resetRequests()
        #expect(try watcher.newest()?.number == 3_001)
        #expect(store.requests.all == 1, "nothing new costs one request")
        _ = try Collector(vault: vault).run()
        let left = store.keys.filter { $0.hasPrefix("hosts/\(first)/") }.count
        #expect(left <= 2_048, "\(left) contacts stay")
        #expect(try HostContactChain(vault, of: first).newest()?.number == 3_001)
        try chain.put(contact(vault, first))
        #expect(try watcher.newest()?.number == 3_002)
    }

    /// A program that begins anew has not seen its own contacts: a damaged one must not keep the host silent.
    @Test(arguments: [1, 3]) func aDamagedContactIsReplaced(_ count: Int) throws {
        let test = try TestVault()
        for _ in 0..<count { try HostContactChain(test.vault, of: first).put(contact(test.vault, first)) }
        try test.flipBit("hosts/\(first)/" + #require(try test.keys().last { $0.hasPrefix("hosts/\(first)/") }?.split(separator: "/").last), at: 900)
        #expect(throws: VaultError.self) { try HostContactChain(test.vault, of: first).newest() }
        let program = HostContactChain(test.vault, of: first)
        for number in count...count + 1 {
            try program.put(contact(test.vault, first))
            #expect(try HostContactChain(test.vault, of: first).newest()?.number == UInt64(number))
        }
    }

    @Test func twoProcessesOfAHostTakeTurns() throws {
        let test = try TestVault()
        let chains = (0..<2).map { _ in HostContactChain(test.vault, of: first) }
        for _ in 0..<5 { for chain in chains { try chain.put(contact(test.vault, first)) } }
        #expect(try HostContactChain(test.vault, of: first).newest()?.number ?? 0 >= 5)
    }
}
