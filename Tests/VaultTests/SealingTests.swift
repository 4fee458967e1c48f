// Sealed objects, against values computed by Python's standard library and `cryptography`, and against every kind of damage.

import Foundation
import ObjectStore
import Testing
import Vault
import VaultFixtures

@Suite struct SealingTests {
    private func seal(_ plaintext: [UInt8], _ place: ObjectPlace, _ keys: VaultKeys) throws -> [UInt8] {
        try plaintext.withUnsafeBytes { try SealedObject.seal($0, place: place, keys: keys, generation: 1) }
    }

    private func chunkPlace(_ test: TestVault, _ bytes: [UInt8]) -> ObjectPlace {
        bytes.withUnsafeBytes { .chunk(test.vault.chunkRef(of: $0, epoch: 1)) }
    }

    @Test(arguments: [0, 1, 4095, 65_535, 65_536, 65_537, 300_000, 1 << 20], [true, false])
    func whatIsSealedOpens(count: Int, encrypted: Bool) throws {
        let test = try TestVault(encrypted: encrypted)
        var numbers = SeededNumbers(seed: UInt64(count))
        let plaintext = (0..<count).map { $0 / 65_536 % 2 == 0 ? UInt8(truncatingIfNeeded: $0 / 100) : UInt8.random(in: 0...255, using: &numbers) }
        let place = chunkPlace(test, plaintext)
        let sealed = try seal(plaintext, place, test.vault.keys)
        #expect(try SealedObject.open(sealed, place: place, keys: test.vault.keys) == plaintext)
        if count == 1 << 20 { #expect(sealed.count < count) }
    }

    @Test(arguments: [true, false]) func everyFlippedBitIsFound(encrypted: Bool) throws {
        let test = try TestVault(encrypted: encrypted)
        // Two frames, one of them compressed.
        var numbers = SeededNumbers(seed: 1)
        let plaintext = [UInt8](repeating: 9, count: 65_536) + numbers.bytes(40)
        let place = chunkPlace(test, plaintext)
        let sealed = try seal(plaintext, place, test.vault.keys)
        for bit in 0..<sealed.count * 8 {
            var bent = sealed
            bent[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(throws: VaultError.self, "bit \(bit) of \(sealed.count) bytes") { try SealedObject.open(bent, place: place, keys: test.vault.keys) }
        }
    }

    @Test(arguments: [true, false]) func everyTruncationAndExtensionIsFound(encrypted: Bool) throws {
        let test = try TestVault(encrypted: encrypted)
        let plaintext = (0..<70_000).map { UInt8(truncatingIfNeeded: $0 &* $0) }
        let place = chunkPlace(test, plaintext)
        let sealed = try seal(plaintext, place, test.vault.keys)
        for count in [0, 1, 63, 64, 71, 72, 100, sealed.count - 1] {
            #expect(throws: VaultError.self) { try SealedObject.open(Array(sealed[..<count]), place: place, keys: test.vault.keys) }
        }
        #expect(throws: VaultError.self) { try SealedObject.open(sealed + [0], place: place, keys: test.vault.keys) }
    }

    @Test(arguments: [true, false]) func anotherPlaceIsRefused(encrypted: Bool) throws {
        let test = try TestVault(encrypted: encrypted)
        let (disk, other, lineage) = (VaultID.random(), VaultID.random(), VaultID.random())
        let place = ObjectPlace.segment(disk: disk, lineage: lineage, first: 1, last: 9)
        let sealed = try seal([1, 2, 3], place, test.vault.keys)
        #expect(try SealedObject.open(sealed, place: place, keys: test.vault.keys) == [1, 2, 3])
        let wrong: [ObjectPlace] = [
            .segment(disk: other, lineage: lineage, first: 1, last: 9), .segment(disk: disk, lineage: other, first: 1, last: 9),
            .segment(disk: disk, lineage: lineage, first: 2, last: 9), .segment(disk: disk, lineage: lineage, first: 1, last: 8),
            .manifest(disk: disk, lineage: lineage, sequence: 9),
        ]
        for place in wrong { #expect(throws: VaultError.self) { try SealedObject.open(sealed, place: place, keys: test.vault.keys) } }
        // The same place in another vault.
        let second = try TestVault(encrypted: encrypted)
        #expect(throws: VaultError.self) { try SealedObject.open(sealed, place: place, keys: second.vault.keys) }
    }

    /// Headers that claim what cannot be are refused before anything is allocated for them.
    @Test func hostileHeadersAreRefused() throws {
        let test = try TestVault(encrypted: false)
        let plaintext = [UInt8](repeating: 1, count: 100)
        let place = chunkPlace(test, plaintext)
        let sealed = try seal(plaintext, place, test.vault.keys)
        let lies: [(Int, [UInt8])] = [
            (8, [2, 0]), (10, [6]), (10, [99]), (11, [1]), (11, [7]), (12, [1, 0, 0, 0]), (16, [1]),
            (48, [255, 255, 255, 255, 255, 255, 255, 255]), (48, [1, 0, 16, 0, 0, 0, 0, 0]), (56, [0, 0, 0, 0]), (56, [1, 0, 0, 0]), (56, [0, 0, 2, 0]),
            (60, [255, 255, 255, 255]), (60, [0, 0, 0, 0]), (64, [255, 255, 255, 127]), (64, [255, 255, 255, 255]), (64, [0, 0, 0, 0]), (64, [32, 0, 0, 128]),
        ]
        for (offset, bytes) in lies {
            var bent = sealed
            bent.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            #expect(throws: VaultError.self, "offset \(offset), \(bytes)") { try SealedObject.open(bent, place: place, keys: test.vault.keys) }
        }
        var newer = sealed
        newer[8] = 2
        #expect(throws: VaultError.unsupportedVersion(object: place.key, found: "format version 2")) {
            try SealedObject.open(newer, place: place, keys: test.vault.keys)
        }
    }
}
