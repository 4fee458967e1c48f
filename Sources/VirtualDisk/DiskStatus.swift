// What a protected disk says of itself: for `status`, the control socket and health.

import BlockIO
package import ChangeLog
import DiskImage
import Synchronization

package enum DiskHealth: String, Sendable {
    case normal
    case warning
    case critical
}

/// What a disk cannot do, as far as an administrator has to know of it when it begins and when it ends.
package enum DiskTrouble: String, Sendable {
    case logFailed
    case writesRefused
    case imageFailed
    case notMerging
    case parentLost
    case imageReplaced
}

package struct DiskStatus: Equatable, Sendable {
    package var name: String
    package var sizeBytes: UInt64
    package var log: LogStatus
    package var frozenSequence: UInt64?
    package var health: DiskHealth
    /// What is wrong and since it matters what follows from it; empty when health is normal.
    package var reason: String
    /// What to do about it; empty when health is normal.
    package var remedy: String
    package var trouble: DiskTrouble?
}

extension VirtualDisk {
    package var status: DiskStatus {
        let log = self.log.status
        var status = DiskStatus(
            name: name, sizeBytes: sizeBytes, log: log, frozenSequence: frozenSequence, health: .normal, reason: "", remedy: "", trouble: nil)
        judge(&status)
        return status
    }

    private static let reopening = "mend the storage, then farshore unmount DIR and farshore mount DIR"

    private func judge(_ status: inout DiskStatus) {
        func say(_ health: DiskHealth, _ trouble: DiskTrouble?, _ reason: String, remedy: String) {
            (status.health, status.trouble, status.reason, status.remedy) = (health, trouble, reason, remedy)
        }
        let log = status.log
        let (destageError, imageFailure) = destage.state.withLock { ($0.error, $0.imageFailure) }
        if let failure = log.failure {
            say(.critical, .logFailed, "the change log failed, writes are refused until the mount is restarted: \(failure)", remedy: Self.reopening)
        } else if let starvation = log.starvation {
            let cause = imageFailure.map { "; the image failed, nothing is merged into it until the mount is restarted: \($0)" } ?? ""
            say(.critical, .writesRefused, "writes get ENOSPC: \(starvation)\(cause)", remedy: imageFailure == nil ? remedy(starvation) : Self.reopening)
        } else if let failure = log.appendFailure {
            say(.critical, .writesRefused, "the last write failed: \(failure)", remedy: "mend the volume of \(self.log.folder.path)")
        } else if let imageFailure {
            say(.critical, .imageFailed, "the image failed, nothing is merged into it until the mount is restarted: \(imageFailure)", remedy: Self.reopening)
        } else if case .log(let error)? = destageError {
            say(.critical, .notMerging, "the log cannot be merged into the image: \(error)", remedy: "keep a copy of the log's folder; restore the disk from its vault")
        } else if let image = files.first, !isThere(image) {
            say(.critical, .imageReplaced, "\(image.path) was removed or replaced: the disk works on the file that was opened, and only until the mount ends",
                remedy: "bring back the very file that was there before the mount ends, then farshore accept \(name); or keep a copy of the disk as the mount shows it")
        } else if let lost = files.dropFirst().first(where: { !isThere($0) }) {
            say(.critical, .parentLost, "\(lost.path), which the image is read through, was removed or replaced: the disk works only until the mount ends",
                remedy: "bring back the very file that \(image.path) was made from, before the mount ends, or keep a copy of the disk")
        } else if let destageError {
            say(.warning, .notMerging, "the log cannot be merged into the image, it is tried again: \(destageError)", remedy: "mend or make room on the volume of \(image.path)")
        } else if log.fileBytes >= log.budgetBytes, log.undestagedBytes > log.budgetBytes / 2 {
            say(.warning, nil, "more than half of the log budget is not merged into the image yet", remedy: "fewer writes, or a faster volume for \(image.path)")
        }
    }

    /// What cannot be found out is told when it matters, by the read or the stop that fails.
    private func isThere(_ file: OpenedFile) -> Bool {
        do throws(SystemError) { return try file.isThere() } catch { return true }
    }

    private func remedy(_ starvation: Starvation) -> String {
        switch starvation.cause {
        case .noSegment: "make room on, or mend, the volume of \(log.folder.path)"
        case .notReplicated: "what brings the vault up to date: farshore events \(name) says why it is not; farshore upload, where no uploader runs"
        case .notMerged: "mend or make room on the volume of \(image.path)"
        }
    }
}
