// Rotation: new objects by the new key, old ones still readable, nobody left out by an interruption.

import BlockIO
import Foundation
import ObjectStore
import Synchronization
import Testing
import Vault
import VaultFixtures

@Suite struct KeyRotationTests {
    private let newKey = KeySource.keyFile([UInt8](repeating: 9, count: 32))

    private func open(_ test: TestVault, _ key: KeySource, keyFiles: KeyFiles? = nil) throws -> Vault {
        try Vault.open(store: test.store, key: key, memory: HeadMemory(folder: nil), settings: TestVault.settings, keyFiles: keyFiles)
    }

    /// The key generation in the header of a stored object.
    private func generation(_ test: TestVault, _ key: String) throws -> UInt32 {
        let bytes = try test.store.get(key)
        return (0..<4).reduce(0) { $0 | UInt32(bytes[12 + $1]) << UInt32(8 * $1) }
    }

    private func meddledVault() throws -> (TestVault, MeddledStore) {
        let meddled = Mutex<MeddledStore?>(nil)
        let test = try TestVault { store in
            let made = MeddledStore(store)
            meddled.withLock { $0 = made }
            return made
        }
        return (test, try #require(meddled.withLock { $0 }))
    }

    private func isWrongKey(_ body: () throws -> Void) -> Bool {
        do { try body() } catch VaultError.wrongKey { return true } catch VaultError.unknownKey { return true } catch { return false }
        return false
    }

    /// Promise F11: After a key rotation who has read the catalog since seals with the new key, a running uploader within the hour; the older
    /// points stay readable, and a key that was not renewed is refused as a wrong key, never taken for damage.
    @Test func olderPointsStayReadableAndNewObjectsHaveTheNewKey() throws {
        let test = try TestVault()
        let key = test.key
        // As an uploader has it open whose key file is replaced while it runs.
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let file = URL(filePath: directory + "/key")
        try Data(TestVault.keyBytes).write(to: file)
        let running = try open(test, key, keyFiles: KeyFiles(keyFile: file.path, passphraseFile: nil))
        let reader = try open(test, key)
        let disk = try ModelDisk(running, sizeBytes: 5 << 20, seed: 31)
        try disk.replicateInitially()
        for _ in 0..<3 { try disk.step(records: 10) }
        let before = Set(try test.keys()), middle = disk.sequence
        _ = try reader.catalog()
        let kit = try test.vault.rotateKeys(to: newKey, label: "second").kit
        let newGeneration = try test.vault.catalog().document.keyGeneration
        try Data([UInt8](repeating: 9, count: 32)).write(to: file)
        _ = try running.catalog()
        for step in 0..<3 { try disk.step(records: 10, checkpoint: step == 1) }

        let added = try test.keys().filter { !before.contains($0) && !$0.hasPrefix("keys/") }
        #expect(added.contains { $0.contains("/segments/") } && added.contains { $0.hasPrefix("maps/") } && added.contains { $0.hasPrefix("catalog/") })
        for object in added { #expect(try generation(test, object) == newGeneration, "\(object)") }
        for vault in [try open(test, newKey), try open(test, .kit(kit)), running] {
            for sequence in [disk.points[0].sequence, middle, disk.sequence] {
                #expect(try readState(vault, disk: disk.id, at: sequence) == disk.content(at: sequence))
            }
            #expect(try VaultCheck(vault: vault, readData: true).run().isClean)
        }
        #expect(isWrongKey { _ = try reader.heads(group: disk.id).newest() }, "a reader of before must not call new heads damaged")
        #expect(isWrongKey { _ = try open(test, key).catalog() })
        #expect(isWrongKey { _ = try open(test, .kit(test.kit)).catalog() })
        #expect(isWrongKey { _ = try VaultCheck(vault: try open(test, key), readData: true).run() })
    }

    @Test func anInterruptedRotationChangesNothingAndIsRepeated() throws {
        let (test, store) = try meddledVault()
        let disk = try ModelDisk(test.vault, sizeBytes: 1 << 20, seed: 5)
        try disk.replicateInitially()
        store.meddle { $0.drops = { $0.hasPrefix("catalog/") } }
        #expect(throws: VaultError.self) { try test.vault.rotateKeys(to: .keyFile([UInt8](repeating: 1, count: 32)), label: "cut off") }
        store.meddle { $0.drops = { _ in false } }
        // Who opens the vault meanwhile, with either key, seals by the generation that the catalog names.
        let other = try open(test, .keyFile([UInt8](repeating: 1, count: 32)))
        _ = try other.register(disk: .random(), name: "other", sizeBytes: 512)
        #expect(try generation(test, try #require(test.keys().last { $0.hasPrefix("catalog/") })) == 1)
        // Another key than the first time: the two must not take the same generation for their own data key.
        let (number, _) = try open(test, test.key).rotateKeys(to: newKey, label: "second")
        #expect(number == 3)
        #expect(try test.reopened().keyDescriptions().map(\.label) == ["first", "cut off", "second"])
        #expect(try open(test, newKey).catalog().document.keyGeneration == 66)
        #expect(isWrongKey { _ = try open(test, .keyFile([UInt8](repeating: 1, count: 32))).catalog() })
    }

    /// The number of a key removed is free again: two tries of one rotation may take it and another one.
    @Test func aRotationRepeatedAfterARemovalOpens() throws {
        let (test, store) = try meddledVault()
        let second = KeySource.keyFile([UInt8](repeating: 2, count: 32))
        _ = try test.vault.rotateKeys(to: second, label: "second")
        try open(test, second).removeKey(1, keeping: second)
        store.meddle { $0.drops = { $0.hasPrefix("catalog/") } }
        #expect(throws: VaultError.self) { try open(test, second).rotateKeys(to: newKey, label: "cut off") }
        store.meddle { $0.drops = { _ in false } }
        #expect(try open(test, second).rotateKeys(to: newKey, label: "third").number == 3)
        #expect(try open(test, newKey).catalog().document.number == 3)
    }

    /// Readers take nine absent numbers for the end.
    @Test func noKeyIsRemovedThatHidesTheOneThatStays() throws {
        let test = try TestVault()
        for number in 2...10 { #expect(try test.vault.addKey(.keyFile([UInt8](repeating: UInt8(number), count: 32)), label: "") == number) }
        for number in 1...8 { try test.vault.removeKey(number, keeping: .keyFile([UInt8](repeating: 10, count: 32))) }
        #expect(throws: VaultError.self) { try test.vault.removeKey(9, keeping: .keyFile([UInt8](repeating: 10, count: 32))) }
        #expect(try open(test, .keyFile([UInt8](repeating: 10, count: 32))).catalog().document.number == 1)
    }

    @Test func keysAreAddedAndRemoved() throws {
        let test = try TestVault()
        let passphrase = KeySource.passphrase(Array("a second one".utf8))
        #expect(try test.vault.addKey(passphrase, label: "ops") == 2)
        #expect(try open(test, passphrase).catalog().document.number == 1)
        // The last key that opens everything stays.
        try test.vault.removeKey(1, keeping: passphrase)
        #expect(throws: VaultError.self) { try open(test, passphrase).removeKey(2, keeping: passphrase) }
        #expect(throws: VaultError.self) { try open(test, passphrase).removeKey(7, keeping: passphrase) }
        #expect(isWrongKey { _ = try test.reopened() })
        #expect(try open(test, passphrase).addKey(newKey, label: "file") == 1)
        #expect(try open(test, newKey).catalog().document.number == 1)
        let plain = try TestVault(encrypted: false)
        #expect(throws: VaultError.self) { try plain.vault.addKey(newKey, label: "") }
    }

    @Test func whichKeysOpenWhatIsWrittenNowIsListed() throws {
        let test = try TestVault()
        let passphrase = KeySource.passphrase(Array("ops".utf8))
        _ = try test.vault.addKey(passphrase, label: "ops")
        #expect(try test.reopened().keyDescriptions().map(\.opensNewData) == [true, true])
        _ = try test.vault.rotateKeys(to: newKey, label: "second")
        #expect(try open(test, newKey).keyDescriptions().map(\.opensNewData) == [false, false, true])
        // The old key does not tell.
        #expect(try test.reopened().keyDescriptions().map(\.opensNewData) == [nil, nil, nil])
        // The number of a key that was removed is taken by one that opens everything.
        try open(test, newKey).removeKey(1, keeping: newKey)
        _ = try open(test, newKey).addKey(passphrase, label: "ops again")
        let listed = try open(test, passphrase).keyDescriptions()
        #expect(listed.map(\.label) == ["ops again", "ops", "second"] && listed.map(\.opensNewData) == [true, false, true])
    }

    /// A header that names a generation the vault never had is damage, not a wrong key.
    @Test func aFlippedGenerationIsDamage() throws {
        let test = try TestVault()
        let disk = try ModelDisk(test.vault, sizeBytes: 1 << 20, seed: 6)
        try disk.replicateInitially()
        let chunk = try #require(test.keys().first { $0.hasPrefix("chunks/") })
        try test.flipBit(chunk, at: 8 * 12 + 3)
        let report = try VaultCheck(vault: try test.reopened(), readData: true).run()
        #expect(report.findings.map(\.object) == [chunk])
    }
}
