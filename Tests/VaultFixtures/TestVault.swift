// A vault in a temporary directory, with a disk whose true content is known at every sequence.

import BlockIO
import Foundation
package import ObjectStore
package import Vault

/// In memory where that is to be had: these vaults are many small files, each synced.
package func temporaryDirectory() throws -> String {
    let parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"
    var template = Array("\(parent)/farshore-vault-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw SystemError(errno: errno, operation: "make a directory", path: parent) }
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// Seeded, so that a failing run can be repeated.
package struct SeededNumbers: RandomNumberGenerator {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    package mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8.random(in: 0...255, using: &self) } }
}

package final class TestVault {
    package let directory: String
    package let store: any ObjectStore
    package let vault: Vault
    package let key: KeySource
    package let kit: RecoveryKit
    package static let keyBytes = [UInt8](repeating: 7, count: 32)

    package init(encrypted: Bool = true, wrap: (any ObjectStore) -> any ObjectStore = { $0 }) throws {
        directory = try temporaryDirectory()
        store = wrap(try DirectoryStore(root: directory, create: true))
        key = encrypted ? .keyFile(Self.keyBytes) : .none
        (vault, kit) = try Vault.create(store: store, protection: key, memory: HeadMemory(folder: nil), settings: Self.settings)
    }

    package static var settings: VaultSettings {
        var settings = VaultSettings()
        settings.settleMilliseconds = 1
        return settings
    }

    deinit { try? FileManager.default.removeItem(atPath: directory) }

    package func reopened() throws -> Vault {
        try Vault.open(store: store, key: key, memory: HeadMemory(folder: nil), settings: Self.settings)
    }

    /// Keys of all objects in the vault, by the files.
    package func keys() throws -> [String] { try store.listAll(prefix: "").map(\.key).sorted() }

    package func file(_ key: String) -> String { directory + "/" + key }

    package func flipBit(_ key: String, at bit: Int) throws {
        var bytes = [UInt8](try Data(contentsOf: URL(filePath: file(key))))
        bytes[bit / 8] ^= 1 << UInt8(bit % 8)
        try Data(bytes).write(to: URL(filePath: file(key)))
    }
}
