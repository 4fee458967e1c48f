// fdatasync that fails for good: after one failure the page cache may hold clean pages that never reached the disk,
// so a second fdatasync would succeed and lie. Used by every writable image.

package import BlockIO
import Synchronization

package struct FailStopSync: ~Copyable, Sendable {
    private let failure = Mutex<SystemError?>(nil)

    package init() {}

    /// Throws the failure of an earlier sync; call before each write.
    package func check() throws(SystemError) {
        if let earlier = failure.withLock({ $0 }) { throw earlier }
    }

    package func sync(_ call: () throws(SystemError) -> Void) throws(SystemError) {
        try check()
        do throws(SystemError) {
            try call()
        } catch {
            failure.withLock { $0 = error }
            throw error
        }
    }
}
