// Every typed error of the rooms as the person at the terminal gets it: one place decides exit statuses.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import ObjectStore
import RecoveryPoints
import Site
import VirtualDisk
import Vault

extension Failure {
    /// The failure to print for `error`; nil when ArgumentParser or nobody knows it.
    static func explaining(_ error: any Error) -> Failure? {
        switch error {
        case let failure as Failure: failure
        case let error as SiteError: Failure(error)
        case let error as ImageError: Failure(error)
        case let error as DiskError: Failure(error)
        case let error as LogError: Failure(error)
        case let error as VaultError: Failure(error)
        case let error as RestoreError: Failure(error)
        case let error as FailoverError: Failure(error)
        case let error as FencedFailure:
            explaining(error.cause).map { Failure($0.status, "\($0.message); \(error.meaning)", try: "\($0.remedy); then \(error.remedy)") }
        case let error as RefreshError: Failure(error)
        case let error as StoreError: Failure(error)
        case let error as SystemError: Failure(error)
        default: nil
        }
    }

    init(_ error: RefreshError) {
        switch error {
        case .vault(let error): self.init(error)
        case .image(let error): self.init(error)
        case .log(let error): self.init(error)
        case .system(let error): self.init(error)
        case .stopped: self.init(.failed, "\(error)", try: "the same command again")
        case .refused(_, let remedy): self.init(.failed, "\(error)", try: remedy)
        }
    }

    init(_ error: FailoverError) {
        let status: ExitStatus =
            switch error.code {
            case .notNow: .notNow
            case .notFound: .notFound
            case .inUse: .inUse
            case .prerequisite, .commandFailed, .incomplete: .failed
            }
        self.init(status, error.message, try: error.remedy)
    }

    init(_ error: SiteError) {
        let status: ExitStatus =
            switch error.code {
            case .diskNotFound, .jobNotFound, .machineNotFound, .groupNotFound, .policyNotFound, .targetNotFound, .mountAway: .notFound
            case .noSpace: .notEnoughSpace
            case .lockHeld, .diskBusy, .diskExists, .groupExists, .policyExists, .policyInUse: .inUse
            case .policyWrong: .usage
            default: .failed
            }
        self.init(status, error.message, try: error.remedy)
    }
}
