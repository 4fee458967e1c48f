// fdatasync that fails for good: after one failure the page cache may hold clean pages that never reached the disk,
// so a second fdatasync would succeed and lie. Used by every writable image.

import BlockIO
import Synchronization

struct FailStopSync: ~Copyable, Sendable {
    private let failure = Mutex<SystemError?>(nil)

    /// Throws the failure of an earlier sync; call before each write.
    func check() throws(SystemError) {
        if let earlier = failure.withLock({ $0 }) { throw earlier }
    }

    func sync(_ call: () throws(SystemError) -> Void) throws(SystemError) {
        try check()
        do throws(SystemError) {
            try call()
        } catch {
            failure.withLock { $0 = error }
            throw error
        }
    }
}
