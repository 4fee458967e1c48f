// Which blocks of a recovery disk's image hold its data: a bit a block, set and never cleared, in memory and in the file `presence`
// (docs/formats/recovery-disk.md). Readers ask without a lock. In memory a bit counts as soon as its block was written; into the file it
// goes by RecoveryImage's flush, after the image was synced.

import BlockIO
package import DiskImage
import Glibc
import Synchronization
import Vault

package final class PresenceMap: @unchecked Sendable {
    // Sendable: words are atomics, set under the lock of `state` only; all else there is guarded by it, the file by RecoveryImage's flush.
    static let sectorBytes = 512
    static let sectorWords = 63
    static let sectorBlocks = sectorWords * 64
    /// What one step of a flush copies at most.
    static let snapshotSectorsMax = 16_384
    private static let magic = Array("FSHARFIL".utf8)

    private struct State {
        /// A bit a sector: differs from the file, or is not known to be synced there.
        var unsynced: [UInt64]
        var unsyncedCount = 0
        var presentBlocks = 0

        mutating func note(_ sector: Int) {
            let bit: UInt64 = 1 << UInt64(sector % 64)
            if unsynced[sector / 64] & bit == 0 { unsyncedCount += 1 }
            unsynced[sector / 64] |= bit
        }
    }

    struct Snapshot {
        let sectors: [(number: Int, bytes: [UInt8])]
    }

    let blockCount: Int
    private let sectorCount: Int
    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let mappedBytes: Int
    private let file: ChangedFile
    private let fill: VaultID
    private let state: Mutex<State>

    /// Makes the file, with no bit set, durably but for its name.
    package static func create(_ path: String, for base: RecoveryBase) throws(ImageError) {
        do throws(SystemError) {
            let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL)
            try file.write(header(base), at: 0)
            try file.sync()
            try file.close()
        } catch { throw .system(error) }
    }

    package init(_ path: String, for base: RecoveryBase, listener: FileChangeListener? = nil) throws(ImageError) {
        blockCount = Self.blocks(base.sizeBytes)
        sectorCount = (blockCount + Self.sectorBlocks - 1) / Self.sectorBlocks
        fill = base.fill
        mappedBytes = sectorCount * Self.sectorWords * 8
        do throws(SystemError) {
            file = ChangedFile(try Descriptor.open(path, O_RDWR), listener: listener)
            words = try Self.reserve(mappedBytes)
        } catch where error.errno == ENOENT {
            throw Self.damaged(path, "file", 0, "none", "the blocks that the image holds", "what was written to the disk cannot be told from what was not")
        } catch { throw .system(error) }
        state = Mutex(State(unsynced: [UInt64](repeating: 0, count: (sectorCount + 63) / 64)))
        do { try load(path, base) } catch let error as ImageError { throw error } catch let error as SystemError { throw .system(error) } catch { throw .system(SystemError(errno: EIO, operation: "read", path: path)) }
    }

    deinit { munmap(words, mappedBytes) }

    private static func blocks(_ sizeBytes: UInt64) -> Int { Int((sizeBytes + UInt64(FormatLimits.blockBytes) - 1) / UInt64(FormatLimits.blockBytes)) }

    /// Zeroed words that take no memory until one is set.
    private static func reserve(_ bytes: Int) throws(SystemError) -> UnsafeMutablePointer<Atomic<UInt64>> {
        let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let memory, memory != MAP_FAILED else { throw SystemError(errno: errno, operation: "reserve \(bytes) bytes of address space", path: "presence map") }
        madvise(memory, bytes, MADV_NOHUGEPAGE)
        return memory.bindMemory(to: Atomic<UInt64>.self, capacity: bytes / 8)
    }

    // MARK: Asking

    package var presentBlocks: Int { state.withLock { $0.presentBlocks } }

    func isPresent(_ block: Int) -> Bool { words[block / 64].load(ordering: .acquiring) & 1 << UInt64(block % 64) != 0 }

    /// The end of the run of blocks from `block` on, before `end`, that are all present or all absent.
    func runEnd(from block: Int, before end: Int) -> Int {
        let flip: UInt64 = isPresent(block) ? .max : 0
        var at = block
        while at < end {
            // A one for each block of the word that is unlike the first, none below `at`.
            let unlike = (words[at / 64].load(ordering: .acquiring) ^ flip) & .max << UInt64(at % 64)
            if unlike != 0 { return min(at / 64 * 64 + unlike.trailingZeroBitCount, end) }
            at = (at / 64 + 1) * 64
        }
        return end
    }

    /// Runs of `blocks`, in order, as they are while they are asked for.
    func forEachRun(_ blocks: Range<Int>, _ body: (Range<Int>, _ isPresent: Bool) throws(SystemError) -> Void) throws(SystemError) {
        var block = blocks.lowerBound
        while block < blocks.upperBound {
            let isPresent = isPresent(block)
            let end = runEnd(from: block, before: blocks.upperBound)
            try body(block..<end, isPresent)
            block = end
        }
    }

    // MARK: Setting

    /// The blocks' data is in the image, durable or not. The caller holds the lock of placing.
    func mark(_ blocks: Range<Int>) {
        guard !blocks.isEmpty else { return }
        state.withLock { state in
            var block = blocks.lowerBound
            while block < blocks.upperBound {
                let end = min((block / 64 + 1) * 64, blocks.upperBound)
                let mask = (.max << UInt64(block % 64)) & (UInt64.max >> UInt64((64 - end % 64) % 64))
                let word = words[block / 64].load(ordering: .relaxed)
                if word | mask != word {
                    state.presentBlocks += (mask & ~word).nonzeroBitCount
                    words[block / 64].store(word | mask, ordering: .releasing)
                    state.note(block / Self.sectorBlocks)
                }
                block = end
            }
        }
    }

    // MARK: The file

    /// How many sectors a flush has to write.
    var unsyncedSectors: Int { state.withLock { $0.unsyncedCount } }

    /// Sectors as they are now, which count as written from here on.
    func takeUnsynced() -> Snapshot {
        state.withLock { state in
            var taken: [(Int, [UInt8])] = []
            for index in state.unsynced.indices where taken.count < Self.snapshotSectorsMax {
                while state.unsynced[index] != 0, taken.count < Self.snapshotSectorsMax {
                    let sector = index * 64 + state.unsynced[index].trailingZeroBitCount
                    state.unsynced[index] &= state.unsynced[index] - 1
                    state.unsyncedCount -= 1
                    taken.append((sector, encoded(sector)))
                }
            }
            return Snapshot(sectors: taken)
        }
    }

    /// The image was synced since the snapshot was taken.
    func write(_ snapshot: Snapshot) throws(SystemError) {
        for sector in snapshot.sectors { try file.write(sector.bytes, at: UInt64(Self.sectorBytes * (1 + sector.number))) }
    }

    func sync() throws(SystemError) { try file.sync() }

    private func encoded(_ sector: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.sectorBytes)
        bytes.withUnsafeMutableBytes { buffer in
            for word in 0..<Self.sectorWords { buffer.putLE(words[sector * Self.sectorWords + word].load(ordering: .relaxed), at: word * 8) }
            buffer.putLE(checksum(sector, UnsafeRawBufferPointer(buffer)), at: Self.sectorBytes - 4)
        }
        return bytes
    }

    private func checksum(_ sector: Int, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
        let number = (0..<8).map { UInt8(truncatingIfNeeded: sector >> (8 * $0)) }
        let seed = (fill.bytes + number).withUnsafeBytes { crc32c($0) }
        return crc32c(UnsafeRawBufferPointer(rebasing: bytes[..<(Self.sectorBytes - 4)]), seed: seed)
    }

    private static func header(_ base: RecoveryBase) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: sectorBytes)
        bytes.replaceSubrange(0..<8, with: magic)
        bytes.replaceSubrange(16..<32, with: base.fill.bytes)
        bytes.withUnsafeMutableBytes { buffer in
            buffer.putLE(UInt32(1), at: 8)
            buffer.putLE(UInt64(blocks(base.sizeBytes)), at: 32)
            buffer.putLE(crc32c(UnsafeRawBufferPointer(rebasing: buffer[..<(sectorBytes - 4)])), at: sectorBytes - 4)
        }
        return bytes
    }

    private func load(_ path: String, _ base: RecoveryBase) throws {
        let size = try file.descriptor.status().sizeBytes
        guard size >= UInt64(Self.sectorBytes), try file.descriptor.read(count: Self.sectorBytes, at: 0) == Self.header(base) else {
            throw Self.damaged(path, "header", 0, "another one", "that of the fill \(base.fill)", "the file is not that of this recovery disk, or it is damaged")
        }
        let limit = UInt64(Self.sectorBytes) * UInt64(1 + sectorCount)
        guard size <= limit else { throw Self.damaged(path, "file size", 0, "\(size)", "at most \(limit)", "the file is not that of a disk of this size") }
        var position = UInt64(Self.sectorBytes)
        while let data = try file.descriptor.nextData(from: position), data < size {
            let end = min(try file.descriptor.nextHole(from: data), size)
            position = max(position, data / UInt64(Self.sectorBytes) * UInt64(Self.sectorBytes))
            while position < end {
                let count = Int(min(UInt64(1 << 20), (size - position) / UInt64(Self.sectorBytes) * UInt64(Self.sectorBytes)))
                guard count > 0 else { throw Self.damaged(path, "file size", size, "\(size)", "whole sectors", "the file was cut") }
                try file.descriptor.read(count: count, at: position).withUnsafeBytes { try load($0, from: Int(position) / Self.sectorBytes - 1, path) }
                position += UInt64(count)
            }
        }
    }

    private func load(_ bytes: UnsafeRawBufferPointer, from first: Int, _ path: String) throws(ImageError) {
        for index in 0..<bytes.count / Self.sectorBytes {
            let sector = first + index
            let part = UnsafeRawBufferPointer(rebasing: bytes[index * Self.sectorBytes..<(index + 1) * Self.sectorBytes])
            if part.allSatisfy({ $0 == 0 }) { continue }
            let offset = UInt64(Self.sectorBytes * (1 + sector))
            guard part.getLE(UInt32.self, at: Self.sectorBytes - 4) == checksum(sector, part) else {
                throw Self.damaged(path, "checksum", offset, "another one", "that of the sector", "which blocks the image holds is not known any more")
            }
            state.withLock { state in
                for word in 0..<Self.sectorWords {
                    let value = part.getLE(UInt64.self, at: word * 8)
                    guard value != 0 else { continue }
                    words[sector * Self.sectorWords + word].store(value, ordering: .relaxed)
                    state.presentBlocks += value.nonzeroBitCount
                }
                // Nobody knows whether it was synced.
                state.note(sector)
            }
        }
        let last = sectorCount * Self.sectorBlocks
        for block in blockCount..<last where isPresent(block) {
            throw Self.damaged(path, "bits", 0, "block \(block)", "at most block \(blockCount - 1)", "the disk has no such block")
        }
    }

    private static func damaged(_ path: String, _ field: String, _ offset: UInt64, _ found: String, _ expected: String, _ meaning: String) -> ImageError {
        .damaged(ImageDamage(path: path, field: field, offset: offset, found: found, expected: expected, meaning: meaning))
    }
}
