// Opening a vault: the right key, the wrong one, none, a kit; damage is told from a wrong key.

import Foundation
import ObjectStore
import Testing
import Vault
import VaultFixtures

@Suite struct KeyTests {
    private func open(_ test: TestVault, _ key: KeySource) throws -> Vault {
        try Vault.open(store: test.store, key: key, memory: HeadMemory(folder: nil), settings: TestVault.settings)
    }

    private func code(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "none"
        } catch let error as VaultError {
            switch error {
            case .wrongKey: return "wrongKey"
            case .damaged(let object, _): return "damaged \(object)"
            case .noVault: return "noVault"
            case .alreadyExists: return "alreadyExists"
            default: return "\(error)"
            }
        } catch {
            return "\(error)"
        }
    }

    /// Promise F7: The key never reaches the target, and a wrong key is an error of its own.
    @Test func noSecretIsInAnyObject() throws {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = try DirectoryStore(root: directory, create: true)
        let passphrase = "no object may hold these words"
        let (vault, kit) = try Vault.create(store: store, protection: .passphrase(Array(passphrase.utf8)), memory: HeadMemory(folder: nil))
        let disk = try ModelDisk(vault, sizeBytes: 3 << 20, seed: 2)
        try disk.replicateInitially()
        try disk.step(records: 20, checkpoint: true)
        var secrets = [Data(passphrase.utf8)]
        for line in kit.text.split(separator: "\n") where line.contains("-key") {
            let digits = String(line.split(separator: " ").last ?? "")
            guard let key = Hex.decode(digits), key.count == 32 else { continue }
            secrets += [Data(digits.utf8), Data(key)]
        }
        #expect(secrets.count == 5)
        for object in try store.listAll(prefix: "") {
            let content = Data(try store.get(object.key))
            for secret in secrets { #expect(content.range(of: secret) == nil, "\(object.key) holds a secret") }
        }
    }

    @Test func theWrongKeyIsTheWrongKey() throws {
        let test = try TestVault()
        #expect(code { _ = try open(test, .keyFile([UInt8](repeating: 8, count: 32))) } == "wrongKey")
        #expect(code { _ = try open(test, .passphrase(Array("x".utf8))) } == "wrongKey")
        #expect(code { _ = try open(test, .none) } == "wrongKey")
        let plain = try TestVault(encrypted: false)
        #expect(code { _ = try open(plain, test.key) } == "wrongKey")
    }

    @Test func aPassphraseAndAKitOpenTheVault() throws {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = try DirectoryStore(root: directory, create: true)
        let passphrase = KeySource.passphrase(Array("correct horse".utf8))
        let (vault, kit) = try Vault.create(store: store, protection: passphrase, memory: HeadMemory(folder: nil))
        _ = try vault.register(disk: .random(), name: "a", sizeBytes: 512)
        #expect(try Vault.open(store: store, key: passphrase, memory: HeadMemory(folder: nil)).catalog().document.disks.count == 1)
        let path = directory + "-kit"
        defer { try? FileManager.default.removeItem(atPath: path) }
        try kit.text.write(toFile: path, atomically: true, encoding: .utf8)
        let byKit = try Vault.open(store: store, key: .keyFile(path: path), memory: HeadMemory(folder: nil))
        #expect(try byKit.catalog().document.disks.count == 1)
        #expect(byKit.recoveryKit().text == kit.text)
        // A slip of the pen in a kit is found before anything is tried with it.
        let digit = try #require(kit.text.range(of: "id-key: ")?.upperBound)
        var text = kit.text
        text.replaceSubrange(digit...digit, with: text[digit] == "0" ? "1" : "0")
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        #expect(code { _ = try KeySource.keyFile(path: path) } == "wrongKey")
        #expect(code { _ = try Vault.create(store: store, protection: passphrase, memory: HeadMemory(folder: nil)) } == "alreadyExists")
    }

    @Test func aKeyFileThatDoesNotExistIsNamed() {
        let path = FileManager.default.temporaryDirectory.path + "/farshore-no-such-key"
        #expect(throws: VaultError.noKeyFile(path: path)) { _ = try KeySource.keyFile(path: path) }
    }

    @Test func keyFilesMayBeRawHexOrBase64() throws {
        let test = try TestVault()
        let path = test.directory + "-key"
        defer { try? FileManager.default.removeItem(atPath: path) }
        let key = Data(TestVault.keyBytes)
        for content in [key, Data((Hex.encode(key) + "\n").utf8), Data((key.base64EncodedString() + " \n").utf8)] {
            try content.write(to: URL(filePath: path))
            #expect(code { _ = try open(test, .keyFile(path: path)) } == "none")
        }
        try Data("too short".utf8).write(to: URL(filePath: path))
        #expect(code { _ = try KeySource.keyFile(path: path) } == "wrongKey")
    }

    @Test func everyFlippedBitOfTheOpeningObjectsIsDamageNotAWrongKey() throws {
        let test = try TestVault()
        for object in ["farshore.json", "keys/1"] {
            let bits = try Data(contentsOf: URL(filePath: test.file(object))).count * 8
            for bit in 0..<bits {
                try test.flipBit(object, at: bit)
                let found = code { _ = try open(test, test.key) }
                // A bit of the version number may turn it into one that is not known, which is said so.
                #expect(found == "damaged \(object)" || found.contains("which this version cannot read"), "bit \(bit) of \(object): \(found)")
                try test.flipBit(object, at: bit)
            }
        }
        #expect(code { _ = try open(test, test.key) } == "none")
    }

    private func words(_ body: () throws -> Void) -> String {
        do { try body() } catch { return "\(error)" }
        return ""
    }

    @Test func anEmptyPlaceIsNoVaultAndOneThatLostItsMarkIsTold() throws {
        let test = try TestVault()
        try FileManager.default.removeItem(atPath: test.file("farshore.json"))
        #expect(code { _ = try open(test, test.key) } == "noVault")
        #expect(words { _ = try open(test, test.key) }.hasSuffix("farshore.json is missing, but objects of a vault are there (catalog/00000000000000000001), so it was deleted"))
        for key in try test.keys() { try test.store.delete([key]) }
        #expect(words { _ = try open(test, test.key) }.hasSuffix(": nothing is there"))
        try test.store.put("photo", [1], ifAbsent: false)
        #expect(words { _ = try open(test, test.key) }.hasSuffix("what is there is of something else (photo)"))
    }

    /// Without its key objects an encrypted vault is no other than before: a kit opens it, and it does not pass as one without encryption.
    @Test func aVaultThatLostItsKeyObjectsIsStillEncrypted() throws {
        let test = try TestVault()
        let path = test.directory + "-kit"
        defer { try? FileManager.default.removeItem(atPath: path) }
        try test.kit.text.write(toFile: path, atomically: true, encoding: .utf8)
        try FileManager.default.removeItem(atPath: test.file("keys/1"))
        #expect { _ = try open(test, test.key) } throws: { ($0 as? VaultError)?.lacksKeys == true }
        let byKit = try open(test, .keyFile(path: path))
        #expect(byKit.isEncrypted)
        #expect { _ = try byKit.keyDescriptions() } throws: { ($0 as? VaultError)?.lacksKeys == true }
        #expect(try VaultCheck(vault: byKit, readData: false).run().findings.map(\.object) == ["keys/1"])
        #expect(try byKit.addKey(test.key, label: "again") == 1)
        #expect(try open(test, test.key).keyDescriptions().map(\.label) == ["again"])
    }

    /// A pipe would be empty the second time it is read, and one that nobody writes to would be waited for.
    @Test func aPipeIsRefusedByItsName() throws {
        let path = try temporaryDirectory() + "/pipe"
        defer { try? FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent) }
        #expect(mkfifo(path, 0o600) == 0)
        #expect(words { _ = try KeySource.passphraseFile(path: path) }.hasPrefix("\(path) is a pipe"))
        #expect(words { _ = try KeySource.keyFile(path: path) }.hasPrefix("\(path) is a pipe"))
        #expect(words { _ = try KeySource.keyFile(path: "/dev/null") }.hasPrefix("/dev/null is a pipe, terminal, directory or device"))
    }
}
