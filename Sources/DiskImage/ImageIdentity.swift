// Tells whether an image was changed while nobody watched: taken at a clean stop, compared at the next start.
// A file's size and change time are exact. A block device has no change time, so blocks are sampled: best effort, a
// small change between the samples is missed.

package import BlockIO
import Glibc

package struct ImageIdentity: Equatable, Sendable {
    package enum Evidence: UInt8, Sendable {
        /// `stamp` is the file's change time in nanoseconds since 1970.
        case changeTime = 1
        /// `stamp` is a hash of sampled blocks.
        case sampledBlocks = 2
    }

    package let evidence: Evidence
    package let sizeBytes: UInt64
    package let stamp: UInt64

    package init(evidence: Evidence, sizeBytes: UInt64, stamp: UInt64) {
        self.evidence = evidence
        self.sizeBytes = sizeBytes
        self.stamp = stamp
    }

    /// The identity now. Take it after the last flush, and write nothing to the image afterwards.
    package init(of path: String) throws(SystemError) {
        let descriptor = try Descriptor.open(path, O_RDONLY)
        let status = try descriptor.status()
        sizeBytes = status.sizeBytes
        if status.kind == .blockDevice {
            evidence = .sampledBlocks
            stamp = try Self.sample(descriptor, sizeBytes: status.sizeBytes)
        } else {
            evidence = .changeTime
            stamp = UInt64(bitPattern: status.changeTimeNanoseconds)
        }
    }

    /// The identity at a clean stop, as it will also be found after a power loss: flushing data leaves the change time
    /// of the file to the kernel, which may write it much later.
    package static func durable(of path: String) throws(SystemError) -> ImageIdentity {
        let descriptor = try Descriptor.open(path, O_RDONLY)
        try descriptor.sync()
        return try ImageIdentity(of: path)
    }

    private static let sampleBytes = 4096
    /// The first 1 MiB and a little: partition tables and the superblocks at the usual places change with any use.
    private static let firstBlocks: UInt64 = 272
    private static let spreadBlocks: UInt64 = 512

    /// FNV-1a over the first blocks and over blocks spread evenly up to the last.
    private static func sample(_ descriptor: borrowing Descriptor, sizeBytes: UInt64) throws(SystemError) -> UInt64 {
        let blocks = sizeBytes / UInt64(sampleBytes)
        let block = AlignedBuffer(count: sampleBytes)
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for sample in 0..<(firstBlocks + spreadBlocks) where blocks > 0 {
            let number = sample < firstBlocks ? min(sample, blocks - 1) : (blocks - 1) * (sample - firstBlocks) / (spreadBlocks - 1)
            try descriptor.read(into: block.bytes, at: number * UInt64(sampleBytes))
            for byte in block.bytes { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
        }
        return hash
    }
}
