// Sealing and opening whole objects or single frames of them (docs/formats/vault.md section 4).
// Nothing is handed out before its tag was verified.

import BlockIO
import Glibc

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
        let decompressor = Decompressor()
        var position = 0
        for index in range {
            let part = UnsafeRawBufferPointer(rebasing: stored[(table.offsets[index] - base)..<(table.offsets[index + 1] - base)])
            let plain = header.plaintextBytes(ofFrame: index)
            let target = UnsafeMutableRawBufferPointer(rebasing: output[position..<position + plain])
            let opened = table.compressed[index] ? Self.expand(part, cipher, decompressor, index, header.cipher, &scratch, target) : cipher.open(part, frame: UInt32(index), into: target)
            guard opened else { throw .damaged(object: place.key, reason: "frame \(index) is not what was sealed at this place") }
            position += plain
        }
    }

    private static func expand(
        _ stored: UnsafeRawBufferPointer, _ cipher: borrowing FrameCipher, _ decompressor: borrowing Decompressor, _ index: Int, _ kind: VaultCipher,
        _ scratch: inout [UInt8], _ target: UnsafeMutableRawBufferPointer
    ) -> Bool {
        scratch.withUnsafeMutableBytes { buffer in
            guard cipher.open(stored, frame: UInt32(index), into: buffer) else { return false }
            return decompressor.decompress(UnsafeRawBufferPointer(rebasing: buffer[..<(stored.count - kind.tagBytes)]), into: target)
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
        let plaintext = try [UInt8].filled(object.header.plaintextBytes) { output throws(VaultError) in
            try bytes.withBytes { buffer throws(VaultError) in
                let stored = UnsafeRawBufferPointer(rebasing: buffer[object.header.tableEnd...])
                try object.open(0..<object.header.frameCount, stored: stored, into: output)
            }
        }
        return (object, plaintext)
    }

    /// Seals `plaintext` for `place` with the newest generation of `keys`, or the one given. `level` is zstd's; nil compresses nothing.
    package static func seal(
        _ plaintext: UnsafeRawBufferPointer, place: ObjectPlace, keys: VaultKeys, generation: UInt32, level: Int? = Compressor.usualLevel
    ) throws(VaultError) -> [UInt8] {
        guard plaintext.count <= place.kind.plaintextBytesMax else {
            throw .refused("\(place.key) would hold \(plaintext.count) bytes, the limit is \(place.kind.plaintextBytesMax)")
        }
        let encrypted = keys.cipher == .aes256GCM
        let header = ObjectHeader(
            kind: place.kind, cipher: keys.cipher, keyGeneration: encrypted ? generation : 0,
            salt: encrypted ? Randomness.bytes(32) : [UInt8](repeating: 0, count: 32), plaintextBytes: plaintext.count)
        let key = try keys.objectKey(header, object: place.key)
        return assemble(plaintext, header, place, keys, key, level)
    }

    private static func assemble(
        _ plaintext: UnsafeRawBufferPointer, _ header: ObjectHeader, _ place: ObjectPlace, _ keys: VaultKeys, _ key: [UInt8], _ level: Int?
    ) -> [UInt8] {
        let bytesMax = header.tableEnd + plaintext.count + header.frameCount * header.cipher.tagBytes
        return [UInt8](unsafeUninitializedCapacity: bytesMax) { buffer, count in
            let output = UnsafeMutableRawBufferPointer(buffer)
            output.copyBytes(from: header.encoded())
            let lengths = compressFrames(plaintext, header, level, into: output)
            // The tags bind the table, so sealing waits for all lengths; each body is sealed where it lies.
            let associated = keys.associatedData(UnsafeRawBufferPointer(rebasing: output[..<header.tableEnd]), place: place)
            let cipher = FrameCipher(header.cipher, key: key, associated: associated, sealing: true)
            count = header.tableEnd
            for (index, length) in lengths.enumerated() {
                let frame = UnsafeMutableRawBufferPointer(rebasing: output[count..<count + length + header.cipher.tagBytes])
                cipher.seal(UnsafeRawBufferPointer(rebasing: frame[..<length]), frame: UInt32(index), into: frame)
                count += frame.count
            }
        }
    }

    /// Puts the table and behind it the bodies into `output`, each with room for its tag; returns the bodies' lengths.
    private static func compressFrames(
        _ plaintext: UnsafeRawBufferPointer, _ header: ObjectHeader, _ level: Int?, into output: UnsafeMutableRawBufferPointer
    ) -> [Int] {
        let compressor = Compressor()
        var lengths: [Int] = []
        var end = header.tableEnd
        for index in 0..<header.frameCount {
            let start = index * header.frameBytes
            let plain = UnsafeRawBufferPointer(rebasing: plaintext[start..<start + header.plaintextBytes(ofFrame: index)])
            let body = UnsafeMutableRawBufferPointer(rebasing: output[end..<end + plain.count])
            let compressed = if let level { compressor.compress(plain, level: level, into: body) } else { Int?.none }
            if compressed == nil { body.copyMemory(from: plain) }
            let stored = (compressed ?? plain.count) + header.cipher.tagBytes
            output.putLE(ObjectHeader.tableEntry(storedBytes: stored, compressed: compressed != nil), at: ObjectHeader.byteCount + 4 * index)
            lengths.append(stored - header.cipher.tagBytes)
            end += stored
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

    /// An array of `count` bytes, all of which `body` writes unless it throws. Large arrays are not filled with zeros first: those are
    /// a page fault for each page, twice.
    package static func filled<Failure: Error>(_ count: Int, _ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Void) throws(Failure) -> [UInt8] {
        var result: Result<Void, Failure>?
        let array = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            let output = UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[..<count])
            do throws(Failure) {
                result = .success(try body(output))
                initialized = count
            } catch {
                result = .failure(error)
            }
        }
        try result!.get()
        return array
    }

    /// As `==`, which compares one byte after another: that took an eighth of an uploader's time.
    func hasSameBytes(as other: [UInt8]) -> Bool {
        count == other.count && (isEmpty || withUnsafeBytes { own in other.withUnsafeBytes { memcmp(own.baseAddress!, $0.baseAddress!, count) == 0 } })
    }
}
