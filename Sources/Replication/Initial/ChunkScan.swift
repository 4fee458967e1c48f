// Hands out the chunks of a frozen image that may hold data, in order, to several threads. Holes are never read, unless what the image is
// compared with has something there.

import BlockIO
package import DiskImage
import Synchronization

package final class ChunkScan: Sendable {
    package struct Chunk: Equatable, Sendable {
        /// Counts the chunks handed out, from 0.
        package let ticket: UInt64
        /// Place on the disk, in chunks.
        package let number: UInt64
        package let offset: UInt64
        package let length: Int
    }

    private let image: any ImageFile
    private let chunkBytes: UInt64
    private let other: @Sendable (UInt64) throws -> UInt64?
    private struct State {
        /// Where there is data next, of the image and of the other; nil: not known from `position` on.
        var data: UInt64?
        var otherData: UInt64?
        /// The next byte that was not handed out or found to be a hole.
        var position: UInt64 = 0
        var nextTicket: UInt64 = 0
    }

    private let state = Mutex(State())

    package init(_ image: any ImageFile, chunkBytes: Int, other: @escaping @Sendable (UInt64) throws -> UInt64? = { _ in nil }) {
        self.other = other
        self.image = image
        self.chunkBytes = UInt64(chunkBytes)
    }

    /// The next chunk, or nil at the end of the image.
    package func next() throws -> Chunk? {
        try state.withLock { state in
            guard state.position < image.sizeBytes else { return nil }
            // Asked for only once what was found lies behind: of a sparse disk each search may go far.
            if state.data.map({ $0 < state.position }) ?? true { state.data = try image.nextData(from: state.position) ?? .max }
            if state.otherData.map({ $0 < state.position }) ?? true { state.otherData = try other(state.position) ?? .max }
            let data = min(state.data ?? .max, state.otherData ?? .max)
            guard data < image.sizeBytes else {
                state.position = image.sizeBytes
                return nil
            }
            let number = data / chunkBytes
            let offset = number * chunkBytes
            let length = min(chunkBytes, image.sizeBytes - offset)
            defer { state.nextTicket += 1 }
            state.position = offset + length
            return Chunk(ticket: state.nextTicket, number: number, offset: offset, length: Int(length))
        }
    }

    /// Bytes in all chunks from here on. Uses the scan up.
    package func remainingBytes() throws -> UInt64 {
        var sum: UInt64 = 0
        while let chunk = try next() { sum += UInt64(chunk.length) }
        return sum
    }
}
