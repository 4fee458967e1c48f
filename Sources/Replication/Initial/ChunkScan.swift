// Hands out the chunks of a frozen image that may hold data, in order, to several threads. Holes are never read.

package import BlockIO
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
    private struct State {
        /// The next byte that was not handed out or found to be a hole.
        var position: UInt64 = 0
        var nextTicket: UInt64 = 0
    }

    private let state = Mutex(State())

    package init(_ image: any ImageFile, chunkBytes: Int) {
        self.image = image
        self.chunkBytes = UInt64(chunkBytes)
    }

    /// The next chunk, or nil at the end of the image.
    package func next() throws(SystemError) -> Chunk? {
        try state.withLock { state throws(SystemError) in
            guard state.position < image.sizeBytes, let data = try image.nextData(from: state.position), data < image.sizeBytes else {
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
    package func remainingBytes() throws(SystemError) -> UInt64 {
        var sum: UInt64 = 0
        while let chunk = try next() { sum += UInt64(chunk.length) }
        return sum
    }
}
