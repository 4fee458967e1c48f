// Answers to the kernel: one write(2) or writev(2) each. Small ones are built in the slot's reply area, data is sent
// from its payload pages; both are locked memory. An answer nobody waits for any more (ENOENT: answered by a worker
// that died just after, or interrupted) is no error.

import CFuse
import Glibc

struct Reply {
    let device: Int32
    let slot: Slot
    let unique: UInt64

    private static let headerBytes = MemoryLayout<fuse_out_header>.size

    func error(_ code: Int32) {
        if code != ENOSYS { slot.counters.pointee.errors &+= 1 }
        putHeader(bodyBytes: 0, error: -code)
        send(write(device, slot.replyArea, Reply.headerBytes))
    }

    func done() {
        putHeader(bodyBytes: 0, error: 0)
        send(write(device, slot.replyArea, Reply.headerBytes))
    }

    func body<T: BitwiseCopyable>(_ value: T) {
        let count = MemoryLayout<T>.size
        putHeader(bodyBytes: count, error: 0)
        (slot.replyArea + Reply.headerBytes).storeBytes(of: value, as: T.self)
        send(write(device, slot.replyArea, Reply.headerBytes + count))
    }

    /// The first `count` bytes of the payload pages.
    func payload(_ count: Int) {
        putHeader(bodyBytes: count, error: 0)
        var parts = (
            iovec(iov_base: slot.replyArea, iov_len: Reply.headerBytes), iovec(iov_base: slot.payload, iov_len: count)
        )
        withUnsafeBytes(of: &parts) { bytes in
            send(writev(device, bytes.baseAddress!.assumingMemoryBound(to: iovec.self), count == 0 ? 1 : 2))
        }
    }

    private func putHeader(bodyBytes: Int, error: Int32) {
        let header = fuse_out_header(len: UInt32(Reply.headerBytes + bodyBytes), error: error, unique: unique)
        slot.replyArea.storeBytes(of: header, as: fuse_out_header.self)
    }

    private func send(_ result: Int) {
        // ENOENT and ENODEV: the request or the mount is gone. Anything else would be a malformed answer: the kernel
        // refused it and the guest waits for ever, so it is counted and tried as an error instead.
        guard result < 0, errno != ENOENT, errno != ENODEV, errno != ECONNABORTED else { return }
        slot.counters.pointee.errors &+= 1
        putHeader(bodyBytes: 0, error: -EIO)
        _ = write(device, slot.replyArea, Reply.headerBytes)
    }
}
