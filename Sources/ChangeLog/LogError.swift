// Why a log cannot be opened or read. Each case names the file and what about it is wrong.

package import BlockIO

package enum LogError: Error, Equatable, CustomStringConvertible {
    case system(SystemError)
    /// The folder holds no change log.
    case notALog(folder: String)
    /// The folder already holds one.
    case alreadyALog(folder: String)
    /// Another process owns the log.
    case inUse(folder: String)
    case unsupportedVersion(path: String, found: String)
    /// A state file, mark or freeze that is not as specified.
    case invalidFile(path: String, reason: String)
    /// A segment of another disk, or of another size.
    case foreignSegment(path: String, reason: String)
    /// Data that was durable is not as it was written.
    case damaged(path: String, segment: UInt64, offset: UInt64, afterSequence: UInt64, reason: String)
    /// The log no longer holds the records after `sequence`: they were recycled.
    case recycled(folder: String, after: UInt64, oldest: UInt64)
    /// A failback is changing the image: it is neither what the log is about nor what the replica holds.
    case underFailback(folder: String)
    case invalidSetting(String)

    package var description: String {
        switch self {
        case .system(let error): "\(error)"
        case .notALog(let folder): "\(folder): no change log is here"
        case .alreadyALog(let folder): "\(folder): a change log is already here"
        case .inUse(let folder): "\(folder): the change log is in use by another process"
        case .unsupportedVersion(let path, let found): "\(path): format version \(found) is not known to this program"
        case .invalidFile(let path, let reason): "\(path): \(reason)"
        case .foreignSegment(let path, let reason): "\(path): not a segment of this log: \(reason)"
        case .damaged(let path, let segment, let offset, let after, let reason):
            "\(path): damaged at byte \(offset) (segment \(segment), after sequence \(after)): \(reason)"
        case .recycled(let folder, let after, let oldest):
            "\(folder): the records after \(after) are no longer in the log, the oldest kept follow \(oldest)"
        case .underFailback(let folder): "\(folder): a failback of the disk was begun, and its image is not whole before that is complete"
        case .invalidSetting(let reason): reason
        }
    }
}

/// Runs `body` with its system errors as log errors.
func asLogError<T: ~Copyable>(_ body: () throws(SystemError) -> T) throws(LogError) -> T {
    do { return try body() } catch { throw .system(error) }
}
