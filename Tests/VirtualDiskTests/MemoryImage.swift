// An image in memory that forgets what was not flushed, sector by sector, and fails when told to.

import BlockIO
import DiskImage
import Glibc
import Synchronization

final class MemoryImage: ImageFile {
    struct Contents {
        var volatile: [UInt8]
        var durable: [UInt8]
        var failure: Int32?
    }

    let path = "memory image"
    let sizeBytes: UInt64
    let contents: Mutex<Contents>

    init(_ bytes: [UInt8]) {
        sizeBytes = UInt64(bytes.count)
        contents = Mutex(Contents(volatile: bytes, durable: bytes))
    }

    var bytes: [UInt8] { contents.withLock { $0.volatile } }
    func fail(_ errno: Int32?) { contents.withLock { $0.failure = errno } }

    /// Each sector is as it is or as it was at the last flush.
    func losePower(_ random: inout Seeded) {
        var choices: [Bool] = []
        for _ in 0..<(sizeBytes / 512) { choices.append(random.chance(1, in: 2)) }
        contents.withLock { contents in
            for (sector, isLost) in choices.enumerated() where isLost {
                let range = sector * 512..<(sector + 1) * 512
                contents.volatile.replaceSubrange(range, with: contents.durable[range])
            }
            contents.durable = contents.volatile
        }
    }

    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        contents.withLock { contents in
            contents.volatile.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[Int(offset)..<Int(offset) + buffer.count])) }
        }
    }

    /// Every other block is not at hand.
    func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool {
        guard offset / 4096 % 2 == 0 else { return false }
        contents.withLock { contents in
            contents.volatile.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[Int(offset)..<Int(offset) + buffer.count])) }
        }
        return true
    }

    func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        let failure = contents.withLock { contents in
            if contents.failure == nil { contents.volatile.replaceSubrange(Int(offset)..<Int(offset) + buffer.count, with: buffer) }
            return contents.failure
        }
        if let failure { throw SystemError(errno: failure, operation: "write", path: path) }
    }

    func zero(at offset: UInt64, length: UInt64) throws(SystemError) {
        let zeros = [UInt8](repeating: 0, count: Int(length))
        var failure: SystemError?
        zeros.withUnsafeBytes { bytes in
            do throws(SystemError) { try write(bytes, at: offset) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    func flush() throws(SystemError) {
        let failure = contents.withLock { contents in
            if contents.failure == nil { contents.durable = contents.volatile }
            return contents.failure
        }
        if let failure { throw SystemError(errno: failure, operation: "fdatasync", path: path) }
    }

    func nextData(from offset: UInt64) throws(SystemError) -> UInt64? { next(from: offset) { $0 != 0 } }
    func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 { next(from: offset) { $0 == 0 } ?? sizeBytes }

    /// By sectors: a sector is data when one of its bytes is.
    private func next(from offset: UInt64, _ isWanted: (UInt8) -> Bool) -> UInt64? {
        contents.withLock { contents in
            var position = Int(offset)
            while position < contents.volatile.count {
                let end = position / 512 * 512 + 512
                let isData = contents.volatile[position / 512 * 512..<end].contains { $0 != 0 }
                if isWanted(isData ? 1 : 0) { return UInt64(position) }
                position = end
            }
            return nil
        }
    }
}

/// SplitMix64: the same numbers for the same seed, everywhere.
struct Seeded: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    mutating func chance(_ count: Int, in total: Int) -> Bool { Int.random(in: 0..<total, using: &self) < count }
    mutating func below(_ limit: Int) -> Int { Int.random(in: 0..<limit, using: &self) }
}

extension ImageFile {
    /// None of a test's image.
    var files: [OpenedFile] { [] }
}
