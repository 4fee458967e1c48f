// A recovery point as a mount serves it: read-only, lazy. What cannot be read is EIO for exactly that range, with one
// line in the log that names the object; never zeros instead.

package import BlockIO
import Glibc
import Synchronization
import VirtualDisk
import Vault

package final class PointDisk: ServedDisk {
    package let name: String
    package var sizeBytes: UInt64 { reader.sizeBytes }
    package var isWritable: Bool { false }

    private let reader: PointReader
    private let log: @Sendable (String) -> Void
    private let ahead = ReadAhead()
    /// Objects already complained about.
    private let reported = Mutex<Set<String>>([])

    package init(name: String, reader: PointReader, log: @escaping @Sendable (String) -> Void) {
        self.name = name
        self.reader = reader
        self.log = log
    }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        ahead.note(offset, buffer.count, reader)
        do throws(VaultError) {
            try reader.read(into: buffer, at: offset)
        } catch {
            throw failed("read \(buffer.count) bytes at \(offset)", error)
        }
    }

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        throw SystemError(errno: EROFS, operation: "write to a recovery point", path: name)
    }

    package func zero(at offset: UInt64, length: UInt64, mayFree: Bool, sequenceSlot: UnsafeMutablePointer<UInt64>?) throws(SystemError) {
        throw SystemError(errno: EROFS, operation: "zero a range of a recovery point", path: name)
    }

    package func flush() throws(SystemError) {}

    package func nextData(from offset: UInt64) throws(SystemError) -> UInt64? {
        do throws(VaultError) {
            return try reader.next(data: true, from: offset)
        } catch {
            throw failed("seek data from \(offset)", error)
        }
    }

    package func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        do throws(VaultError) {
            return try reader.next(data: false, from: offset) ?? sizeBytes
        } catch {
            throw failed("seek a hole from \(offset)", error)
        }
    }

    package func holdsRecord(sequence: UInt64) -> Bool { false }

    private func failed(_ operation: String, _ error: VaultError) -> SystemError {
        let isNew = reported.withLock { $0.count < 1_000 && $0.insert(error.description).inserted }
        if isNew { log("point #\(reader.sequence) of \(name): cannot \(operation): \(error)") }
        return SystemError(errno: EIO, operation: operation, path: "\(name) at #\(reader.sequence)")
    }
}
