// Header and frame table of a sealed object: docs/formats/vault.md section 4, field by field.

import BlockIO

package struct ObjectHeader: Equatable, Sendable {
    static let byteCount = 64
    private static let magic = Array("FARSHORE".utf8)
    private static let compressedBit: UInt32 = 1 << 31

    package let kind: ObjectKind
    package let cipher: VaultCipher
    package let keyGeneration: UInt32
    let salt: [UInt8]
    package let plaintextBytes: Int
    package let frameBytes: Int

    package var frameCount: Int { Self.frameCount(plaintextBytes: plaintextBytes, frameBytes: frameBytes) }
    package var tableEnd: Int { Self.byteCount + 4 * frameCount }

    static func frameCount(plaintextBytes: Int, frameBytes: Int) -> Int {
        max(1, (plaintextBytes + frameBytes - 1) / frameBytes)
    }

    /// Bytes of plaintext in frame `index`.
    package func plaintextBytes(ofFrame index: Int) -> Int { min(frameBytes, plaintextBytes - index * frameBytes) }

    func encoded() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.byteCount)
        bytes.withUnsafeMutableBytes { buffer in
            buffer.copyBytes(from: Self.magic)
            buffer.putLE(UInt16(FormatLimits.formatVersion), at: 8)
            buffer.putLE(kind.rawValue, at: 10)
            buffer.putLE(cipher.rawValue, at: 11)
            buffer.putLE(keyGeneration, at: 12)
            UnsafeMutableRawBufferPointer(rebasing: buffer[16..<48]).copyBytes(from: salt)
            buffer.putLE(UInt64(plaintextBytes), at: 48)
            buffer.putLE(UInt32(frameBytes), at: 56)
            buffer.putLE(UInt32(frameCount), at: 60)
        }
        return bytes
    }

    init(kind: ObjectKind, cipher: VaultCipher, keyGeneration: UInt32, salt: [UInt8], plaintextBytes: Int) {
        self.kind = kind
        self.cipher = cipher
        self.keyGeneration = keyGeneration
        self.salt = salt
        self.plaintextBytes = plaintextBytes
        frameBytes = FormatLimits.frameBytes
    }

    /// Reads the header of the object `key`; `bytes` holds at least its 64 bytes or is refused.
    init(_ bytes: UnsafeRawBufferPointer, key: String, expected: ObjectKind, vaultCipher: VaultCipher) throws(VaultError) {
        func damaged(_ reason: String) -> VaultError { .damaged(object: key, reason: reason) }
        guard bytes.count >= Self.byteCount else { throw damaged("it has only \(bytes.count) bytes, less than a header") }
        guard bytes[..<8].elementsEqual(Self.magic) else { throw damaged("it does not start with FARSHORE") }
        let version = bytes.getLE(UInt16.self, at: 8)
        guard version == FormatLimits.formatVersion else { throw .unsupportedVersion(object: key, found: "format version \(version)") }
        guard let kind = ObjectKind(rawValue: bytes[10]), kind == expected else {
            throw damaged("its kind is \(bytes[10]), \(expected.rawValue) belongs here")
        }
        guard bytes[11] == vaultCipher.rawValue else {
            throw damaged("its cipher is \(bytes[11]), this vault's is \(vaultCipher.rawValue)")
        }
        let generation = bytes.getLE(UInt32.self, at: 12)
        guard (generation == 0) == (vaultCipher == .none) else { throw damaged("key generation \(generation) does not fit the cipher") }
        let salt = Array(bytes[16..<48])
        guard vaultCipher == .aes256GCM || salt.allSatisfy({ $0 == 0 }) else { throw damaged("its salt is not zero") }
        let plaintext = bytes.getLE(UInt64.self, at: 48)
        guard plaintext <= UInt64(kind.plaintextBytesMax) else { throw damaged("it claims \(plaintext) bytes of content, the limit is \(kind.plaintextBytesMax)") }
        let frame = Int(bytes.getLE(UInt32.self, at: 56))
        guard frame >= FormatLimits.frameBytesMin, frame <= FormatLimits.frameBytes, frame.nonzeroBitCount == 1 else {
            throw damaged("its frame size is \(frame)")
        }
        let count = Int(bytes.getLE(UInt32.self, at: 60))
        guard count == Self.frameCount(plaintextBytes: Int(plaintext), frameBytes: frame) else { throw damaged("its frame count is \(count)") }
        self.kind = kind
        self.cipher = vaultCipher
        keyGeneration = generation
        self.salt = salt
        plaintextBytes = Int(plaintext)
        frameBytes = frame
    }

    /// Where the frames of an object lie.
    package struct FrameTable: Sendable {
        /// `offsets[i]` is where frame i starts in the object; one more entry gives the object's end.
        package let offsets: [Int]
        let compressed: [Bool]

        package var objectBytes: Int { offsets[offsets.count - 1] }
    }

    static func tableEntry(storedBytes: Int, compressed: Bool) -> UInt32 { UInt32(storedBytes) | (compressed ? compressedBit : 0) }

    /// Reads the table out of `bytes`, which starts with the header and reaches `tableEnd`.
    func table(_ bytes: UnsafeRawBufferPointer, key: String) throws(VaultError) -> FrameTable {
        guard bytes.count >= tableEnd else { throw .damaged(object: key, reason: "it has only \(bytes.count) bytes, less than its frame table") }
        var offsets = [tableEnd]
        var compressed: [Bool] = []
        offsets.reserveCapacity(frameCount + 1)
        for index in 0..<frameCount {
            let entry = bytes.getLE(UInt32.self, at: Self.byteCount + 4 * index)
            let stored = Int(entry & ~Self.compressedBit)
            let isCompressed = entry & Self.compressedBit != 0
            let body = stored - cipher.tagBytes
            let plain = plaintextBytes(ofFrame: index)
            guard isCompressed ? (body > 0 && body < plain) : body == plain else {
                throw .damaged(object: key, reason: "frame \(index) of \(plain) bytes claims \(stored) stored bytes")
            }
            offsets.append(offsets[index] + stored)
            compressed.append(isCompressed)
        }
        return FrameTable(offsets: offsets, compressed: compressed)
    }
}
