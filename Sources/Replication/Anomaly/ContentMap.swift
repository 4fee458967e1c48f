// What kind of data each region of a disk holds, as it went by: nothing, ordinary data, or data that looks random, as
// encrypted and compressed data do. Two bits a region, in memory and in a small file of the site, so that a new uploader knows
// what the one before saw. A hint and no more: nothing but the alarm rests on it. Called by initial replication and by deltas, from several threads.

package import BlockIO
import Glibc
import Synchronization

package final class ContentMap: Sendable {
    package enum Kind: UInt8, Sendable { case empty, unknown, ordinary, random }

    /// Of a write, by the regions it touches.
    package struct Change: Equatable, Sendable {
        package var writtenBytes: UInt64 = 0
        /// Written over data that did not look so, by data that looks random.
        package var convertedBytes: UInt64 = 0

        package init(writtenBytes: UInt64 = 0, convertedBytes: UInt64 = 0) {
            self.writtenBytes = writtenBytes
            self.convertedBytes = convertedBytes
        }

        package mutating func add(_ other: Change) {
            writtenBytes += other.writtenBytes
            convertedBytes += other.convertedBytes
        }
    }

    static let regionBytesMin: UInt64 = 16 << 10
    /// 8 MiB of memory: of a disk above 512 GiB regions are larger.
    static let regionsMax: UInt64 = 1 << 25
    private static let magic = Array("FSCONT01".utf8)
    private static let headerBytes = 24

    package let regionBytes: UInt64
    private let regionCount: Int
    private struct State {
        var kinds: [UInt8]
        /// Regions that are not empty.
        var held: Int
        var isChanged = false
    }

    private let state: Mutex<State>

    /// All of it is `kind`.
    package init(diskBytes: UInt64, kind: Kind) {
        regionBytes = Self.regionBytes(diskBytes)
        regionCount = Int((diskBytes + regionBytes - 1) / regionBytes)
        state = Mutex(State(kinds: [UInt8](repeating: kind.rawValue * 0b0101_0101, count: (regionCount + 3) / 4), held: kind == .empty ? 0 : regionCount))
    }

    private static func regionBytes(_ diskBytes: UInt64) -> UInt64 {
        var bytes = regionBytesMin
        while diskBytes / bytes >= regionsMax { bytes *= 2 }
        return bytes
    }

    package var heldBytes: UInt64 { state.withLock { UInt64($0.held) } * regionBytes }

    package func kind(at offset: UInt64) -> Kind { state.withLock { Self.kind(Int(offset / regionBytes), $0) } }

    private static func kind(_ region: Int, _ state: State) -> Kind {
        guard region / 4 < state.kinds.count else { return .unknown }
        return Kind(rawValue: state.kinds[region / 4] >> (region % 4 * 2) & 3) ?? .unknown
    }

    private func set(_ region: Int, _ kind: Kind, _ state: inout State) {
        guard region < regionCount else { return }
        let before = Self.kind(region, state)
        guard before != kind else { return }
        state.held += (kind == .empty ? 0 : 1) - (before == .empty ? 0 : 1)
        state.kinds[region / 4] = state.kinds[region / 4] & ~(3 << (region % 4 * 2)) | kind.rawValue << (region % 4 * 2)
        state.isChanged = true
    }

    /// `bytes` were written at `offset`, or are there.
    @discardableResult
    package func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) -> Change {
        var change = Change(writtenBytes: UInt64(bytes.count))
        var position = 0
        while position < bytes.count {
            let place = offset + UInt64(position)
            let count = min(bytes.count - position, Int(regionBytes - place % regionBytes))
            let kind = Self.kind(of: UnsafeRawBufferPointer(rebasing: bytes[position..<position + count]))
            state.withLock { state in
                let region = Int(place / regionBytes)
                let before = Self.kind(region, state)
                // A few zeros do not empty a region that held more.
                if kind == .empty, UInt64(count) < regionBytes, before != .empty { return }
                if kind == .random, before == .ordinary || before == .unknown { change.convertedBytes += UInt64(count) }
                set(region, kind, &state)
            }
            position += count
        }
        return change
    }

    /// The range reads as zeros. Regions that it covers only a part of keep what they are.
    package func clear(at offset: UInt64, length: UInt64) {
        let (first, end) = ((offset + regionBytes - 1) / regionBytes, min((offset + length) / regionBytes, UInt64(regionCount)))
        guard first < end else { return }
        state.withLock { state in for region in Int(first)..<Int(end) { set(region, .empty, &state) } }
    }

    // MARK: Entropy

    private static let sampleBytes = 1_024
    private static let stretchBytes = 64
    /// Of 1,024 random bytes the estimate is 7.8 bits each, seldom below 7.77; of text, code and tables below 7.
    private static let randomBits = 7.6
    private static let bitsOfCount: [Double] = (0...sampleBytes).map { $0 == 0 ? 0 : Double($0) * log2(Double($0)) }

    /// By the frequencies of bytes in 16 stretches of 64 bytes, evenly spread.
    package static func kind(of bytes: UnsafeRawBufferPointer) -> Kind {
        var counts = InlineArray<256, UInt16>(repeating: 0)
        let stretches = min(sampleBytes / stretchBytes, bytes.count / stretchBytes)
        guard stretches > 0 else { return .unknown }
        let stride = bytes.count / stretches
        for stretch in 0..<stretches {
            for position in stretch * stride..<stretch * stride + stretchBytes { counts[Int(bytes[position])] += 1 }
        }
        let total = stretches * stretchBytes
        if Int(counts[0]) == total { return .empty }
        var sum = 0.0
        for value in 0..<256 { sum += bitsOfCount[Int(counts[value])] }
        let bits = log2(Double(total)) - sum / Double(total)
        // Less than a whole sample cannot show so many bits: it counts as ordinary.
        return total == sampleBytes && bits >= randomBits ? .random : .ordinary
    }

    // MARK: File

    /// Nil where there is none, or none that fits the disk.
    package static func load(_ path: String, diskBytes: UInt64) throws(SystemError) -> ContentMap? {
        let map = ContentMap(diskBytes: diskBytes, kind: .empty)
        let size = headerBytes + (map.regionCount + 3) / 4
        let found: [UInt8]?
        do { found = try DurableFile.read(path, limitBytes: size) } catch {
            guard error.errno == EFBIG else { throw error }
            found = nil
        }
        guard let bytes = found, bytes.count == size, Array(bytes[..<8]) == magic else { return nil }
        let isWhole = bytes.withUnsafeBytes { raw in
            raw.getLE(UInt64.self, at: 8) == diskBytes && raw.getLE(UInt32.self, at: 16) == crc32c(UnsafeRawBufferPointer(rebasing: raw[headerBytes...]))
        }
        guard isWhole else { return nil }
        map.state.withLock { state in
            state.kinds = Array(bytes[headerBytes...])
            state.held = (0..<map.regionCount).count { kind($0, state) != .empty }
        }
        return map
    }

    /// Only when something changed since it was stored last.
    package func store(_ path: String, diskBytes: UInt64) throws(SystemError) {
        let kinds = state.withLock { state -> [UInt8]? in
            defer { state.isChanged = false }
            return state.isChanged ? state.kinds : nil
        }
        guard let kinds else { return }
        var header = [UInt8](repeating: 0, count: Self.headerBytes)
        header.replaceSubrange(..<8, with: Self.magic)
        header.withUnsafeMutableBytes { raw in
            raw.putLE(diskBytes, at: 8)
            raw.putLE(crc32c(kinds), at: 16)
        }
        try DurableFile.replace(path, with: header + kinds)
    }
}
