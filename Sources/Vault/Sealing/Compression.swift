// zstd, one frame at a time. The output size is known beforehand, so hostile input cannot ask for memory.

import CZstd

enum Compression {
    /// Level 1: zstd is the uploader's whole CPU budget.
    private static let level: Int32 = 1

    /// Compresses into `output` and returns the count, or nil when that is not shorter than `input`.
    static func compress(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Int? {
        guard input.count > 0 else { return nil }
        let count = ZSTD_compress(output.baseAddress, min(output.count, input.count - 1), input.baseAddress, input.count, level)
        return ZSTD_isError(count) == 0 ? count : nil
    }

    /// False unless `input` is one zstd frame of exactly `output.count` bytes.
    static func decompress(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Bool {
        guard ZSTD_findFrameCompressedSize(input.baseAddress, input.count) == input.count else { return false }
        let count = ZSTD_decompress(output.baseAddress, output.count, input.baseAddress, input.count)
        return ZSTD_isError(count) == 0 && count == output.count
    }
}
