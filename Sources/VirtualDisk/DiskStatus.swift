// What a protected disk says of itself: for `status`, the control socket and health.

package import ChangeLog
import Synchronization

package enum DiskHealth: String, Sendable {
    case normal
    case warning
    case critical
}

package struct DiskStatus: Equatable, Sendable {
    package var name: String
    package var sizeBytes: UInt64
    package var log: LogStatus
    package var frozenSequence: UInt64?
    package var health: DiskHealth
    /// What is wrong and since it matters what follows from it; empty when health is normal.
    package var reason: String
}

extension VirtualDisk {
    package var status: DiskStatus {
        let log = self.log.status
        let (health, reason) = judge(log)
        return DiskStatus(name: name, sizeBytes: sizeBytes, log: log, frozenSequence: frozenSequence, health: health, reason: reason)
    }

    private func judge(_ log: LogStatus) -> (DiskHealth, String) {
        if let failure = log.failure { return (.critical, "the change log failed, writes are refused until the mount is restarted: \(failure)") }
        if let starvation = log.starvation { return (.critical, "writes get ENOSPC: \(starvation)") }
        switch destage.state.withLock({ $0.error }) {
        case .log(let error): return (.critical, "the log cannot be merged into the image: \(error)")
        case let error?: return (.warning, "the log cannot be merged into the image, it is tried again: \(error)")
        case nil: break
        }
        if log.fileBytes >= log.budgetBytes, log.undestagedBytes > log.budgetBytes / 2 {
            return (.warning, "more than half of the log budget is not merged into the image yet")
        }
        return (.normal, "")
    }
}
