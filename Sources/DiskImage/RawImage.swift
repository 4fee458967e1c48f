// Bytes of the disk at the same bytes of a file or block device: raw images, and the data of a fixed VHD, whose
// footer lies behind `sizeBytes` and is never touched from here.
//
// A raw file whose size is no multiple of 512 is opened read-only at most: the last sector reads as padded with
// zeros, as QEMU shows it.

package import BlockIO
import Glibc

package final class RawImage: ImageFile {
    package let path: String
    package let files: [OpenedFile]
    package let sizeBytes: UInt64
    private let descriptor: Descriptor
    private let reads: ImageReads
    /// Disk bytes that exist in the file; the rest of the last sector is zeros.
    private let storedBytes: UInt64
    private let isBlockDevice: Bool
    private let durability = FailStopSync()

    /// Serves the first `storedBytes` bytes of `descriptor`, padded to whole sectors.
    init(_ descriptor: consuming Descriptor, storedBytes: UInt64, isBlockDevice: Bool) throws(SystemError) {
        reads = try ImageReads(descriptor)
        path = descriptor.path
        files = [try OpenedFile(descriptor)]
        self.descriptor = descriptor
        self.storedBytes = storedBytes
        self.isBlockDevice = isBlockDevice
        sizeBytes = storedBytes.roundedUp(to: 512)
    }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: UInt64(buffer.count), sizeBytes: sizeBytes, path: path)
        let stored = Int(min(UInt64(buffer.count), storedBytes - min(offset, storedBytes)))
        if stored > 0 { try reads.read(descriptor, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<stored]), at: offset) }
        if stored < buffer.count {
            UnsafeMutableRawBufferPointer(rebasing: buffer[stored...]).initializeMemory(as: UInt8.self, repeating: 0)
        }
    }

    package func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool {
        let (end, overflow) = offset.addingReportingOverflow(UInt64(buffer.count))
        // The padding behind the stored bytes is left to `read`.
        guard !overflow, end <= storedBytes else { return false }
        return reads.readIfCached(into: buffer, at: offset)
    }

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: UInt64(buffer.count), sizeBytes: sizeBytes, path: path)
        try durability.check()
        try descriptor.write(buffer, at: offset)
    }

    package func zero(at offset: UInt64, length: UInt64) throws(SystemError) {
        try checkRange(at: offset, length: length, sizeBytes: sizeBytes, path: path)
        guard length > 0 else { return }
        try durability.check()
        try descriptor.makeZero(at: offset, length: length)
    }

    package func flush() throws(SystemError) {
        try durability.sync { () throws(SystemError) in try descriptor.syncData() }
    }

    package func writeBack(at offset: UInt64, length: UInt64) throws(SystemError) {
        try durability.sync { () throws(SystemError) in try descriptor.writeBack(at: offset, length: length) }
    }

    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? {
        guard offset < storedBytes else { return nil }
        if isBlockDevice { return offset }
        guard let data = try descriptor.nextData(from: offset), data < storedBytes else { return nil }
        return data
    }

    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        guard offset < storedBytes else { return sizeBytes }
        if isBlockDevice { return sizeBytes }
        let hole = try descriptor.nextHole(from: offset)
        return hole < storedBytes ? hole : sizeBytes
    }
}

extension Descriptor {
    /// Punches the range; where the filesystem or device cannot, zeroes it, at worst by writing. EBUSY: a block device
    /// that another descriptor (our own lock's) holds with O_EXCL can be written, not punched.
    func makeZero(at offset: UInt64, length: UInt64) throws(SystemError) {
        let cannot: [Int32] = [EOPNOTSUPP, EINVAL, EBUSY]
        do throws(SystemError) {
            return try punchHole(at: offset, length: length)
        } catch where cannot.contains(error.errno) {}
        do throws(SystemError) {
            return try zeroRange(at: offset, length: length)
        } catch where cannot.contains(error.errno) {}
        let zeros = AlignedBuffer(count: Int(min(length, 1 << 20)))
        var done: UInt64 = 0
        while done < length {
            let count = Int(min(UInt64(zeros.bytes.count), length - done))
            try write(UnsafeRawBufferPointer(rebasing: zeros.bytes[..<count]), at: offset + done)
            done += UInt64(count)
        }
    }
}
