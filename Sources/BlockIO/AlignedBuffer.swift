// Page-aligned memory that is owned once and freed once: what O_DIRECT and /dev/fuse ask for.

import Glibc

package struct AlignedBuffer: ~Copyable, @unchecked Sendable {
    // Sendable: the memory has one owner; who moves the buffer moves the right to use it.
    package let bytes: UnsafeMutableRawBufferPointer

    /// `count` bytes on a 4 KiB boundary, zeroed.
    package init(count: Int) {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: max(count, 1), alignment: 4096)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: count)
        bytes = UnsafeMutableRawBufferPointer(start: memory, count: count)
    }

    deinit { bytes.baseAddress?.deallocate() }
}
