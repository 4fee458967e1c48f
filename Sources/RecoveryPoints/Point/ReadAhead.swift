// Serves programs that read a point from one end to the other: two reads in a row make a stream, and from then on the ranges
// behind it are fetched before they are asked for. Used by PointDisk and RecoverySource.

import Synchronization

final class ReadAhead: Sendable {
    private static let bytesMax = 8 << 20
    private static let step = 1 << 20

    private struct Stream {
        /// Where the next read of a sequential reader begins; readers in parallel come a little out of order.
        var expected: UInt64 = .max
        var streak = 0
        var fetchedThrough: UInt64 = 0
    }

    private let stream = Mutex(Stream())

    /// `count` bytes at `offset` are about to be read.
    func note(_ offset: UInt64, _ count: Int, _ reader: PointReader) {
        let end = offset + UInt64(count)
        let ahead: [Range<UInt64>] = stream.withLock { stream in
            let near = stream.expected != .max && offset <= stream.expected + UInt64(Self.step) && offset + UInt64(Self.step) >= stream.expected
            stream.streak = near ? stream.streak + 1 : 0
            stream.expected = near ? max(stream.expected, end) : end
            guard stream.streak >= 2 else {
                stream.fetchedThrough = end
                return []
            }
            let window = UInt64(min(Self.bytesMax, Self.step * stream.streak))
            var steps: [Range<UInt64>] = []
            var start = max(stream.fetchedThrough, end)
            while true {
                // Chunks begin at multiples of a step, and a whole one is one request.
                let next = min((start / UInt64(Self.step) + 1) * UInt64(Self.step), reader.sizeBytes)
                guard start < next, next <= end + window else { break }
                steps.append(start..<next)
                start = next
            }
            stream.fetchedThrough = max(stream.fetchedThrough, start)
            return steps
        }
        for step in ahead { reader.readAhead(at: step.lowerBound, count: step.count) }
    }
}
