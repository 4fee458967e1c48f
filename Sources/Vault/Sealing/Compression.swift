// zstd, one frame at a time. The output size is known beforehand, so hostile input cannot ask for memory. One instance serves one
// object on one thread: a context is half a megabyte, too much to make anew for each frame.

import CZstd

struct Compressor: ~Copyable {
    /// Level 1: zstd is the uploader's whole CPU budget.
    static let usualLevel = 1
    private let context = ZSTD_createCCtx()

    deinit { ZSTD_freeCCtx(context) }

    /// Compresses into `output` and returns the count, or nil when that is not shorter than `input`.
    func compress(_ input: UnsafeRawBufferPointer, level: Int, into output: UnsafeMutableRawBufferPointer) -> Int? {
        guard input.count > 0, let context, !Self.looksRandom(input) else { return nil }
        let count = ZSTD_compressCCtx(context, output.baseAddress, min(output.count, input.count - 1), input.baseAddress, input.count, Int32(level))
        return ZSTD_isError(count) == 0 ? count : nil
    }

    /// Whether a sample, a part of each block, has its bytes spread so evenly that nothing is to be gained: encrypted or compressed
    /// data. Told by the sum of the squared counts, which stands for 7.9 bits of entropy a byte at this bound (8 bits: 69,632).
    private static func looksRandom(_ input: UnsafeRawBufferPointer) -> Bool {
        let blockBytes = 4096
        let partBytes = 256
        guard input.count == 16 * blockBytes else { return false }
        return withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 256) { counts in
            counts.initialize(repeating: 0)
            for block in stride(from: 0, to: input.count, by: blockBytes) {
                for place in block..<block + partBytes { counts[Int(input[place])] += 1 }
            }
            return counts.reduce(0) { $0 + $1 * $1 } < 74_336
        }
    }
}

struct Decompressor: ~Copyable {
    private let context = ZSTD_createDCtx()

    deinit { ZSTD_freeDCtx(context) }

    /// False unless `input` is one zstd frame of exactly `output.count` bytes.
    func decompress(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Bool {
        guard let context, ZSTD_findFrameCompressedSize(input.baseAddress, input.count) == input.count else { return false }
        let count = ZSTD_decompressDCtx(context, output.baseAddress, output.count, input.baseAddress, input.count)
        return ZSTD_isError(count) == 0 && count == output.count
    }
}
