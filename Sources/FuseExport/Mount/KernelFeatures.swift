// The INIT handshake: what the kernel offers, what we take of it. Done once per mount by the supervisor, remembered in
// the session page, shown by `doctor` and `status`.

package import BlockIO
import CFuse
import Glibc

package struct KernelFeatures: Equatable, Sendable {
    package let minorVersion: UInt32
    /// FUSE_INIT flags the kernel offered, and those in use.
    package let offered: UInt64
    package let used: UInt64
    package let maxWriteBytes: UInt32

    /// Asked for where offered. Not among them: the writeback cache (caches twice and reorders before the log) and
    /// io_uring (requests held by a dead worker's ring are never ended).
    static let wanted: UInt64 =
        flag(FUSE_ASYNC_READ) | flag(FUSE_BIG_WRITES) | flag(FUSE_PARALLEL_DIROPS) | flag(FUSE_ASYNC_DIO)
        | flag(FUSE_MAX_PAGES) | flag(FUSE_INIT_EXT) | flag(FUSE_DO_READDIRPLUS) | flag(FUSE_READDIRPLUS_AUTO)
        | flag(FUSE_AUTO_INVAL_DATA) | flag(FUSE_HANDLE_KILLPRIV_V2) | UInt64(FUSE_DIRECT_IO_ALLOW_MMAP)

    static let maxBackground: UInt16 = 64

    private static func flag(_ value: Int32) -> UInt64 { UInt64(UInt32(bitPattern: value)) }

    package var hasParallelDirectWrites: Bool { minorVersion >= 38 }
    package var allowsSharedMappings: Bool { used & UInt64(FUSE_DIRECT_IO_ALLOW_MMAP) != 0 }
    package var offersResend: Bool { offered & UInt64(FUSE_HAS_RESEND) != 0 }
    package var offersIOUring: Bool { offered & UInt64(FUSE_OVER_IO_URING) != 0 }
    package var hasAsyncDirectIO: Bool { used & KernelFeatures.flag(FUSE_ASYNC_DIO) != 0 }

    /// Reads the kernel's INIT from `device` and answers it: requests may be up to `payloadBytes` long.
    package static func negotiate(device: Int32, payloadBytes: Int) throws(SystemError) -> KernelFeatures {
        let buffer = AlignedBuffer(count: Int(FUSE_MIN_READ_BUFFER))
        let memory = buffer.bytes.baseAddress!
        let count = readRequest(device, memory, buffer.bytes.count)
        let headerBytes = MemoryLayout<fuse_in_header>.size
        guard count >= headerBytes + 16 else {
            throw SystemError(errno: count < 0 ? errno : EPROTO, operation: "read the kernel's INIT", path: "/dev/fuse")
        }
        let header = memory.loadUnaligned(as: fuse_in_header.self)
        // The buffer is zeroed, so fields an old kernel does not send read as 0.
        let offer = (memory + headerBytes).loadUnaligned(as: fuse_init_in.self)
        guard header.opcode == FUSE_INIT.rawValue, offer.major == 7, offer.minor >= 31 else {
            throw SystemError(errno: EPROTO, operation: "serve FUSE \(offer.major).\(offer.minor), 7.31 is the oldest supported", path: "/dev/fuse")
        }
        let offered = UInt64(offer.flags) | (offer.flags & UInt32(FUSE_INIT_EXT) != 0 ? UInt64(offer.flags2) << 32 : 0)
        let features = KernelFeatures(
            minorVersion: offer.minor, offered: offered, used: offered & wanted, maxWriteBytes: UInt32(payloadBytes))
        try features.answer(header.unique, readahead: offer.max_readahead, device: device)
        return features
    }

    private static func readRequest(_ device: Int32, _ memory: UnsafeMutableRawPointer, _ count: Int) -> Int {
        while true {
            let result = read(device, memory, count)
            if result >= 0 || (errno != EINTR && errno != EAGAIN && errno != ENOENT) { return result }
        }
    }

    private func answer(_ unique: UInt64, readahead: UInt32, device: Int32) throws(SystemError) {
        var reply = (fuse_out_header(), fuse_init_out())
        reply.0.len = UInt32(MemoryLayout.size(ofValue: reply))
        reply.0.unique = unique
        reply.1.major = 7
        reply.1.minor = UInt32(FUSE_KERNEL_MINOR_VERSION)
        reply.1.max_readahead = readahead
        reply.1.flags = UInt32(truncatingIfNeeded: used)
        reply.1.flags2 = UInt32(truncatingIfNeeded: used >> 32)
        reply.1.max_background = KernelFeatures.maxBackground
        reply.1.congestion_threshold = KernelFeatures.maxBackground / 4 * 3
        reply.1.max_write = maxWriteBytes
        reply.1.max_pages = UInt16(maxWriteBytes / 4096)
        reply.1.time_gran = 1
        let written = withUnsafeBytes(of: &reply) { write(device, $0.baseAddress, $0.count) }
        guard written == MemoryLayout.size(ofValue: reply) else {
            throw SystemError(errno: errno, operation: "answer the kernel's INIT", path: "/dev/fuse")
        }
    }

    func encode(into bytes: UnsafeMutableRawBufferPointer, at offset: Int) {
        bytes.putLE(UInt64(minorVersion), at: offset)
        bytes.putLE(offered, at: offset + 8)
        bytes.putLE(used, at: offset + 16)
        bytes.putLE(UInt64(maxWriteBytes), at: offset + 24)
    }

    init(decoding bytes: UnsafeRawBufferPointer, at offset: Int) {
        minorVersion = UInt32(truncatingIfNeeded: bytes.getLE(UInt64.self, at: offset))
        offered = bytes.getLE(UInt64.self, at: offset + 8)
        used = bytes.getLE(UInt64.self, at: offset + 16)
        maxWriteBytes = UInt32(truncatingIfNeeded: bytes.getLE(UInt64.self, at: offset + 24))
    }

    init(minorVersion: UInt32, offered: UInt64, used: UInt64, maxWriteBytes: UInt32) {
        self.minorVersion = minorVersion
        self.offered = offered
        self.used = used
        self.maxWriteBytes = maxWriteBytes
    }
}
