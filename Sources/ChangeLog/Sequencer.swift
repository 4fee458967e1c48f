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
    private let handover: SequenceHandover?
    private let numbers: Mutex<Numbers>
    /// One thread at a time fetches a block.
    private let fetching = Mutex<Void>(())

    /// `path` is the reservation file of the site; it is made when missing. `bootID`: given by the worker of the mount,
    /// which leaves its next block to its successor (SequenceHandover.swift).
    package init(path: String, handingOnIn bootID: String? = nil) throws(SystemError) {
        self.path = path
        handover = bootID.map { SequenceHandover(path: path + ".next", bootID: $0) }
        let left: (after: UInt64, end: UInt64)? =
            if let handover { try handover.take(reserved: Self.reserved(path)) } else { nil }
        let block = if let left { left } else { try Self.reserveBlock(path, above: 0) }
        numbers = Mutex(Numbers(last: block.after, end: block.end, nextBlock: nil))
    }

    /// The last number given out.
    package var current: UInt64 { numbers.withLock { $0.last } }

    /// Less than half a block is left, and none after it.
    var isShort: Bool { numbers.withLock { $0.nextBlock == nil && $0.end - $0.last < Self.blockCount / 2 } }

    /// A number higher than all before.
    package func next() throws(SystemError) -> UInt64 {
        try numbers.withLock { (numbers) throws(SystemError) in
            if numbers.last == numbers.end { try advance(&numbers) }
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

    /// Reserves the next block: when half of this one is used, or at once where a successor may need it. Called from
    /// background threads.
    package func reserveAhead() throws(SystemError) {
        try fetching.withLock { (_) throws(SystemError) in
            let wanted = numbers.withLock { $0.nextBlock == nil && (handover != nil || $0.end - $0.last < Self.blockCount / 2) }
            guard wanted else { return }
            let block = try Self.reserveBlock(path, above: 0)
            // The note first: once the block is known here it may be in use.
            try handover?.leave(block)
            numbers.withLock { if block.after >= $0.end { $0.nextBlock = block } }
        }
    }

    private func advance(_ numbers: inout Numbers) throws(SystemError) {
        if let next = numbers.nextBlock {
            try handover?.withdraw()
            numbers = Numbers(last: next.after, end: next.end, nextBlock: nil)
        } else {
            let block = try Self.reserveBlock(path, above: numbers.end)
            numbers = Numbers(last: block.after, end: block.end, nextBlock: nil)
        }
    }

    private static func reserved(_ path: String) throws(SystemError) -> UInt64 {
        try parse(DurableFile.read(path, limitBytes: 4096), path)
    }

    /// Takes a block for this process alone: the file holds the highest number any process of the site may use.
    private static func reserveBlock(_ path: String, above least: UInt64) throws(SystemError) -> (after: UInt64, end: UInt64) {
        let lock = try Descriptor.open(path + ".lock", O_RDWR | O_CREAT)
        while try !lock.tryLock(.exclusive) { usleep(1000) }
        let reserved = try reserved(path)
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
