// Why a protected disk cannot be opened, merged or frozen.

package import BlockIO
package import ChangeLog

package enum DiskError: Error, Equatable, CustomStringConvertible {
    case log(LogError)
    case system(SystemError)
    /// Somebody wrote to the image after the last clean stop: the log no longer fits it.
    case imageChanged(image: String, recordedBytes: UInt64, foundBytes: UInt64)
    /// Its name stands for another file than the one that was opened, or for none.
    case imageReplaced(image: String)
    case sizeMismatch(image: String, imageBytes: UInt64, logBytes: UInt64)

    init(_ error: any Error) {
        switch error {
        case let error as DiskError: self = error
        case LogError.system(let error): self = .system(error)
        case let error as LogError: self = .log(error)
        case let error as SystemError: self = .system(error)
        default: self = .system(SystemError(errno: 0, operation: "go on: \(error)", path: "disk"))
        }
    }

    package var description: String {
        switch self {
        case .log(let error): "\(error)"
        case .system(let error): "\(error)"
        case .imageChanged(let image, let recorded, let found):
            "\(image) was changed since Farshore last used it"
                + (recorded == found ? "" : " (it had \(recorded) bytes, now \(found))")
        case .imageReplaced(let image):
            "\(image) was removed or replaced while Farshore used it: what lies there now is not what was served"
        case .sizeMismatch(let image, let imageBytes, let logBytes):
            "\(image) holds a disk of \(imageBytes) bytes, its change log is of a disk of \(logBytes) bytes"
        }
    }
}
