// A disk image as the rest of the house sees it: a flat run of bytes, whatever lies on the disk. VirtualDisk reads
// its base through this and destages into it; `image convert` and restore copy through it.
//
// Invariants of every conformer: calls on disjoint ranges may come from many threads at once; a range outside the
// disk is EINVAL; a failed read throws and never hands out zeros instead; after a failed flush every write and
// flush throws until the image is opened again, because the kernel may have dropped what it could not write.

package import BlockIO
import Glibc

package protocol ImageFile: AnyObject, Sendable {
    var path: String { get }
    /// All files the disk's bytes come from: the image, and what lies under it, which is only read.
    var files: [OpenedFile] { get }
    /// A multiple of 512.
    var sizeBytes: UInt64 { get }

    /// Fills `buffer` from `offset`.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError)

    /// Fills `buffer` when that needs no wait for the disk. False otherwise: the disk's reads have begun where that is
    /// possible, and `read` is to be called.
    func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool

    /// Writes all of `buffer`; durable only after `flush`.
    func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError)

    /// Makes the range read as zeros; its storage may be given back.
    func zero(at offset: UInt64, length: UInt64) throws(SystemError)

    /// What was written before the call is on stable storage when it returns.
    func flush() throws(SystemError)

    /// Brings what was written to the range to the device now, so that a later `flush` is short. Not durable. A failure
    /// counts as one of `flush`. Images that cannot tell where the range lies do nothing.
    func writeBack(at offset: UInt64, length: UInt64) throws(SystemError)

    /// The first offset at or after `offset` that may hold data; nil when only zeros follow.
    func nextData(from offset: UInt64) throws(SystemError) -> UInt64?

    /// The first offset at or after `offset` that is known to read as zeros; the end of the disk counts as one.
    func nextHole(from offset: UInt64) throws(SystemError) -> UInt64
}

extension ImageFile {
    /// An image that cannot tell has to be waited for.
    package func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool { false }

    /// An image that cannot tell where the range lies leaves it to `flush`.
    package func writeBack(at offset: UInt64, length: UInt64) throws(SystemError) {}
}

package enum ImageAccess: Equatable, Sendable {
    case readOnly
    case readWrite

    var flags: Int32 { self == .readOnly ? O_RDONLY : O_RDWR }
}
