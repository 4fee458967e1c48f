// Why an attempt to replicate a disk failed, sorted by what happens next: retried by the schedule, stopped until an
// administrator mended it, or fenced. The cause is kept, so the command line can choose its exit status.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import ObjectStore
import Site
import Vault

package struct AttemptFailure: Error, CustomStringConvertible {
    package let outcome: UploadCycle.Outcome
    package let message: String
    package let remedy: String
    package let cause: any Error

    package init(_ outcome: UploadCycle.Outcome, _ message: String, remedy: String, cause: any Error) {
        self.outcome = outcome
        self.message = message
        self.remedy = remedy
        self.cause = cause
    }

    package var description: String { message }

    /// Someone has to look, though it is tried again.
    package var isAlarm: Bool {
        switch cause {
        case VaultError.unknownKey, VaultError.notKept, VaultError.noVault, VaultError.damaged, VaultError.missing, VaultError.rolledBack: true
        // Storage of this host: it may be one bad read, and must be looked at.
        case let error as SystemError: error.errno == EIO || outcome != .mayPass
        case VaultError.memory(let error): error.errno == EIO || outcome != .mayPass
        case let error as SiteError: error.code == .refused || outcome != .mayPass
        case ImageError.damaged, ImageError.unsupported, ImageError.brokenChain: true
        default: outcome != .mayPass
        }
    }

    /// Sorts an error of any room. What nobody knows is taken for lasting: retrying it would hide it.
    package init(_ error: any Error) {
        switch error {
        case let failure as AttemptFailure: self = failure
        case let error as VaultError: self = Self.of(error)
        case let error as StoreError: self = Self.of(error, cause: error)
        case let error as SiteError: self = Self.of(error)
        case let error as LogError: self = Self.of(error)
        case let error as ImageError: self = Self.of(error)
        case let error as SystemError: self = Self.of(error, cause: error)
        default: self.init(.forGood, "\(error)", remedy: "farshore doctor", cause: error)
        }
    }

    private static func of(_ error: VaultError) -> AttemptFailure {
        switch error {
        case .store(let store): return of(store, cause: error)
        case .memory(let system):
            let failure = of(system, cause: error)
            return AttemptFailure(failure.outcome, "\(error)", remedy: failure.remedy, cause: error)
        case .fenced:
            return AttemptFailure(.fenced, "\(error)", remedy: "another uploader took this disk over; stop this one, or start it again to take the disk back", cause: error)
        case .unknownKey: return AttemptFailure(.mayPass, "\(error)", remedy: "the vault's key was rotated: bring the new key file to where the disk's is; it is tried again, at once after farshore resume DISK", cause: error)
        case .wrongKey: return AttemptFailure(.forGood, "\(error)", remedy: "bring the vault's own key file or passphrase to where the disk's is, then farshore resume DISK", cause: error)
        case .noKeyFile(let path): return AttemptFailure(.forGood, "\(error)", remedy: "bring \(path) back from a copy, then farshore resume DISK", cause: error)
        case .missing where error.lacksKeys:
            return AttemptFailure(.mayPass, "\(error)", remedy: "bring the vault's keys/ back from a copy of it; until then only its recovery kit opens it", cause: error)
        case .damaged, .missing, .rolledBack:
            // As the target shows it now: an answer may have been changed on its way, or come from a part of the target that is behind.
            return AttemptFailure(.mayPass, "\(error)", remedy: "farshore vault check URL names all that is damaged", cause: error)
        case .notFound:
            return AttemptFailure(.forGood, "\(error)", remedy: "unprotect the disk, and protect it again, which sends it anew", cause: error)
        case .noVault:
            return AttemptFailure(.mayPass, "\(error)", remedy: "mount the filesystem of the vault, or bring it back", cause: error)
        case .notKept:
            return AttemptFailure(.mayPass, "\(error)", remedy: "ask who operates the target: it lost or changed what it had acknowledged", cause: error)
        case .conflict: return AttemptFailure(.mayPass, "\(error)", remedy: "it is tried again by itself; if it stays so: farshore vault check URL", cause: error)
        case .refused(_, let remedy):
            return AttemptFailure(.forGood, "\(error)", remedy: remedy ?? "mend what the message names, then farshore resume DISK; farshore vault check URL shows whether the vault is whole", cause: error)
        default:
            return AttemptFailure(error.isRecoverable ? .mayPass : .forGood, "\(error)", remedy: "farshore vault check URL", cause: error)
        }
    }

    private static func of(_ error: StoreError, cause: any Error) -> AttemptFailure {
        // A directory that is not mounted yet after a start looks like one that is gone.
        let outcome = error.isRecoverable || error.code == .bucketMissing ? UploadCycle.Outcome.mayPass : .forGood
        return AttemptFailure(outcome, error.message, remedy: outcome == .forGood ? "\(error.remedy), then farshore resume DISK" : error.remedy, cause: cause)
    }

    private static func of(_ error: SiteError) -> AttemptFailure {
        // Refused: the mount could not do it, for a reason that is mended there.
        let mayPass: Set<SiteError.Code> = [.mountAway, .controlTimedOut, .diskBusy, .lockHeld, .catalogueFailed, .noSpace, .refused, .system]
        return AttemptFailure(mayPass.contains(error.code) ? .mayPass : .forGood, error.message, remedy: error.remedy, cause: error)
    }

    private static func of(_ error: LogError) -> AttemptFailure {
        switch error {
        case .inUse: return AttemptFailure(.mayPass, "\(error)", remedy: "it is retried when the other process is done", cause: error)
        case .system(let system): return of(system, cause: system)
        // The owner may recycle a segment that the vault has while it is listed; only what stays so is a loss.
        case .recycled: return AttemptFailure(.mayPass, "\(error)", remedy: "it is tried again; if it stays, docs/operating/recovering.md says what to do", cause: error)
        case .underFailback:
            return AttemptFailure(.forGood, "\(error); nothing is replicated from here until then", remedy: "farshore failback status UNIT says how far it is", cause: error)
        default: return AttemptFailure(.forGood, "\(error)", remedy: "docs/operating/recovering.md says what a damaged log means", cause: error)
        }
    }

    /// Tried again: what the administrator mends at an image no command of ours sees.
    private static func of(_ error: ImageError) -> AttemptFailure {
        switch error {
        case .inUse: return AttemptFailure(.mayPass, "\(error)", remedy: "stop the program that uses the image", cause: error)
        case .system(let system): return of(system, cause: system)
        case .unsupported(_, _, let remedy): return AttemptFailure(.mayPass, "\(error)", remedy: remedy.shown, cause: error)
        case .brokenChain(let broken): return AttemptFailure(.mayPass, "\(error)", remedy: broken.remedy, cause: error)
        case .damaged: return AttemptFailure(.mayPass, "\(error)", remedy: "farshore image check FILE", cause: error)
        }
    }

    private static func of(_ error: SystemError, cause: any Error) -> AttemptFailure {
        let mayPass: Set<Int32> = [EIO, ENOSPC, EDQUOT, ENOMEM, EMFILE, ENFILE, EAGAIN, EBUSY, ETIMEDOUT]
        guard mayPass.contains(error.errno) else { return AttemptFailure(.forGood, "\(error)", remedy: "mend what the message names, then farshore resume DISK", cause: cause) }
        let remedy = error.errno == ENOSPC || error.errno == EDQUOT ? "make room on that filesystem" : "mend what the message names"
        return AttemptFailure(.mayPass, "\(error)", remedy: remedy, cause: cause)
    }
}
