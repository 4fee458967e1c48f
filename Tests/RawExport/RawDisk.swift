// A file served as a disk, byte for byte: what the mount tests and the comparison of reader threads run on. A write
// that reached the file is its own record, so `holdsRecord` is true for every sequence it handed out.

package import BlockIO
package import FuseExport
import Glibc
import VirtualDisk

package final class RawDisk: ServedDisk {
    package let name: String
    package let sizeBytes: UInt64
    package let isWritable: Bool
    private let file: Descriptor
    /// Told of writes that wait: while a file beside the image, with `.hold` at its name's end, is there.
    private let spareReaders: SpareReaders
    private let hold: String

    package init(path: String, name: String, isWritable: Bool, spareReaders: SpareReaders) throws(SystemError) {
        self.spareReaders = spareReaders
        hold = path + ".hold"
        file = try Descriptor.open(path, isWritable ? O_RDWR : O_RDONLY)
        sizeBytes = try file.status().sizeBytes
        self.name = name
        self.isWritable = isWritable
    }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try file.read(into: buffer, at: offset)
    }

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        if access(hold, F_OK) == 0 {
            spareReaders.note(waits: true)
            while access(hold, F_OK) == 0 { usleep(10_000) }
            spareReaders.note(waits: false)
        }
        try file.write(buffer, at: offset)
        sequenceSlot?.pointee = 1
    }

    package func zero(at offset: UInt64, length: UInt64, mayFree: Bool, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        if mayFree { try file.punchHole(at: offset, length: length) } else { try file.zeroRange(at: offset, length: length) }
        sequenceSlot?.pointee = 1
    }

    package func flush() throws(SystemError) { try file.syncData() }
    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? { try file.nextData(from: offset) }
    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 { try file.nextHole(from: offset) }
    package func holdsRecord(sequence: UInt64) -> Bool { true }
}
