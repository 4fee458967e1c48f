// What a mount serves: a protected disk (VirtualDisk) or a recovery point. Called by the FUSE readers, many
// threads at once; every call is synchronous and complete when it returns.

package import BlockIO

package protocol ServedDisk: AnyObject, Sendable {
    /// The directory name under the mount.
    var name: String { get }
    /// A multiple of 512.
    var sizeBytes: UInt64 { get }
    var isWritable: Bool { get }

    /// Fills `buffer` from `offset`; the caller has clipped the range to the disk.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError)

    /// Writes any byte range inside the disk. Acknowledged, not yet durable, on return. As soon as the write has its
    /// place in the log its sequence is stored to `sequenceSlot`, which outlives this process, so that a successor can ask
    /// `holdsRecord` instead of executing the request twice.
    func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError)

    /// Makes the range read as zeros; with `mayFree` its storage may be given back (discard, punch hole).
    func zero(at offset: UInt64, length: UInt64, mayFree: Bool, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError)

    /// All writes acknowledged before the call are durable on return.
    func flush() throws(SystemError)

    /// SEEK_DATA / SEEK_HOLE: nil when no data follows; the end of the disk counts as a hole.
    func nextData(from offset: UInt64) throws(SystemError) -> UInt64?
    func nextHole(from offset: UInt64) throws(SystemError) -> UInt64

    /// Whether a record with this sequence reached the log.
    func holdsRecord(sequence: UInt64) -> Bool
}
