// One write from up to three pieces of memory: a block completed on both sides with what was there before.

import Glibc

extension Descriptor {
    /// Writes `head`, `body` and `tail` one after the other from `offset`; empty pieces are skipped.
    package func write(
        _ head: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer, _ tail: UnsafeRawBufferPointer, at offset: UInt64
    ) throws(SystemError) {
        var pieces = (Self.piece(head), Self.piece(body), Self.piece(tail))
        let total = head.count + body.count + tail.count
        let written = withUnsafeMutablePointer(to: &pieces) { tuple in
            tuple.withMemoryRebound(to: iovec.self, capacity: 3) { pwritev(raw, $0, 3, off_t(truncatingIfNeeded: offset)) }
        }
        if written == total { return }
        // A short or interrupted gathered write is rare: go on piece by piece from the start, which rewrites the same bytes.
        guard written >= 0 || errno == EINTR else {
            throw SystemError(errno: errno, operation: "write \(total) bytes at \(offset)", path: path)
        }
        try write(head, at: offset)
        try write(body, at: offset + UInt64(head.count))
        try write(tail, at: offset + UInt64(head.count + body.count))
    }

    private static func piece(_ bytes: UnsafeRawBufferPointer) -> iovec {
        iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
    }
}
