// Sealing and opening whole objects or single frames of them (docs/formats/vault.md section 4).
// Nothing is handed out before its tag was verified.

import BlockIO

/// Header and table of an object: all that is needed to fetch and open single frames of it.
package struct SealedObject: Sendable {
    package let place: ObjectPlace
    package let header: ObjectHeader
    package let table: ObjectHeader.FrameTable
    private let associated: [UInt8]
    private let objectKey: [UInt8]

    /// `start` reaches at least to the end of the frame table.
    package init(_ start: UnsafeRawBufferPointer, place: ObjectPlace, keys: VaultKeys) throws(VaultError) {
        self.place = place
        header = try ObjectHeader(start, key: place.key, expected: place.kind, vaultCipher: keys.cipher)
        table = try header.table(start, key: place.key)
        associated = keys.associatedData(start[..<header.tableEnd], place: place)
        objectKey = try keys.objectKey(header, object: place.key)
    }

    /// Opens the frames `range`, whose stored bytes are exactly `stored`, into `output`, which has their exact length.
    package func open(_ range: Range<Int>, stored: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) throws(VaultError) {
        let base = table.offsets[range.lowerBound]
        guard stored.count == table.offsets[range.upperBound] - base else {
            throw .damaged(object: place.key, reason: "\(stored.count) bytes came where frames \(range.lowerBound)..<\(range.upperBound) should be")
        }
        let cipher = FrameCipher(header.cipher, key: objectKey, associated: associated, sealing: false)
        var scratch = [UInt8](repeating: 0, count: table.compressed[range].contains(true) ? header.frameBytes : 0)
        var position = 0
        for index in range {
            let part = UnsafeRawBufferPointer(rebasing: stored[(table.offsets[index] - base)..<(table.offsets[index + 1] - base)])
            let plain = header.plaintextBytes(ofFrame: index)
            let target = UnsafeMutableRawBufferPointer(rebasing: output[position..<position + plain])
            let opened = table.compressed[index] ? Self.expand(part, cipher, index, header.cipher, &scratch, target) : cipher.open(part, frame: UInt32(index), into: target)
            guard opened else { throw .damaged(object: place.key, reason: "frame \(index) is not what was sealed at this place") }
            position += plain
        }
    }

    private static func expand(
        _ stored: UnsafeRawBufferPointer, _ cipher: borrowing FrameCipher, _ index: Int, _ kind: VaultCipher, _ scratch: inout [UInt8],
        _ target: UnsafeMutableRawBufferPointer
    ) -> Bool {
        scratch.withUnsafeMutableBytes { buffer in
            guard cipher.open(stored, frame: UInt32(index), into: buffer) else { return false }
            return Compression.decompress(UnsafeRawBufferPointer(rebasing: buffer[..<(stored.count - kind.tagBytes)]), into: target)
        }
    }

    /// Opens a whole object.
    package static func open(_ bytes: [UInt8], place: ObjectPlace, keys: VaultKeys) throws(VaultError) -> [UInt8] {
        try openWhole(bytes, place: place, keys: keys).plaintext
    }

    package static func openWhole(_ bytes: [UInt8], place: ObjectPlace, keys: VaultKeys) throws(VaultError) -> (object: SealedObject, plaintext: [UInt8]) {
        let object = try bytes.withBytes { buffer throws(VaultError) in try SealedObject(buffer, place: place, keys: keys) }
        guard object.table.objectBytes == bytes.count else {
            throw .damaged(object: place.key, reason: "it has \(bytes.count) bytes, its table says \(object.table.objectBytes)")
        }
        var plaintext = [UInt8](repeating: 0, count: object.header.plaintextBytes)
        try plaintext.withMutableBytes { output throws(VaultError) in
            try bytes.withBytes { buffer throws(VaultError) in
                let stored = UnsafeRawBufferPointer(rebasing: buffer[object.header.tableEnd...])
                try object.open(0..<object.header.frameCount, stored: stored, into: output)
            }
        }
        return (object, plaintext)
    }

    /// Seals `plaintext` for `place` with the newest generation of `keys`, or the one given.
    package static func seal(_ plaintext: UnsafeRawBufferPointer, place: ObjectPlace, keys: VaultKeys, generation: UInt32) throws(VaultError) -> [UInt8] {
        guard plaintext.count <= place.kind.plaintextBytesMax else {
            throw .refused("\(place.key) would hold \(plaintext.count) bytes, the limit is \(place.kind.plaintextBytesMax)")
        }
        let encrypted = keys.cipher == .aes256GCM
        let header = ObjectHeader(
            kind: place.kind, cipher: keys.cipher, keyGeneration: encrypted ? generation : 0,
            salt: encrypted ? Randomness.bytes(32) : [UInt8](repeating: 0, count: 32), plaintextBytes: plaintext.count)
        let key = try keys.objectKey(header, object: place.key)
        return assemble(plaintext, header, place, keys, key)
    }

    private static func assemble(_ plaintext: UnsafeRawBufferPointer, _ header: ObjectHeader, _ place: ObjectPlace, _ keys: VaultKeys, _ key: [UInt8]) -> [UInt8] {
        var output = [UInt8](repeating: 0, count: header.tableEnd + plaintext.count + header.frameCount * header.cipher.tagBytes)
        output.withUnsafeMutableBytes { $0.copyBytes(from: header.encoded()) }
        var bodies = [UInt8](repeating: 0, count: plaintext.count)
        let lengths = compressFrames(plaintext, header, &bodies, &output)
        var end = header.tableEnd
        let cipher = FrameCipher(header.cipher, key: key, associated: keys.associatedData(output[..<header.tableEnd], place: place), sealing: true)
        output.withUnsafeMutableBytes { target in
            bodies.withUnsafeBytes { source in
                for (index, length) in lengths.enumerated() {
                    let start = index * header.frameBytes
                    let stored = length + header.cipher.tagBytes
                    cipher.seal(
                        UnsafeRawBufferPointer(rebasing: source[start..<start + length]), frame: UInt32(index),
                        into: UnsafeMutableRawBufferPointer(rebasing: target[end..<end + stored]))
                    end += stored
                }
            }
        }
        output.removeLast(output.count - end)
        return output
    }

    /// Puts each frame's body at its frame's place in `bodies` and the table into `output`; returns the bodies' lengths.
    private static func compressFrames(_ plaintext: UnsafeRawBufferPointer, _ header: ObjectHeader, _ bodies: inout [UInt8], _ output: inout [UInt8]) -> [Int] {
        var lengths: [Int] = []
        bodies.withUnsafeMutableBytes { target in
            output.withUnsafeMutableBytes { table in
                for index in 0..<header.frameCount {
                    let start = index * header.frameBytes
                    let count = header.plaintextBytes(ofFrame: index)
                    let plain = UnsafeRawBufferPointer(rebasing: plaintext[start..<start + count])
                    let body = UnsafeMutableRawBufferPointer(rebasing: target[start..<start + count])
                    let compressed = Compression.compress(plain, into: body)
                    if compressed == nil { body.copyMemory(from: plain) }
                    lengths.append(compressed ?? count)
                    let entry = ObjectHeader.tableEntry(storedBytes: lengths[index] + header.cipher.tagBytes, compressed: compressed != nil)
                    table.putLE(entry, at: ObjectHeader.byteCount + 4 * index)
                }
            }
        }
        return lengths
    }
}

// withUnsafeBytes rethrows as `any Error`; these keep the error's type.
extension Array where Element == UInt8 {
    package func withBytes<Value, Failure: Error>(_ body: (UnsafeRawBufferPointer) throws(Failure) -> Value) throws(Failure) -> Value {
        var result: Result<Value, Failure>?
        withUnsafeBytes { buffer in
            do throws(Failure) { result = .success(try body(buffer)) } catch { result = .failure(error) }
        }
        return try result!.get()
    }

    package mutating func withMutableBytes<Value, Failure: Error>(_ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Value) throws(Failure) -> Value {
        var result: Result<Value, Failure>?
        withUnsafeMutableBytes { buffer in
            do throws(Failure) { result = .success(try body(buffer)) } catch { result = .failure(error) }
        }
        return try result!.get()
    }
}
