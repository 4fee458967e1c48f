// How the data of an image file is read. A cold random read fetches only what was asked for, and a program that reads on
// in small steps gets the kernel's readahead. The kernel decides by open file description what it reads ahead, and here
// many threads and guests share one: so there is a second one, and each read goes to the one that suits it. Both
// read the same page cache. Called by RawImage and DynamicVHD; docs/decisions/0502-read-speed.md has the measurements.

import BlockIO
import Glibc
import Synchronization

final class ImageReads: @unchecked Sendable {
    // Sendable: `recentEnds` is allocated once, its elements are atomics.

    /// From this size on a read is worth a request to the disk of its own, also in a stream.
    private static let largeBytes = 64 << 10
    private static let recentMax = 64

    private let withoutReadahead: Descriptor
    /// Where recent small reads ended, each at the place its number says. One that was overwritten costs its stream a
    /// read without readahead, nothing else.
    private let recentEnds: UnsafeMutablePointer<Atomic<UInt64>>

    init(_ file: borrowing Descriptor) throws(SystemError) {
        withoutReadahead = try file.reopened(O_RDONLY)
        withoutReadahead.adviseRandomReads()
        recentEnds = .allocate(capacity: Self.recentMax)
        for place in 0..<Self.recentMax { (recentEnds + place).initialize(to: Atomic(0)) }
    }

    deinit {
        recentEnds.deinitialize(count: Self.recentMax)
        recentEnds.deallocate()
    }

    /// `file` is the descriptor this was made with.
    func read(_ file: borrowing Descriptor, into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        if buffer.count < Self.largeBytes, continuesStream(offset, buffer.count) {
            try file.read(into: buffer, at: offset)
        } else {
            try withoutReadahead.read(into: buffer, at: offset)
        }
    }

    /// Nothing is read ahead: what is asked for here is a part of something larger.
    func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool {
        withoutReadahead.readIfCached(into: buffer, at: offset)
    }

    private func continuesStream(_ offset: UInt64, _ count: Int) -> Bool {
        let continues = offset != 0 && recentEnds[place(offset)].load(ordering: .relaxed) == offset
        let end = offset + UInt64(count)
        recentEnds[place(end)].store(end, ordering: .relaxed)
        return continues
    }

    private func place(_ offset: UInt64) -> Int { Int(truncatingIfNeeded: offset >> 12) & (Self.recentMax - 1) }
}
