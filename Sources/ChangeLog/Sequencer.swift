// The sequence numbers of one process, over all its disks: never reused, not even after a crash or by two processes of
// one site. Numbers come from blocks that are reserved durably in a file before use; the next block is fetched ahead by
// the logs' background threads, so an append waits for it only if they are starved.

package import BlockIO
import Glibc
import Synchronization

package final class Sequencer: Sendable {
    static let blockCount: UInt64 = 1 << 20

    private struct Numbers {
        var last: UInt64
        var end: UInt64
        /// The block after this one, when it is reserved already.
        var nextBlock: (after: UInt64, end: UInt64)?
    }

    private let path: String
    private let numbers: Mutex<Numbers>

    /// `path` is the reservation file of the site; it is made when missing.
    package init(path: String) throws(SystemError) {
        self.path = path
        let block = try Self.reserveBlock(path, above: 0)
        numbers = Mutex(Numbers(last: block.after, end: block.end, nextBlock: nil))
    }

    /// The last number given out.
    package var current: UInt64 { numbers.withLock { $0.last } }

    /// A number higher than all before.
    package func next() throws(SystemError) -> UInt64 {
        try numbers.withLock { (numbers) throws(SystemError) in
            if numbers.last == numbers.end { try Self.advance(&numbers, path) }
            numbers.last += 1
            return numbers.last
        }
    }

    /// From now on all numbers are above `sequence` (the highest found in a log).
    package func raise(above sequence: UInt64) throws(SystemError) {
        try numbers.withLock { (numbers) throws(SystemError) in
            if numbers.last >= sequence { return }
            if sequence < numbers.end {
                numbers.last = sequence
                return
            }
            let block = try Self.reserveBlock(path, above: sequence)
            numbers = Numbers(last: block.after, end: block.end, nextBlock: nil)
        }
    }

    /// Reserves the next block when half of this one is used. Called from background threads.
    package func reserveAhead() throws(SystemError) {
        let wanted = numbers.withLock { $0.nextBlock == nil && $0.end - $0.last < Self.blockCount / 2 }
        guard wanted else { return }
        let block = try Self.reserveBlock(path, above: 0)
        numbers.withLock { numbers in
            // Two threads may have fetched a block each: the higher one wins, the other's numbers are never used.
            if block.after >= numbers.end, block.after > numbers.nextBlock?.after ?? 0 { numbers.nextBlock = block }
        }
    }

    private static func advance(_ numbers: inout Numbers, _ path: String) throws(SystemError) {
        let block: (after: UInt64, end: UInt64) = if let next = numbers.nextBlock { next } else { try reserveBlock(path, above: numbers.end) }
        numbers = Numbers(last: block.after, end: block.end, nextBlock: nil)
    }

    /// Takes a block for this process alone: the file holds the highest number any process of the site may use.
    private static func reserveBlock(_ path: String, above least: UInt64) throws(SystemError) -> (after: UInt64, end: UInt64) {
        let lock = try Descriptor.open(path + ".lock", O_RDWR | O_CREAT)
        while try !lock.tryLock(.exclusive) { usleep(1000) }
        let reserved = try parse(DurableFile.read(path, limitBytes: 4096), path)
        let after = max(reserved, least)
        let end = after.addingReportingOverflow(blockCount)
        guard !end.overflow else { throw SystemError(errno: EOVERFLOW, operation: "reserve sequence numbers above \(after)", path: path) }
        try DurableFile.replace(path, with: Array("farshore sequences 1\nreserved \(end.partialValue)\n".utf8))
        return (after, end.partialValue)
    }

    private static func parse(_ bytes: [UInt8]?, _ path: String) throws(SystemError) -> UInt64 {
        guard let bytes else { return 0 }
        var lines = StateLines(String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)[...])
        guard lines.value("farshore sequences") == "1", let reserved = lines.number("reserved"), lines.isAtEnd else {
            throw SystemError(errno: EINVAL, operation: "understand the sequence reservation", path: path)
        }
        return reserved
    }
}
