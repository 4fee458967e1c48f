// A compressed cluster unpacked: a raw deflate stream or one zstd frame, with anything behind it up to the end of the sector.

import BlockIO
import CZlib
import CZstd
import Glibc

/// Unpacks `source` into all of `target`; false when it does not give exactly that many bytes.
func unpack(_ source: [UInt8], _ compression: QCOW2Header.Compression, into target: UnsafeMutableRawBufferPointer) -> Bool {
    source.withUnsafeBytes { packed in
        guard let from = packed.baseAddress, let to = target.baseAddress else { return false }
        switch compression {
        case .zlib:
            return farshore_inflate_raw(from.assumingMemoryBound(to: UInt8.self), packed.count, to.assumingMemoryBound(to: UInt8.self), target.count) != 0
        case .zstd:
            let frame = ZSTD_findFrameCompressedSize(from, packed.count)
            guard ZSTD_isError(frame) == 0 else { return false }
            return ZSTD_decompress(to, target.count, from, frame) == target.count
        }
    }
}
