// The one bounds check of every image: overflow-safe, EINVAL when the range leaves the disk.

package import BlockIO
import Glibc

package func checkRange(at offset: UInt64, length: UInt64, sizeBytes: UInt64, path: String) throws(SystemError) {
    let (end, overflow) = offset.addingReportingOverflow(length)
    guard !overflow, end <= sizeBytes else {
        throw SystemError(errno: EINVAL, operation: "touch \(length) bytes at \(offset) of a disk of \(sizeBytes) bytes", path: path)
    }
}

extension FixedWidthInteger where Self: UnsignedInteger {
    /// The next multiple of `unit` (a power of two) at or above; the caller keeps clear of the type's maximum.
    func roundedUp(to unit: Self) -> Self { (self + unit - 1) & ~(unit - 1) }
}
