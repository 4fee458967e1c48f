// A recovery point as a mount serves it: read-only, lazy. What cannot be read is EIO for exactly that range, with one
// line in the log that names the object; never zeros instead.

package import BlockIO
import Glibc
import Synchronization
import VirtualDisk
import Vault

package final class PointDisk: ServedDisk {
    /// Sequential readers are served this far ahead.
    private static let readAheadBytesMax = 8 << 20
    private static let readAheadStep = 1 << 20

    private struct Stream {
        /// Where the next read of a sequential reader begins; readers in parallel come a little out of order.
        var expected: UInt64 = .max
        var streak = 0
        var fetchedThrough: UInt64 = 0
    }

    package let name: String
    package var sizeBytes: UInt64 { reader.sizeBytes }
    package var isWritable: Bool { false }

    private let reader: PointReader
    private let log: @Sendable (String) -> Void
    private let stream = Mutex(Stream())
    /// Objects already complained about.
    private let reported = Mutex<Set<String>>([])

    package init(name: String, reader: PointReader, log: @escaping @Sendable (String) -> Void) {
        self.name = name
        self.reader = reader
        self.log = log
    }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        noteRead(at: offset, count: buffer.count)
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

    // MARK: Read-ahead

    /// Two reads in a row make a stream; from then on the ranges behind it are fetched before they are asked for.
    private func noteRead(at offset: UInt64, count: Int) {
        let end = offset + UInt64(count)
        let ahead: [UInt64] = stream.withLock { stream in
            let near = stream.expected != .max && offset <= stream.expected + UInt64(Self.readAheadStep) && offset + UInt64(Self.readAheadStep) >= stream.expected
            stream.streak = near ? stream.streak + 1 : 0
            stream.expected = near ? max(stream.expected, end) : end
            guard stream.streak >= 2 else {
                stream.fetchedThrough = end
                return []
            }
            let window = UInt64(min(Self.readAheadBytesMax, Self.readAheadStep * stream.streak))
            var starts: [UInt64] = []
            var start = max(stream.fetchedThrough, end)
            while start + UInt64(Self.readAheadStep) <= min(end + window, sizeBytes) {
                starts.append(start)
                start += UInt64(Self.readAheadStep)
            }
            stream.fetchedThrough = max(stream.fetchedThrough, start)
            return starts
        }
        for start in ahead { reader.readAhead(at: start, count: Self.readAheadStep) }
    }

    private func failed(_ operation: String, _ error: VaultError) -> SystemError {
        let isNew = reported.withLock { $0.count < 1_000 && $0.insert(error.description).inserted }
        if isNew { log("point #\(reader.sequence) of \(name): cannot \(operation): \(error)") }
        return SystemError(errno: EIO, operation: operation, path: "\(name) at #\(reader.sequence)")
    }
}
